"""`jfusion metrics`: folders of fused images are evaluated, several methods side by side. Needs no Jittor."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from jfusion import metrics
from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.data import color, image
from jfusion.data.names import list_files, natural_key, sample_name
from jfusion.errors import UserError
from jfusion.files import check_output, read_text, write_text, written_through
from jfusion.metrics import DEFAULT_PRESET, PRESETS, fidelity, structure
from jfusion.metrics.table import Table, deviations, means
from jfusion.papers.compare import add_published, parse, protocol

TRUTH = ("PSNR_truth", "SSIM_truth")
LISTED = 10  # unfused pairs that a message names
WORTH_A_PROCESS = 8  # images; fewer are done before a second process has started


EPILOG = (
    "Images are matched by name without its suffix. A metric that is not defined for an image (the "
    "correlation with a constant one) is left out of the mean, and counted. Presets and formulas: "
    "docs/metrics.md."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """The folders, the evaluator, and the files that are written."""

    a: str = setting(REQUIRED, "sources A (infrared, MRI, ...)", "DIR")
    b: str = setting(REQUIRED, "sources B (visible, PET, ...)", "DIR")
    fused: Sequence[str] = setting(
        REQUIRED, "fused images, one folder for each method; NAME=DIR names the method", "DIR"
    )
    truth: str | None = setting(
        None, "ground truth: adds its PSNR and SSIM (default: without)", "DIR"
    )
    list: str | None = setting(
        None, "evaluate only the names in this list file (default: all)", "FILE"
    )
    preset: str = setting(DEFAULT_PRESET, f"the evaluator: {', '.join(PRESETS)}", "NAME")
    metrics: str | None = setting(
        None, "columns; all: every one (default: those that the evaluator prints)", "EN,SD,..."
    )
    jobs: int | None = setting(None, "processes (default: one for each core)")
    paper: str | None = setting(None, "add the published row (default: none)", "SYSTEM/DATASET")
    csv: str | None = setting(None, "write the table as CSV (default: no file)", "FILE")
    markdown: str | None = setting(None, "write the table as Markdown (default: no file)", "FILE")
    latex: str | None = setting(None, "write the table as LaTeX (default: no file)", "FILE")
    per_image: str | None = setting(
        None, "write the values of each image as CSV (default: no file)", "FILE"
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()


@dataclass(frozen=True)
class Result:
    """The table, every image's values by method, remarks, and what was skipped and why."""

    table: Table
    per_image: dict[str, dict[str, dict[str, float]]]
    notes: list[str]
    skipped: list[str]


def run(options: Options) -> int:
    """Evaluates, prints and writes the table; 2 when an image was skipped."""
    _check_outputs([options.csv, options.markdown, options.latex, options.per_image])
    result = evaluate(options)
    write(result, options)
    print(result.table.text())
    for line in result.notes:
        print(f"note: {line}")
    for line in result.skipped:
        print(f"skipped {line}", file=sys.stderr)
    return 2 if result.skipped else 0


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
    paper = parse(options.paper) if options.paper else None
    tasks, skipped = _match(options, columns)
    per_image: dict[str, dict[str, dict[str, float]]] = {m: {} for m in _methods(options.fused)}
    for task, (values, errors) in zip(tasks, _run_all(tasks, options.jobs), strict=True):
        skipped += errors
        for method, row in values.items():
            per_image[method][task.name] = row
    if not any(per_image.values()):
        raise UserError("no image could be evaluated: " + "; ".join(skipped[:3]))
    metric = metrics.preset(options.preset).metrics
    lower = [c for c in columns if not metric[c].higher_is_better]
    table = Table([*columns, *(TRUTH if options.truth else ())], lower)
    notes = []
    for method, images in per_image.items():
        mean, left_out = means(images.values())
        table.add(f"{method} ({len(images)})", mean, deviations(images.values()), ranked=True)
        notes += [f"{method}: {m} is not defined for {n} images" for m, n in left_out.items()]
    if len({tuple(sorted(images)) for images in per_image.values()}) > 1:
        notes.append("the methods were not evaluated on the same images")
    if paper:
        add_published(table, *paper)
        notes += protocol(*paper, options.preset, len(images))
    return Result(table, per_image, notes, skipped)


def write(result: Result, options: Options) -> None:
    """Writes the formats whose files the options name."""
    table = result.table
    for path, text in (
        (options.csv, table.csv),
        (options.markdown, table.markdown),
        (options.latex, table.latex),
    ):
        if path:
            write_text(path, text(), "the table")
    if options.per_image:
        each = Table(table.columns)
        for method, images in result.per_image.items():
            for name, values in images.items():
                each.add(f"{method}/{name}", values)
        write_text(options.per_image, each.csv(), "the values of each image")


# ---- which images belong together --------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """The files of one pair of sources and of what each method made of it."""

    name: str
    a: Path
    b: Path
    truth: Path | None
    fused: dict[str, Path]
    preset: str
    columns: list[str]
    reader: image.Reader


def _methods(folders: Sequence[str]) -> dict[str, Path]:
    """Label -> folder. The label is NAME of NAME=DIR, or the shortest end of the path that no other has."""
    methods: dict[str, Path] = {}
    plain = [Path(f) for f in folders if "=" not in f or Path(f).is_dir()]
    depth = next(
        d
        for d in range(1, 2 + max((len(p.parts) for p in plain), default=1))
        if len({p.parts[-d:] for p in plain}) == len({p.parts for p in plain})
    )
    for f in folders:
        label, _, folder = f.rpartition("=") if Path(f) not in plain else ("", "", f)
        label = label or "/".join(Path(folder).parts[-depth:])
        if label in methods:
            raise UserError(f"two methods are called {label!r}; name them: --fused NAME=DIR")
        methods[label] = Path(folder)
    return methods


