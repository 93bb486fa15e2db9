"""`jfusion test`: a test set is fused with a checkpoint and evaluated, next to the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jfusion import inference, metrics, processes
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.config import CommandOptions, setting
from jfusion.data import image
from jfusion.data.depth import recorded_ranges
from jfusion.data.h5 import PairFile, check_encoder, encoder_of
from jfusion.data.layout import find_samples
from jfusion.errors import counted
from jfusion.files import check_output, write_text
from jfusion.fusing import judgment
from jfusion.metrics import PRESETS, plausibility
from jfusion.metrics.plausibility import Plausibility
from jfusion.metrics.table import Table, means
from jfusion.papers import compare
from jfusion.report import figures, page
from jfusion.report.comparison import Comparison
from jfusion.report.table import Block
from jfusion.systems import registry
from jfusion.weights import neutral_text

if TYPE_CHECKING:
    from jfusion.systems.base import System

SHOWN = 4  # pairs in grid.png
CORRELATIONS = ("CC", "SCD")  # a negative of the fused image has good values of most other metrics


@dataclass(frozen=True)
class Options(CommandOptions):
    """The checkpoint, the test set, and the evaluation."""

    weights: str | None = setting(
        None,
        "weights that come with jfusion (jfusion weights), a checkpoint (ours or the authors'), a run "
        "folder, or a folder of runs such as exp: the newest (default: models/<task>.pth or .pkl, where "
        "FILM's authors have theirs, else the best for the task)",
        "PATH",
    )
    data: str | None = setting(
        None, "the H5 file to fuse (default: the next four name a data set)", "FILE"
    )
    task: str = setting("IVF", "task of the data set")
    dataset: str = setting("MSRS", "folder name of the data set", "NAME")
    split: str = setting("test", "its list file without .txt; all: every image", "NAME")
    root: str = setting("VLFDataset", "the folder that holds Image/ and TextFeature/", "DIR")
    text: str | None = setting(
        None,
        "features, zeros (without paragraphs), or an encoder: as jfusion preprocess (default: "
        "features; zeros where there are none and the system or its weights need none)",
    )
    out: str = setting(
        "test_output",
        "folder for the fused images and the table, in it <dataset>; of a run, <run>/<dataset>",
        "DIR",
    )
    allow_partial: bool = inference.allow_partial_setting()
    metrics: str | None = setting(
        None,
        "metrics of the table, comma-separated; all: every one (default: the paper's, and CC and SCD)",
        "EN,SD",
    )
    seed: int | None = setting(None, "fixes what is random (default: the paper's)")
    record: Literal["gif", "webp", "png"] | None = setting(
        None, "also keep an image of every step, of a system that samples"
    )
    report: bool = setting(
        False, "also write report.html: the table, charts, and every pair with a divider"
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()
    preset: str | None = setting(
        None, f"their definitions: {', '.join(PRESETS)} (default: the paper's)", "NAME"
    )
    system: str | None = setting(
        None,
        f"see jfusion systems; needed with the authors' checkpoints and for methods without weights (default: the checkpoint's own, else {registry.DEFAULT})",
        positional=True,
    )


@dataclass(frozen=True)
class Result:
    """The table, the values of each image by name, the folder that holds everything, and remarks."""

    table: Table
    per_image: dict[str, dict[str, float]]
    folder: Path
    notes: list[str]


def system_of(values: Mapping[str, Any]) -> str:
    """The system whose settings are offered: the one named, the checkpoint's own, or the default."""
    return inference.system_of(
        values.get("weights"), values.get("system"), values.get("task", Options.task)
    )


def run(options: Options, settings: Mapping[str, Any]) -> int:
    """Tests, and prints the table."""
    result = test(options, settings)
    for line in result.notes:
        print(line)
    print(result.table.text())
    made = "images, table, report.html" if options.report else "images, table"
    print(f"{made} and grid.png: {result.folder}")
    return 0


