"""`jfusion metrics`: fused images are evaluated, several methods and data sets side by side. Needs no Jittor."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jfusion import metrics
from jfusion.config import CommandOptions, option_of, setting
from jfusion.data import image
from jfusion.data.names import check_part
from jfusion.data.video import is_video_name
from jfusion.errors import UserError, counted, did_you_mean
from jfusion.files import check_output, write_text, written_through
from jfusion.metrics import DEFAULT_PRESET, PRESETS, clips, folders, table_file
from jfusion.metrics.folders import DataSet, Matched, Triple
from jfusion.metrics.parallel import TRUTH, evaluate_all
from jfusion.papers import compare
from jfusion.report import charts, page, ranks, strips, table
from jfusion.report.comparison import Comparison
from jfusion.report.table import Block

EPILOG = (
    "Images are matched by name without its suffix; DIR/{name}_fused gives a rule, and one prefix or suffix "
    "of fused images is found without it. With several data sets, {set} in a folder is the name of the set "
    "(otherwise each method has a folder for each set). A metric that is not defined for an image (the "
    "correlation with a constant one) is left out of the mean, and counted. Presets, formulas and table.yaml: "
    "docs/metrics.md."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """The images, the evaluator, and the files that are written."""

    table: str | None = setting(
        None, "sets, methods and options as YAML or JSON", "TABLE.yaml", positional=True
    )
    a: str | None = setting(None, "sources A (infrared, MRI, ...)", "DIR")
    b: str | None = setting(None, "sources B (visible, PET, ...)", "DIR")
    set: Sequence[str] | None = setting(
        None,
        "a data set: its name and its sources; may be repeated, in place of --a and --b",
        "NAME A B",
    )
    fused: Sequence[str] | None = setting(
        None, "fused images, one folder for each method; NAME=DIR names the method", "DIR"
    )
    truth: str | None = setting(
        None, "ground truth: adds its PSNR and SSIM (default: without)", "DIR"
    )
    list: str | None = setting(
        None, "evaluate only the names in this list file (default: all)", "FILE"
    )
    clip: bool = setting(
        False,
        "the images of the folders are the frames of clips: adds the flicker (videos have it anyway)",
    )
    common: bool = setting(True, "evaluate every method on the pairs that all methods have")
    preset: str = setting(DEFAULT_PRESET, f"the evaluator: {', '.join(PRESETS)}", "NAME")
    metrics: str | None = setting(
        None,
        "columns; all: every one but NIQE and BRISQUE (default: those that the evaluator prints)",
        "EN,SD,...",
    )
    jobs: int | None = setting(None, "processes (default: one for each core)")
    paper: Sequence[str] | None = setting(
        None,
        "add published rows: SYSTEM/DATASET, or SYSTEM for the name of each set (default: none)",
        "SYSTEM/DATASET",
    )
    std: bool = setting(False, "add standard deviations to the means")
    decimals: str | None = setting(
        None, "decimals of the tables: 3, or EN=2,MI=3 (default: 2, of small values 4)", "N"
    )
    rank: bool = setting(
        False, "add mean ranks, and the tests of Friedman, Wilcoxon (Holm) and Nemenyi"
    )
    markdown: str | None = setting(None, "write the tables as Markdown (default: no file)", "FILE")
    html: str | None = setting(
        None, "write one web page: tables, charts, values, and the pairs (default: no file)", "FILE"
    )
    latex: str | None = setting(None, "write one LaTeX table (default: no file)", "FILE")
    caption: str = setting("", "caption of the LaTeX table", "TEXT")
    label: str = setting("", "label of the LaTeX table", "TEXT")
    layout: Literal["blocks", "columns"] = setting(
        "blocks", "data sets of the LaTeX table as blocks of rows or groups of columns"
    )
    csv: str | None = setting(
        None, "write dataset,method,image,metric,value as CSV (default: no file)", "FILE"
    )
    json: str | None = setting(
        None, "write values, means, ranks and tests as JSON (default: no file)", "FILE"
    )
    figures: str | None = setting(
        None,
        "write charts: box, violin, radar, scatter, heat map, ranks, critical differences",
        "DIR",
    )
    scatter: str | None = setting(
        None, "the two metrics of the scatter chart (default: the first two columns)", "EN,VIF"
    )
    strips: str | None = setting(
        None, "write a strip for each pair: sources, methods, and enlarged regions", "DIR"
    )
    zoom: Sequence[str] = setting(
        ("auto",), "regions of the strips in pixels; auto: where the methods differ most", "X,Y,W,H"
    )
    palette: Literal[strips.PALETTES] = setting("gray", "colors of source A in the strips, if gray")
    format: Literal["png", "pdf"] = setting("png", "of charts and strips")
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()

    RENAMED = {"per_image": "csv"}


@dataclass
class Result:
    """The values, their tables, the ranks with `--rank`, remarks, and what was skipped and why."""

    comparison: Comparison
    blocks: list[Block] = field(default_factory=list)
    rank_blocks: list[Block] = field(default_factory=list)
    ranks: ranks.Ranks | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    triples: list[Triple] = field(default_factory=list)


def run(options: Options) -> int:
    """Evaluates, prints and writes the tables; 2 when an image was skipped."""
    _check_outputs([options.csv, options.markdown, options.latex, options.html, options.json])
    if options.html:
        page.check(Path(options.html))
    for folder in filter(None, (options.figures, options.strips)):
        check_output(folder, "the figures", folder=True)
    strips.parse_zoom(options.zoom)
    pair = _scatter(options)
    result = evaluate(options)
    write(result, options)
    if options.figures:
        charts.write_all(result.comparison, options.figures, options.format, pair)
    if options.strips:
        _write_strips(result, options)
    print(table.text([*result.blocks, *result.rank_blocks]))
    if result.ranks:
        print("\n" + "\n".join(ranks.lines(result.ranks)))
    for line in result.notes:
        print(f"note: {line}")
    for line in result.skipped:
        print(f"skipped {line}", file=sys.stderr)
    return 2 if result.skipped else 0


def _scatter(options: Options) -> list[str] | None:
    """The two metrics of the scatter chart; None for the first two. Raises UserError."""
    if not options.scatter:
        return None
    pair = metrics.columns(options.scatter, options.preset)
    if len(pair) != 2:
        raise UserError(f"--scatter needs two metrics, such as EN,VIF, not {options.scatter!r}")
    columns = metrics.columns(options.metrics, options.preset)
    missing = [name for name in pair if name not in columns]
    if missing:
        raise UserError(f"--scatter: {missing[0]} is not among the columns; add it to --metrics")
    return pair


def _check_outputs(paths: Sequence[str | None]) -> None:
    """Raises UserError when an output cannot be written, or when two are one file."""
    seen = set()
    for path in filter(None, paths):
        check_output(path, "the table")
        if written_through(Path(path)):
            continue
        if os.path.realpath(path) in seen:
            raise UserError(f"two outputs are one file, {path}; give each a name of its own")
        seen.add(os.path.realpath(path))


def evaluate(options: Options) -> Result:
    """Reads, matches and evaluates the images. Raises UserError if none can be evaluated."""
    columns = metrics.columns(options.metrics, options.preset)
    if _in_motion(options):
        return _evaluate_clips(options, columns)
    sets, methods, papers = inputs(options)
    if options.rank and len(methods) < 2:
        raise UserError("--rank compares methods; give two or more: --fused DIR DIR")
    decimals = _decimals(options.decimals, [*columns, *TRUTH])
    papers = {name: [compare.parse(p) for p in of] for name, of in papers.items()}
    matched = _match(sets, methods, options)
    notes, skipped = matched.notes, matched.skipped
    values: dict[str, Any] = {}
    for triple in matched.triples:
        for method in triple.fused:
            values.setdefault(triple.set, {}).setdefault(method, {})
    for done in evaluate_all(matched.triples, options.preset, columns, options.jobs):
        skipped += done.errors
        for method, row in done.values.items():
            values[done.triple.set][method][done.triple.name] = row
    shown = [*columns, *(TRUTH if any(s.truth for s in sets) else ())]
    comparison = Comparison(options.preset, shown, values, decimals)
    if options.common:
        comparison.keep_common()
    empty = [name for name, of in values.items() if not any(of.values())]
    if empty:
        where = f" of {', '.join(empty)}" if len(sets) > 1 else ""
        raise UserError(f"no image{where} could be evaluated: " + "; ".join(skipped[:3]))
    result = Result(comparison, notes=notes, skipped=skipped, triples=matched.triples)
    for data in sets:
        _add_block(result, data.name, len(sets) > 1, papers.get(data.name, []), options)
    if options.rank:
        _add_ranks(result, len(sets) > 1)
    return result


def _in_motion(options: Options) -> bool:
    """Whether clips are evaluated: the user says so, or a source or a result is a video."""
    paths = [options.a, options.b, *(options.fused or ())]
    return options.clip or any(is_video_name(path) for path in paths if path)


def _evaluate_clips(options: Options, columns: list[str]) -> Result:
    """The table of clips, whose rows are means over the frames, and their flicker as notes."""
    others = ("table", "set", "truth", "list", "paper", "strips")
    if refused := next((name for name in others if getattr(options, name)), None):
        raise UserError(
            f"{option_of(refused)} is for images; clips are evaluated with --a, --b and --fused"
        )
    if not (options.a and options.b and options.fused):
        raise UserError(
            "give the clips: --a CLIP --b CLIP --fused CLIP, videos or folders of frames"
        )
    reader = image.Reader(options.range, options.max_pixels)
    methods = folders.methods(options.fused)
    found = clips.evaluate(options.a, options.b, methods, options.preset, columns, reader)
    decimals = _decimals(options.decimals, columns)
    comparison = Comparison(options.preset, columns, {"clip": found.frames}, decimals)
    result = Result(comparison, notes=found.notes())
    _add_block(result, "clip", False, [], options)
    if options.rank:
        _add_ranks(result, False)
    return result


def _match(sets: Sequence[DataSet], methods: Mapping[str, str], options: Options) -> Matched:
    """The triples of all sets. Raises UserError for a method that has no folder in any of them."""
    several, total = len(sets) > 1, Matched()
    for data in sets:
        reader = image.Reader(options.range, options.max_pixels)
        matched = folders.match(data, methods, reader, several, options.common)
        total.triples += matched.triples
        total.notes += matched.notes
        total.skipped += matched.skipped
    for label in methods.keys() - {m for triple in total.triples for m in triple.fused}:
        place = methods[label]
        raise UserError(
            f"{label} has no image of any data set; with several sets, {place} must hold a folder for each, "
            "or {set} in its place"
        )
    return total


def _add_block(
    result: Result, name: str, several: bool, papers: list[tuple[str, str]], options: Options
) -> None:
    """Adds the table of a data set, with its published rows and notes."""
    comparison = result.comparison
    of_set = comparison.table(name, options.std)
    counts = comparison.pairs(name)
    pairs = max(counts.values())
    prefix = f"{name}: " if several else ""
    notes = [prefix + line for line in comparison.undefined(name)]
    if len(set(counts.values())) > 1:
        notes.append(f"{prefix}the methods were not evaluated on the same images")
    for system, dataset in papers:
        compare.add_published(of_set, system, dataset, preset=options.preset, named=len(papers) > 1)
        notes += [prefix + n for n in compare.protocol(system, dataset, options.preset, pairs)]
    title = f"{name} ({counted(pairs, 'pair')})" if several else ""
    result.blocks.append(Block(title, of_set))
    result.notes += [note for note in dict.fromkeys(notes) if note not in result.notes]


def _add_ranks(result: Result, several: bool) -> None:
    """Adds mean ranks and tests of the methods that have images of every data set."""
    comparison = result.comparison
    complete = comparison.complete_methods()
    left_out = [m for m in comparison.methods if m not in complete]
    if left_out:
        result.notes.append(f"not ranked, since a data set is missing: {', '.join(left_out)}")
    if len(complete) < 2:
        result.notes.append("no ranks: fewer than two methods have images of every data set")
        return
    result.ranks = ranks.compare(comparison)
    for title, of_set in ranks.tables(result.ranks, comparison.columns, several):
        result.rank_blocks.append(Block(title, of_set))


def write(result: Result, options: Options) -> None:
    """Writes the formats whose files the options name."""
    blocks, notes = [*result.blocks, *result.rank_blocks], result.notes
    lines = [*notes, *(ranks.lines(result.ranks) if result.ranks else [])]
    ranked = result.ranks.to_dict() if result.ranks else None
    style = (options.caption, options.label, options.layout)
    for path, make in (
        (options.markdown, lambda: table.markdown(blocks, lines)),
        (options.latex, lambda: table.latex(result.blocks, *style, notes)),
        (options.csv, lambda: table.tidy(result.comparison)),
        (options.json, lambda: table.as_json(result.comparison, lines, ranked)),
    ):
        if path:
            write_text(path, make(), "the table")
    if options.html:
        names = " and ".join(result.comparison.values)
        shots = [_shot(triple) for triple in result.triples if _evaluated(triple, result)]
        chosen = {"evaluator": options.preset, "metrics": options.metrics}
        title = f"jfusion metrics: {names}"
        page.write(options.html, title, blocks, result.comparison, shots, lines, chosen)


def _evaluated(triple: Triple, result: Result) -> bool:
    return any(triple.name in images for images in result.comparison.values[triple.set].values())


def _shot(triple: Triple) -> page.Shot:
    """A pair with all that the methods made of it, for the web page."""
    files = {"A": triple.a, "B": triple.b, **triple.fused}

    def read() -> dict[str, Any]:
        return {name: triple.reader.levels(path, name) for name, path in files.items()}

    return page.Shot(triple.set, triple.name, read, files)


def _write_strips(result: Result, options: Options) -> None:
    """Writes `<strips>/<pair>.png`, with several data sets `<strips>/<set>/<pair>.png`, of evaluated pairs."""
    from tqdm import tqdm

    regions = strips.parse_zoom(options.zoom)
    values = result.comparison.values
    for triple in tqdm(result.triples, desc="strips", unit="pair", disable=None):
        methods = [m for m in triple.fused if triple.name in values[triple.set][m]]
        if not methods:
            continue
        a, b = triple.a.parent.name, triple.b.parent.name
        labels = (a, b) if a != b else ("A", "B")
        paths = (triple.a, triple.b, *(triple.fused[m] for m in methods))
        sides = ("A", "B", *methods)
        images = [triple.reader.levels(p, side) for p, side in zip(paths, sides, strict=True)]
        folder = Path(options.strips or "") / (triple.set if len(values) > 1 else "")
        shown = dict(zip((*labels, *methods), images, strict=False))
        try:
            drawn = strips.strip(shown, regions, options.palette)
        except UserError as error:
            raise UserError(f"{triple.title}: {error}") from error
        strips.write(folder / f"{triple.name}.{options.format}", drawn)


def _decimals(text: str | None, columns: Sequence[str]) -> dict[str, int]:
    """Column -> decimals, of "3" or "EN=2,MI=3"; raises UserError."""
    names = {c.lower(): c for c in columns}
    result: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, equals, digits = part.rpartition("=")
        if not digits.strip().isdecimal() or int(digits) > 9:
            raise UserError(f"--decimals must be 0 to 9, or such as EN=2,MI=3, not {text!r}")
        if equals and name.strip().lower() not in names:
            raise UserError(f"--decimals: no column {name!r}{did_you_mean(name, columns)}")
        chosen = [names[name.strip().lower()]] if equals else columns
        result |= dict.fromkeys(chosen, int(digits))
    return result


# ---- sets and methods ----------------------------------------------------------------------------


def from_file(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were typed, over those of the table file that they name. Raises UserError."""
    if "table" not in values:
        return dict(values)
    of_sets = {"table", "a", "b", "set", "fused", "truth", "list"}  # sets and methods say these
    names = {f.name for f in fields(Options)} - of_sets
    return {**table_file.options(values["table"], names), **values}


