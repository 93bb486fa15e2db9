"""Fusing a test set with a trained system, and judging it beside the paper."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import checkpoint, metrics
from jfusion.config import setting, to_dict
from jfusion.data import image
from jfusion.data.h5 import Pair, PairFile, check_encoder
from jfusion.data.layout import find_samples
from jfusion.data.preprocess import Options as PreprocessOptions
from jfusion.data.preprocess import preprocess
from jfusion.errors import UserError
from jfusion.files import write_text
from jfusion.metrics.table import Table, means
from jfusion.papers.compare import beside_published, protocol
from jfusion.report import figures
from jfusion.systems.names import create, system_class
from jfusion.train.experiment import Run

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
    preset: str | None = setting(
        None, "their definitions: film, cddfuse, film-nankai, vifb (default: the paper's)"
    )


@dataclass(frozen=True)
class Result:
    """The table, the per-image values, and the folder that holds everything."""

    table: Table
    per_image: dict[str, dict[str, float]]
    folder: Path


def load_system(
    weights: str | Path, name: str | None, settings: dict[str, Any], partial: bool = False
) -> System:
    """The system of a checkpoint with its weights.

    A checkpoint of ours brings its system and configuration; the authors' need `name` (default
    film). `settings` change the configuration. Raises UserError if anything does not fit.
    """
    path = _checkpoint(weights)
    return _build(path, checkpoint.load(path), name, settings, partial)


def _build(
    path: Path,
    content: dict[str, Any],
    name: str | None,
    settings: dict[str, Any],
    partial: bool,
) -> System:
    own = content.get("system")
    kind = name or own or "film"
    cls = system_class(kind)
    if own and own != kind and own not in cls.TAKES:
        raise UserError(f"checkpoint {path} is of {own}, not of {kind}")
    known = {f.name for f in fields(cls.Config)}
    trained = content.get("config", {})
    if own != kind:  # of another system it takes what both know
        trained = {k: v for k, v in trained.items() if k in known}
    system = create(kind, **{**cls.settings_of(content["model"]), **trained, **settings})
    system.load_any(content["model"], f"checkpoint {path}", partial)
    system.eval()
    return system


def with_names(content: dict[str, Any], name: str, names: str, where: str | Path) -> dict[str, Any]:
    """A checkpoint's content with its model by our names or the authors', after a strict check.

    names: "ours", "official", or a file name: official for `.pth`, otherwise ours.
    """
    system = _build(Path(where), content, name, {}, partial=False)
    model = system.state()
    if names == "official" or (names != "ours" and Path(names).suffix == ".pth"):
        model = {system.OFFICIAL.official(k): v for k, v in model.items()}
    record = {k: v for k, v in content.items() if k not in ("model", "hash")}
    return {"system": name, "config": to_dict(system.config), **record, "model": model}


def _checkpoint(weights: str | Path) -> Path:
    path = Path(weights)
    if path.is_dir():
        path = _newest_checkpoint(path)
        print(f"checkpoint: {path}")
    return path


def _newest_checkpoint(folder: Path) -> Path:
    """The last checkpoint of a run folder, or of the newest run in a folder of runs."""
    runs = [folder] if (folder / "config.json").is_file() else []
    runs = runs or sorted(p.parent for p in folder.glob("*/config.json"))
    if not runs:
        raise UserError(f"{folder} is not a run folder and holds none; name a checkpoint or a run")
    found = Run.open(runs[-1]).checkpoints()
    if not found:
        raise UserError(f"run folder {runs[-1]} holds no checkpoint yet")
    return found[-1]


def test(system_name: str | None, settings: dict[str, Any], options: Options) -> Result:
    """Fuses every pair, writes `<out>/<dataset>/Gray` and `Color`, and the table beside the paper's."""
    metrics.columns(options.metrics)  # a typo is told before anything is loaded
    path = _checkpoint(options.weights)
    content = checkpoint.load(path)
    system = _build(path, content, system_name, settings, options.allow_partial)
    data = PairFile(options.data or _preprocessed(options, system))
    if system.USES_TEXT:
        check_encoder(data, content, f"checkpoint {path}")
    dataset = str(data.attributes.get("dataset", data.path.stem.removesuffix("_test")))
    folder = Path(options.out) / dataset
    preset = options.preset or system.PRESET
    names = metrics.columns(
        options.metrics or (None if preset != "film" else metrics.PAPER), preset
    )
    per_image = _fuse_all(system, data, folder, names, preset)
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


def _preprocessed(options: Options, system: System) -> Path:
    chosen = {k: getattr(options, k) for k in ("task", "dataset", "split", "root")}
    text = options.text
    if text is None:
        samples = find_samples(Path(options.root), options.task, options.dataset, options.split)
        there = all(sample.text.is_file() for sample in samples)
        text = "features" if there or system.USES_TEXT else "zeros"
    return preprocess(PreprocessOptions(**chosen, text=text)).path


def _fuse_all(
    system: System, data: PairFile, folder: Path, names: list[str], preset: str
) -> dict[str, dict[str, float]]:
    from tqdm import tqdm

    per_image, first = {}, []
    for name in tqdm(data.names, desc="fusing", unit="pair"):
        pair = data.read(name)
        fused = fuse_pair(system, pair)
        image.write(folder / "Gray" / f"{name}.png", fused)
        shown = fused
        if pair.chroma is not None:
            shown = image.with_chroma(fused, pair.chroma)
            image.write(folder / "Color" / f"{name}.png", shown)
        a, b = (np.round(x[0] * 255) for x in (pair.a, pair.b))
        per_image[name] = metrics.evaluate(fused, a, b, preset, names)
        if len(first) < 4:
            first.append([a.astype(np.uint8), b.astype(np.uint8), shown])
    figures.grid(folder / "grid.png", ["A", "B", "fused"], first)
    return per_image


def fuse_pair(system: System, pair: Pair) -> np.ndarray:
    """The fused gray image (H, W) uint8 of one pair."""
    from jfusion.runtime import jt

    text = None
    if system.USES_TEXT:
        if pair.text is None:
            raise UserError(
                f"sample {pair.name!r} has no paragraph features, which {system.NAME} needs"
            )
        text = jt.array(pair.text[None])
    with jt.no_grad():
        fused = system.fuse(jt.array(pair.a[None]), jt.array(pair.b[None]), text).numpy()
    return system.to_uint8(fused)[0, 0]