def test(options: Options, settings: Mapping[str, Any] | None = None) -> Result:
    """Fuses every pair, and writes `<out>/<dataset>/Gray`, `Color`, and the table; of a run, into
    `<out>/<run>/<dataset>`.

    settings change the configuration of the system. Raises UserError when the checkpoint, the data
    set or an option does not fit.
    """
    metrics.columns(options.metrics)  # before anything is loaded
    check_output(Path(options.out) / "table.md", "the results")
    data = PairFile(options.data) if options.data else None
    task = options.task if data is None else str(data.attributes.get("task", options.task))
    named = options.weights or _published(options.system, task)
    weights, name = inference.chosen(named, options.system, task)
    if (weights, name) != (options.weights, options.system):
        print(
            f"note: {weights or name} is used for {task}; change it with --weights or a system's name"
        )
    path, content = inference.open_checkpoint(weights, name)
    inference.note_other_task(path, task)
    data = data or _preprocessed(options, path, name, content)
    system = inference.from_checkpoint(
        path, content, name, settings, options.allow_partial, data.attributes
    )
    inference.check_sampling_options(system, 1, options.record)
    neutral = system.neutral_text is not None and encoder_of(data)["encoder"] == "zeros"
    if neutral:
        inference.note_neutral_text()
    elif system.reads_text:
        check_encoder(data, content, f"checkpoint {path}")
    preset = options.preset or compare.preset_of(system.name)
    columns = _columns(options, preset)
    folder = Path(options.out) / _of_run(path) / data.dataset
    if options.report:
        page.check(folder / "report.html")
    checkpoint = path, name, settings
    work = _Test(system, checkpoint, data, folder, columns, preset, options, neutral)
    per_image, checks = _test_all(work)
    table, notes = _table(system, data, columns, preset, per_image, options)
    _write_tables(folder, table, per_image)
    result = Result(table, per_image, folder, notes + plausibility.warnings(checks))
    if options.report:
        _write_report(result, system, data, preset, options, settings or {})
    return result


def _of_run(path: Path | None) -> str:
    """The name of the run that a checkpoint is of, so that no run replaces another's results; else ""."""
    run = None if path is None else path.absolute().parent.parent
    return (
        run.name if run and path.parent.name == "model" and (run / "config.json").is_file() else ""
    )


def _published(system: str | None, task: str) -> str | None:
    """The file models/<task>.pth or .pkl, where FILM's authors have their weights; None without it."""
    paths = [Path("models") / f"{task}{ending}" for ending in (".pth", ".pkl")]
    there = [str(path) for path in paths if path.is_file()]
    return there[0] if there and system in (None, registry.DEFAULT) else None


def _columns(options: Options, preset: str) -> list[str]:
    """The metrics of the table: those of the option, or the paper's with the two that show a negative."""
    if options.metrics:
        return metrics.columns(options.metrics, preset)
    columns = metrics.columns(metrics.preset(preset).paper, preset)
    return [*columns, *(name for name in CORRELATIONS if name not in columns)]


def _preprocessed(
    options: Options, path: Path | None, name: str | None, content: Mapping[str, Any]
) -> PairFile:
    """The H5 file of the data set that the options name; it is made if it is not there.

    path, name, content: the checkpoint, the system that was named, and what the checkpoint holds.
    """
    chosen = {k: getattr(options, k) for k in ("task", "dataset", "split", "root")}
    text = options.text
    if text is None:
        samples = find_samples(Path(options.root), options.task, options.dataset, options.split)
        complete = all(sample.text.is_file() for sample in samples)
        config = registry.config_class(inference.resolve_system(content, name))
        needed = hasattr(config, "text_dim") and neutral_text(path) is None
        text = "features" if complete or needed else "zeros"
    reading = {"range": options.range, "max_pixels": options.max_pixels}
    preprocessing = PreprocessOptions(**chosen, **reading, text=text)
    return PairFile(preprocess(preprocessing, recorded_ranges(content)).path)


class _Tested(NamedTuple):
    """The metrics of a pair, its check, and what grid.png shows of it."""

    values: dict[str, float]
    check: Plausibility
    shown: list[np.ndarray] | None