def inputs(options: Options) -> tuple[list[DataSet], dict[str, str], dict[str, list[str]]]:
    """The data sets, label -> place of each method, and the published rows by data set."""
    sets, papers = _sets(options)
    if options.fused:
        methods = folders.methods(options.fused)
    elif options.table:
        methods = table_file.methods(options.table)
    else:
        raise UserError("give the fused images: --fused DIR, or methods in a table.yaml")
    for data in sets if len(sets) > 1 else ():
        check_part(
            data.name, "the name of a data set"
        )  # charts and strips have a folder of that name
    for paper in options.paper or ():
        system, slash, dataset = paper.partition("/")
        names = [
            s.name for s in sets if len(sets) == 1 or not slash or compare.same(s.name, dataset)
        ]
        if not names:
            raise UserError(f"--paper {paper}: no data set is called {dataset!r}")
        for name in names:
            papers.setdefault(name, []).append(paper if slash else f"{system}/{name}")
    return sets, methods, papers


def _sets(options: Options) -> tuple[list[DataSet], dict[str, list[str]]]:
    """The data sets of the options or of the file, and the published rows that the file names."""
    if options.set and (options.a or options.b):
        raise UserError("give --set NAME A B, or --a and --b, not both")
    if bool(options.a) != bool(options.b):
        raise UserError("both sources are needed: --a DIR --b DIR")
    shared = (options.truth, options.list)
    if options.a and options.b:
        name = folders.split_rule(options.a)[0].resolve().parent.name
        return [DataSet(name, options.a, options.b, *shared)], {}
    if not options.set and not options.table:
        raise UserError("give the sources: --a DIR --b DIR, --set NAME A B, or a table.yaml")
    if not options.set:
        if any(shared):
            raise UserError(f"truth and list of a set are written in {options.table}")
        return table_file.sets(options.table or "")
    if len(options.set) % 3:
        raise UserError("--set must be followed by a name and two folders: --set TNO tno/ir tno/vi")
    triples = [options.set[i : i + 3] for i in range(0, len(options.set), 3)]
    sets = [DataSet(*t, *shared, origin=f"--set {t[0]}") for t in triples]
    if len({s.name for s in sets}) < len(sets):
        raise UserError("two data sets have one name; name each --set differently")
    if len(sets) > 1 and any(shared):
        raise UserError("--truth and --list are for one data set; write several in a table.yaml")
    return sets, {}