def _images(folder: Path, what: str) -> dict[str, Path]:
    """Sample name -> file, of the images in a folder."""
    try:
        return list_files(folder, image.is_image_name, "image")
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def _match(options: Options, columns: list[str]) -> tuple[list[_Task], list[str]]:
    """The pairs that can be evaluated, and a line for each image that cannot."""
    skipped: list[str] = []
    sources = {
        "A": _images(Path(options.a), "--a"),
        "B": _images(Path(options.b), "--b"),
    }
    if options.truth:
        sources["truth"] = _images(Path(options.truth), "--truth")
    methods = {m: _images(p, "--fused") for m, p in _methods(options.fused).items()}
    if options.list:
        _keep_listed(options.list, sources, methods, skipped)
    reader = image.Reader(options.range, options.max_pixels)
    for side, files in (*sources.items(), *methods.items()):
        reader.prepare(files.values(), side)
    tasks = []
    for name in sorted(set().union(*methods.values()), key=natural_key):
        missing = [what for what, files in sources.items() if name not in files]
        if missing:
            skipped.append(f"{name}: no image of that name in {' and '.join(missing)}")
            continue
        for method in (m for m, files in methods.items() if name not in files):
            skipped.append(f"{name}: {method} has no fused image")
        fused = {m: files[name] for m, files in methods.items() if name in files}
        truth = sources["truth"][name] if options.truth else None
        paths = (sources["A"][name], sources["B"][name], truth)
        tasks.append(_Task(name, *paths, fused, options.preset, columns, reader))
    if not tasks:
        raise UserError(
            f"no name in {', '.join(options.fused)} is also in {options.a} and {options.b}"
        )
    unfused = sorted(set(sources["A"]) & set(sources["B"]) - set().union(*methods.values()))
    if unfused:
        more = f" and {len(unfused) - LISTED} more" if len(unfused) > LISTED else ""
        skipped.append(
            f"{', '.join(unfused[:LISTED])}{more}: no method has fused them (--list FILE evaluates only "
            "the names in a list)"
        )
    return tasks, skipped


def _keep_listed(
    path: str, sources: dict[str, dict], methods: dict[str, dict], skipped: list[str]
) -> None:
    """Removes the images whose names are not in the list file."""
    lines = read_text(path, "--list").splitlines()
    listed = [sample_name(line.strip()) for line in lines if line.strip()]
    for files in (*sources.values(), *methods.values()):
        for name in set(files) - set(listed):
            del files[name]
    names = set().union(*sources.values())
    skipped += [f"{name}: in no folder" for name in listed if name not in names]


# ---- the metrics, in several processes ---------------------------------------------------------


def keep_freed_memory() -> None:
    """Tells glibc to keep up to 256 MiB of freed memory for the next image.

    It returns large blocks to the system at once, and fetching them again page by page takes a
    quarter of the time of FILM's twelve metrics. Does nothing with another C library.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)


def _run_all(tasks: list[_Task], jobs: int | None) -> Iterator[tuple[dict, list[str]]]:
    from tqdm import tqdm

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    jobs = jobs or min(os.cpu_count() or 1, max(1, len(tasks) // WORTH_A_PROCESS))
    bar = {"total": len(tasks), "desc": "evaluating", "unit": "image", "disable": None}
    if jobs == 1:
        keep_freed_memory()
        yield from tqdm(map(_evaluate_one, tasks), **bar)
        return
    try:
        with _one_thread_each(), _pool(jobs) as pool:
            yield from tqdm(pool.map(_evaluate_one, tasks), **bar)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that was evaluating images was killed, perhaps for memory; use fewer --jobs"
        ) from error


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=keep_freed_memory)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread each: the images are the parallel part."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _evaluate_one(task: _Task) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Values by method, and a line for each image that could not be evaluated."""
    values: dict[str, dict[str, float]] = {}
    errors: list[str] = []
    try:
        a, b = _read(task, task.a, "A"), _read(task, task.b, "B")
        truth = task.truth and _read(task, task.truth, "truth")
    except UserError as error:
        return {}, [f"{task.name}: {error}"]
    for method, path in task.fused.items():
        try:
            fused = _read(task, path, method)
            sizes = {what: x.shape for what, x in (("A", a), ("B", b), ("fused", fused))}
            if truth:
                sizes["truth"] = truth.shape
            if len(set(sizes.values())) > 1:
                text = ", ".join(f"{what} {h}x{w}" for what, (h, w) in sizes.items())
                raise UserError(f"sizes differ: {text}")
            values[method] = metrics.evaluate(fused, a, b, task.preset, task.columns)
            if truth:
                truths = (fidelity.truth_psnr(fused, truth), structure.truth_ssim(fused, truth))
                values[method] |= dict(zip(TRUTH, truths, strict=True))
        except UserError as error:
            errors.append(f"{task.name} of {method}: {error}")
    return values, errors


def _read(task: _Task, path: Path, side: str) -> metrics.GrayImage:
    rgb = task.reader.rgb(path, side)
    by_pillow = metrics.preset(task.preset).gray == "pillow"
    return metrics.GrayImage(color.gray_by_pillow(rgb) if by_pillow else color.gray(rgb))