@dataclass
class _Test:
    """Fuses, writes and evaluates pairs of `data`, in any process: another one loads the system anew.

    checkpoint: its path, the system that was named, and the settings. neutral: the pairs are fused with the
    paragraph of the weights, as the file has none.
    """

    system: System | None
    checkpoint: tuple[Path | None, str | None, Mapping[str, Any] | None]
    data: PairFile
    folder: Path
    columns: list[str]
    preset: str
    options: Options
    neutral: bool

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "system": None}

    def __call__(self, names: Iterable[str]) -> Iterator[_Tested]:
        """Tests the pairs of these names."""
        if self.system is None:
            loading = self.options.allow_partial, self.data.attributes
            self.system = inference.load_system(*self.checkpoint, *loading)
        return map(self._tested, names)

    def _tested(self, name: str) -> _Tested:
        pair, system, options = self.data.read(name), self.system, self.options
        if self.neutral:
            pair = replace(pair, text=None)
        with ExitStack() as stack:
            steps = self.folder / "steps"
            callback = inference.step_callback(system, pair, stack, options.record, steps)
            (fused,) = inference.fuse_pair(system, pair, options.seed, callback=callback)
        image.write(self.folder / "Gray" / f"{name}.png", fused.gray)
        if fused.rgb is not None:
            image.write(self.folder / "Color" / f"{name}.png", fused.rgb)
        h, w = fused.gray.shape  # smaller than the sources where the published code drops a border
        a, b = (np.round(x[0, :h, :w] * 255).astype(np.uint8) for x in (pair.a, pair.b))
        values = metrics.evaluate(fused.gray, a, b, self.preset, self.columns)
        shown = [a, b, fused.image] if name in self.data.names[:SHOWN] else None
        return _Tested(values, plausibility.plausibility(fused.gray, a, b), shown)


def _test_all(work: _Test) -> tuple[dict[str, dict[str, float]], dict[str, Plausibility]]:
    """Tests every pair; returns the metrics and the checks by the sample's name."""
    from tqdm import tqdm

    per_image, checks, shown = {}, {}, []
    names = work.data.names
    results = tqdm(processes.share(work, names), "fusing", len(names), unit="pair")
    for name, tested in zip(names, results, strict=True):
        per_image[name], checks[name] = tested.values, tested.check
        shown += [tested.shown] if tested.shown else []
    figures.grid(work.folder / "grid.png", ["A", "B", "fused"], shown)
    return per_image, checks


def _table(
    system: System,
    data: PairFile,
    columns: list[str],
    preset: str,
    per_image: dict[str, dict[str, float]],
    options: Options,
) -> tuple[Table, list[str]]:
    """Our row and the published one, and what a reader of both should know."""
    mean, left_out = means(per_image.values())
    table = Table(columns)
    table.add(f"ours ({counted(len(data), 'pair')})", mean)
    task = str(data.attributes.get("task", options.task))
    notes = compare.notes(system.name, task, system.config)
    names = compare.published_names(system.name, system.config)
    compare.add_published(table, system.name, data.dataset, names, preset)
    if len(table.rows) > 1:
        notes += compare.protocol(system.name, data.dataset, preset, len(data))
    notes += [
        f"{name} is not defined for {count} of {len(data)} images; its mean is over the others"
        for name, count in left_out.items()
    ]
    return table, notes


def _write_tables(folder: Path, table: Table, per_image: dict[str, dict[str, float]]) -> None:
    each = Table(table.columns)
    for name, values in per_image.items():
        each.add(name, values)
    write_text(folder / "table.md", table.markdown(), "the table")
    write_text(folder / "table.csv", table.csv(), "the table")
    write_text(folder / "per_image.csv", each.csv(), "the table")


def _write_report(
    result: Result,
    system: System,
    data: PairFile,
    preset: str,
    options: Options,
    settings: Mapping[str, Any],
) -> None:
    """Writes report.html next to the table."""
    comparison = Comparison(
        preset, result.table.columns, {data.dataset: {system.name: result.per_image}}
    )
    shots = [_shot(data, name, result.folder) for name in data.names]
    chosen = {"system": system.name, "weights": Path(options.weights or "").name}
    chosen |= {"data": data.path.name, "evaluator": preset, "seed": options.seed, **settings}
    title = f"jfusion test: {system.name} on {data.dataset}"
    blocks = [Block("", result.table)]
    page.write(
        result.folder / "report.html", title, blocks, comparison, shots, result.notes, chosen
    )


def _shot(data: PairFile, name: str, folder: Path) -> page.Shot:
    files = [folder / kind / f"{name}.png" for kind in ("Color", "Gray")]
    file = next(path for path in files if path.is_file())

    def read() -> dict[str, np.ndarray]:
        return {**judgment.shown(data.read(name)), "fused": image.Reader("full").levels(file)}

    return page.Shot(data.dataset, name, read, {"fused": file})
