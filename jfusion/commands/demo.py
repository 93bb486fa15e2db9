"""`jfusion demo`: the whole job on sample photographs, small enough for two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jfusion import inference
from jfusion import weights as shipped
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.config import CommandOptions, setting
from jfusion.data import color, image, sample
from jfusion.data.h5 import Pair, check, summary
from jfusion.data.layout import TASKS, find_samples
from jfusion.errors import counted
from jfusion.metrics.fidelity import truth_psnr
from jfusion.metrics.structure import truth_ssim
from jfusion.metrics.table import Table, means
from jfusion.report import figures

if TYPE_CHECKING:
    from jfusion.commands.test import Result
    from jfusion.runs import Run

FUSED_AT_ONCE = ("IVF", "MFF", "MEF")
# Demo-sized: the paper trains 150 epochs at 1e-5 on hundreds of pairs with tokens of 288x384.
SETTINGS = {
    "token_size": (36, 48),
    "learning_rate": 1e-3,
    "decay_every": 60,
    "epochs": 100,
    "batch_size": 1,
}
CROP = (96, 128)
STEPS = 120
# Where FILM's weights come with jfusion, they are fine-tuned: fewer and smaller steps.
FINE_TUNING = {"learning_rate": 1e-4}
FINE_TUNING_STEPS = 60
NETWORK = ("token_size", "text_dim", "hidden_dim", "image2text_dim", "normalize")
# For DDFM: a small model of the photographs themselves, and few steps from noise to the image.
PRIOR = {"variant": "small", "learning_rate": 5e-4, "batch_size": 8, "epochs": 10_000}
PRIOR_CROP = (64, 64)
RESPACING = "25"


@dataclass(frozen=True)
class Options(CommandOptions):
    """Which demo, and where its files go."""

    out: str = setting("demo", "folder for everything the demo makes", "DIR")
    task: Literal["MFF", "MEF"] = setting("MFF", "MFF: multi-focus; MEF: multi-exposure")
    system: Literal["film", "ddfm"] = setting("film", "ddfm: with a small diffusion model")
    steps: int | None = setting(
        None,
        "training steps (default: 120 for film, 60 where its weights come with jfusion; 1000 for ddfm)",
    )
    text: str = setting("minilm", "encoder of film's paragraphs; zeros: without paragraphs")


def run(options: Options) -> int:
    """Runs the demo, which says what it does."""
    demo(options)
    return 0


def demo(options: Options) -> Path:
    """Fuses sample pairs at once; then preprocesses, trains, tests. Returns the image of the results."""
    out = Path(options.out)
    print("== 1/4 sample pairs from scikit-image's photographs, fused with what comes with jfusion")
    print(f"images: {_fuse_at_once(out)}")
    print(f"== 2/4 preprocess the pairs of {options.task}")
    train_and_test = _film if options.system == "film" else _ddfm
    trained, result = train_and_test(out, options)
    for line in result.notes:
        print(line)
    print(result.table.text())
    fused = [fused for _, _, fused, _ in _pairs(out, options.task, result.folder)]
    _against_truth(out, options.task, fused)
    print(
        "demo-sized: a few images, a few minutes, a small network; not the paper's quality or numbers"
    )
    path = _grid(out, options.task, result.folder)
    print(f"images: {path}\nrun folder: {trained.folder}")
    return path


def _fuse_at_once(out: Path) -> Path:
    """Fuses the test pairs of each task with its default; returns the image of all of them."""
    rows = []
    for task in FUSED_AT_ONCE:
        sample.make(out / "VLFDataset", task)
        chosen = inference.chosen(None, None, task)
        system, fused = inference.load_system(*chosen), []
        for item in find_samples(out / "VLFDataset", task, "Demo", "test"):
            a, b = (image.read_rgb(p) for p in (item.a, item.b))
            pair = Pair.of_images(item.name, a, b, None, TASKS[task].chroma)
            fused.append(inference.fuse_pair(system, pair)[0].image)
            image.write(out / "fused" / task / f"{item.name}.png", fused[-1])
            rows.append([a, b, fused[-1]])
        print(f"{task}: {counted(len(fused), 'pair')} fused by {chosen[0] or chosen[1]}")
        if task != "IVF":  # its infrared image is made up, and the photograph no truth for it
            _against_truth(out, task, fused)
    return figures.grid(out / "fused.png", ["A", "B", "fused"], rows)


def _film(out: Path, options: Options) -> tuple[Run, Result]:
    files = {split: _preprocess(out, options, split) for split in ("train", "test")}
    weights = inference.chosen(None, "film", options.task)[0]
    if weights is None:
        settings, steps, what = SETTINGS, options.steps or STEPS, "train FILM"
    else:
        trained = shipped.card(weights)["settings"]
        network = {k: trained[k] for k in NETWORK if k in trained}
        settings = {**SETTINGS, **network, **FINE_TUNING}
        steps, what = options.steps or FINE_TUNING_STEPS, f"fine-tune {weights}"
    print(
        f"== 3/4 {what}, demo-sized: {counted(steps, 'step')} on crops of {CROP[0]}x{CROP[1]}, tokens of "
        f"{settings['token_size'][0]}x{settings['token_size'][1]}, learning rate {settings['learning_rate']}"
    )
    run = _train("film", settings, files["train"], out, CROP, steps, weights)
    return run, _test(None, {}, run, files["test"], out)


def _ddfm(out: Path, options: Options) -> tuple[Run, Result]:
    file = _preprocess(out, replace(options, text="zeros"), "test")
    steps = options.steps or 1000
    print(
        f"== 3/4 train a small diffusion model of the photographs: {counted(steps, 'step')} on crops of "
        f"{PRIOR_CROP[0]}x{PRIOR_CROP[1]}, learning rate {PRIOR['learning_rate']}"
    )
    photographs = out / "VLFDataset/Image" / options.task / "Demo/TRUTH"
    run = _train("ddfm", PRIOR, photographs, out, PRIOR_CROP, steps)
    return run, _test("ddfm", {"inference_steps": RESPACING}, run, file, out)


def _train(
    system: str,
    settings: dict,
    data: Path,
    out: Path,
    crop: tuple[int, int],
    steps: int,
    weights: str | None = None,
) -> Run:
    from jfusion.train.options import Options as TrainOptions
    from jfusion.train.setup import train

    exp = str(out / "exp")
    options = TrainOptions(
        data=str(data), exp=exp, max_steps=steps, weights=weights, keep_last=1, images=0
    )
    return train(system, {**settings, "crop": crop}, options)


def _test(system: str | None, settings: dict, run: Run, data: Path, out: Path) -> Result:
    from jfusion.commands import test

    print("== 4/4 test")
    options = test.Options(str(run.folder), str(data), out=str(out / "test_output"), system=system)
    return test.test(options, settings)


def _preprocess(out: Path, demo: Options, split: str) -> Path:
    target = out / "VLFDataset_h5" / f"Demo_{demo.task}_{split}.h5"
    options = PreprocessOptions(
        task=demo.task,
        dataset="Demo",
        split=split,
        root=str(out / "VLFDataset"),
        out=str(target),
        size="native",
        text=demo.text,
    )
    path = preprocess(options).path
    print(summary(path, check(path)))
    return path


def _pairs(out: Path, task: str, fused: Path) -> list[tuple[np.ndarray, ...]]:
    """(a, b, fused, truth) in RGB of every test pair."""
    pairs = []
    for item in find_samples(out / "VLFDataset", task, "Demo", "test"):
        truth = item.a.parent.parent / "TRUTH" / item.a.name
        colored = fused / "Color" / f"{item.name}.png"
        written = colored if colored.exists() else fused / "Gray" / f"{item.name}.png"
        pairs.append(tuple(image.read_rgb(p) for p in (item.a, item.b, written, truth)))
    return pairs


def _against_truth(out: Path, task: str, fused: list[np.ndarray]) -> None:
    """Prints PSNR and SSIM to the gray truth, of each source and of the fused image: did fusing help?

    fused: the images of the test pairs in their order, (H, W) or (H, W, 3) uint8.
    """
    rows = {"a": [], "b": [], "fused": []}
    for item, result in zip(
        find_samples(out / "VLFDataset", task, "Demo", "test"), fused, strict=True
    ):
        truth = color.gray(image.read_rgb(item.a.parent.parent / "TRUTH" / item.a.name))
        sources = [color.gray(image.read_rgb(p)) for p in (item.a, item.b)]
        gray = color.gray(result) if result.ndim == 3 else result
        for row, x in zip(rows.values(), (*sources, gray), strict=True):
            row.append({"PSNR": truth_psnr(x, truth), "SSIM": truth_ssim(x, truth)})
    table = Table(["PSNR", "SSIM"])
    for label, values in rows.items():
        table.add(f"{label} against the truth", means(values)[0])
    print(table.text())


def _grid(out: Path, task: str, fused: Path) -> Path:
    """Writes the sources, the fused image and the truth of every test pair next to each other."""
    folders = TASKS[task]
    columns = [folders.folder_a, folders.folder_b, "fused", "truth"]
    rows = [list(row) for row in _pairs(out, task, fused)]
    return figures.grid(out / f"{task}.png", columns, rows)
