"""Fusing a test set with a trained system, and judging it beside the paper."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import checkpoint, metrics
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.config import setting
from jfusion.data import image
from jfusion.data.h5 import PairFile, check_encoder
from jfusion.data.layout import find_samples
from jfusion.files import write_text
from jfusion.inference import build, check_watch, find_checkpoint, fuse_pair, kind_of, watched
from jfusion.metrics.table import Table, means
from jfusion.papers.compare import beside_published, protocol
from jfusion.report import figures
from jfusion.systems.registry import system_class

if TYPE_CHECKING:
    from jfusion.systems.base import System


@dataclass(frozen=True)
class Options:
    """What `jfusion test` is asked for."""

    weights: str = setting(
        "exp", "a checkpoint (ours or the authors'), a run folder, or a folder of runs: the newest"
    )
    data: str | None = setting(
        None, "the H5 file to fuse; without it, the next four name a data set"
    )
    task: str = setting("IVF", "task of the data set")
    dataset: str = setting("MSRS", "folder name of the data set")
    split: str = setting("test", "its list file without .txt; all: every image")
    root: str = setting("VLFDataset", "the folder that holds Image/ and TextFeature/")
    text: str | None = setting(
        None,
        "features, zeros (without paragraphs), or an encoder: as jfusion preprocess (default: "
        "features; zeros where there are none and the system reads no text)",
    )
    out: str = setting("test_output", "folder for the fused images and the table")
    allow_partial: bool = setting(
        False, "take the tensors of the checkpoint that fit, and print what was skipped"
    )
    metrics: str | None = setting(
        None, "metrics of the table, comma-separated; all: every one (default: the paper's)"
    )
    seed: int | None = setting(None, "fixes what is random (default: the paper's)")
    record: str | None = setting(None, "gif, webp or png: also keep a picture of every step")
    preset: str | None = setting(
        None, "their definitions: film, cddfuse, film-nankai, vifb (default: the paper's)"
    )


@dataclass(frozen=True)
class Result:
    """The table, the per-image values, and the folder that holds everything."""

    table: Table
    per_image: dict[str, dict[str, float]]
    folder: Path


def test(system_name: str | None, settings: dict[str, Any], options: Options) -> Result:
    """Fuses every pair, writes `<out>/<dataset>/Gray` and `Color`, and the table beside the paper's."""
    metrics.columns(options.metrics)  # a typo is told before anything is loaded
    path = find_checkpoint(options.weights, system_name)
    content = checkpoint.load(path)
    cls = system_class(kind_of(content, system_name))
    data = PairFile(options.data or _preprocessed(options, cls))
    if "task" in cls.Config.__dataclass_fields__ and "task" in data.attributes:
        settings = {"task": str(data.attributes["task"]), **settings}
    system = build(path, content, system_name, settings, options.allow_partial)
    check_watch(system, 1, options.record)
    if system.USES_TEXT:
        check_encoder(data, content, f"checkpoint {path}")
    dataset = data.dataset
    folder = Path(options.out) / dataset
    preset = options.preset or system.PRESET
    names = metrics.columns(
        options.metrics or (None if preset != "film" else metrics.PAPER), preset
    )
    per_image = _fuse_all(system, data, folder, (names, preset), options)
    mean, left_out = means(per_image.values())
    table = Table(names)
    table.add(f"ours ({len(data)} pairs)", mean)
    for line in system.hints(str(data.attributes.get("task", options.task))):
        print(line)
    beside_published(table, system.NAME, dataset, system.row_names())
    if len(table.rows) > 1:
        print("\n".join(protocol(system.NAME, dataset, preset, len(data))))
    each = Table(names)
    for name, values in per_image.items():
        each.add(name, values)
    write_text(folder / "table.md", table.markdown(), "the table")
    write_text(folder / "table.csv", table.csv(), "the table")
    write_text(folder / "per_image.csv", each.csv(), "the table")
    for name, count in left_out.items():
        print(
            f"{name} is not defined for {count} of {len(data)} images; its mean is over the others"
        )
    return Result(table, per_image, folder)


def _preprocessed(options: Options, system: type[System]) -> Path:
    chosen = {k: getattr(options, k) for k in ("task", "dataset", "split", "root")}
    text = options.text
    if text is None:
        samples = find_samples(Path(options.root), options.task, options.dataset, options.split)
        there = all(sample.text.is_file() for sample in samples)
        text = "features" if there or system.USES_TEXT else "zeros"
    return preprocess(PreprocessOptions(**chosen, text=text)).path


def _fuse_all(
    system: System, data: PairFile, folder: Path, judged: tuple[list[str], str], options: Options
) -> dict[str, dict[str, float]]:
    from tqdm import tqdm

    names, preset = judged
    per_image, first = {}, []
    for name in tqdm(data.names, desc="fusing", unit="pair"):
        pair = data.read(name)
        with ExitStack() as stack:
            callback = watched(system, pair, stack, options.record, folder / "steps")
            fused = fuse_pair(system, pair, options.seed, callback=callback)[0]
        image.write(folder / "Gray" / f"{name}.png", fused.gray)
        if fused.shown.ndim == 3:
            image.write(folder / "Color" / f"{name}.png", fused.shown)
        h, w = fused.gray.shape  # some `faithful` ones are smaller than their sources
        a, b = (np.round(x[0, :h, :w] * 255) for x in (pair.a, pair.b))
        per_image[name] = metrics.evaluate(fused.gray, a, b, preset, names)
        if len(first) < 4:
            first.append([a.astype(np.uint8), b.astype(np.uint8), fused.shown])
    figures.grid(folder / "grid.png", ["A", "B", "fused"], first)
    return per_image
