"""Folders and list files: where the images of a data set are, and what a and b are in each task.

The layout of FILM's VLF data set:

<root>/Image/<TASK>/<DATASET>/<A>/<file>        the two modalities, same file names
<root>/Image/<TASK>/<DATASET>/<B>/<file>
<root>/Image/<TASK>/<DATASET>/<split>.txt       one file name per line
<root>/TextFeature/<TASK>/<DATASET>/<name>.npy  paragraph features

and that of LFDT-Fusion and Diff-FCCF, which has no lists:

<root>/<split>/<dataset>/<folder 1>/<file>      such as dataset/train/VI-IR/ir, dataset/test/MEF/MEF/over
<root>/<split>/<dataset>/<folder 2>/<file>
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from jfusion.data.image import is_image_name
from jfusion.data.names import check_part, list_files, pair_by_name, pair_by_number, sample_name
from jfusion.errors import UserError, did_you_mean, missing, printable
from jfusion.files import check_path, read_text


@dataclass(frozen=True)
class Task:
    """A fusion task: what a and b are, and the names of their folders.

    chroma: whose color the fused image gets, "a", "b" or "weighted" (both). resized: whether the
    reference resizes its training images.
    """

    text: str
    folder_a: str
    folder_b: str
    chroma: str
    resized: bool = True


TASKS = {
    "IVF": Task("infrared and visible", "IR", "VI", "b"),
    "MIF": Task("MRI and CT, PET or SPECT", "MRI", "T", "b", resized=False),
    "MEF": Task("over- and under-exposed", "OVER", "UNDER", "weighted"),
    "MFF": Task("near and far focus", "NEAR", "FAR", "weighted"),
    "NIR": Task("near-infrared and visible", "NIR", "RGB", "b"),
    "PIF": Task("degree of polarization and intensity", "DoLP", "S0", "b"),
}


# the names that LFDT-Fusion and Diff-FCCF give the two folders
FOLDERS = {
    "IVF": (("ir",), ("vi",)),
    "MIF": (("MRI", "t", "f"), ("PET", "SPECT", "CT", "g")),  # Diff-FCCF's GFP: t or f, and g
    "MEF": (("over",), ("under",)),
    "MFF": (("source_1",), ("source_2",)),
    "NIR": (("NIR",), ("RGB", "VI")),
    "PIF": (("DoLP",), ("S0",)),
}


@dataclass(frozen=True)
class Sample:
    """One pair: its name, and the files it is made of (which need not exist)."""

    name: str
    a: Path
    b: Path
    text: Path


def task(name: str) -> Task:
    """The task called `name`. Raises UserError that names the nearest one for a typo."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]


def find_samples(root: Path, task_name: str, dataset: str, split: str) -> list[Sample]:
    """The samples of a split in the order of its list; `split` "all" is every file of the first folder.

    Raises UserError when the folder or the list is missing, when two files or two lines have one name,
    and when an image has no partner.
    """
    folders = task(task_name)
    if (root / split / dataset).is_dir() and not (root / "Image" / task_name / dataset).is_dir():
        return _find_in_folders(root, task_name, dataset, split)
    base = _existing(root / "Image" / task_name, dataset, "data set")
    text = root / "TextFeature" / task_name / dataset
    files = [_images(base / f) for f in (folders.folder_a, folders.folder_b)]
    if split == "all":
        pairs = pair_by_name(*files, str(base))
        return [Sample(name, a, b, text / f"{name}.npy") for name, a, b in pairs]
    samples: dict[str, Sample] = {}
    for name in _listed_names(root, base, task_name, dataset, split, files):
        if name in samples:
            raise UserError(f"{split} list of {base}: the sample {printable(name)!r} comes twice")
        a, b = (
            images.get(name, base / folder / f"{name}.png")
            for images, folder in zip(files, (folders.folder_a, folders.folder_b), strict=True)
        )
        samples[name] = Sample(name, a, b, text / f"{name}.npy")
    if not samples:
        raise UserError(f"{split} list of {base} is empty")
    return list(samples.values())


def check_inputs(a: str | Path, b: str | Path) -> tuple[Path, Path]:
    """The paths of images A and B. Raises UserError unless both are files, or both are folders."""
    a, b = check_path(a, "images A"), check_path(b, "images B")
    for path in (a, b):
        try:
            there = path.exists()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if not there:
            raise missing("input", path)
    if a.is_dir() != b.is_dir():
        raise UserError(f"{a} and {b} must both be files or both be folders")
    return a, b


def find_pairs(a: str | Path, b: str | Path, exact: bool = True) -> list[tuple[str, Path, Path]]:
    """The name and the files of each pair: two files, or all images of one name in two folders.

    Raises UserError when a path does not exist, two files of a folder have one name, or an image has no
    partner; with `exact` off, such an image is left out with a note.
    """
    a, b = check_inputs(a, b)
    if not a.is_dir():
        return [(check_part(sample_name(a), str(a)), a, b)]
    return pair_by_name(_images(a), _images(b), f"{a} and {b}", exact)


def _images(folder: Path) -> dict[str, Path]:
    """Name -> file, of the images of a folder."""
    return list_files(folder, is_image_name, "image")


def _find_in_folders(root: Path, task_name: str, dataset: str, split: str) -> list[Sample]:
    """The pairs of LFDT-Fusion's layout, by name; where no name is common to both folders, by number."""
    base = root / split / dataset
    files = []
    for names in FOLDERS[task_name]:
        folder = next((base / n for n in names if (base / n).is_dir()), None)
        if folder is None:
            raise UserError(f"{base} has no folder {' or '.join(names)} (task {task_name})")
        files.append(_images(folder))
    pair = pair_by_name if files[0].keys() & files[1].keys() else pair_by_number
    text = root / "TextFeature" / task_name / dataset
    return [Sample(name, a, b, text / f"{name}.npy") for name, a, b in pair(*files, str(base))]


def _listed_names(
    root: Path,
    base: Path,
    task_name: str,
    dataset: str,
    split: str,
    files: list[dict[str, Path]],
) -> list[str]:
    """The sample names of a list file. A line is a file name; it may lack its ending."""
    # the reference's code reads the first, its README names the second
    places = [base / f"{split}.txt", root / task_name / dataset / f"{split}.txt"]
    place = next((p for p in places if p.is_file()), None)
    if place is None:
        lists = [p.stem for p in base.glob("*.txt")]
        raise UserError(
            f"list {places[0]} does not exist{did_you_mean(split, lists)}; write one file name per line, "
            "or use every image with --split all"
        )
    return read_list(place, {name for of in files for name in of})


def read_list(place: Path, known: Container[str]) -> list[str]:
    """The sample names in a list file. A line is a file name; it may lack its ending if its name is `known`."""
    names = []
    for line in filter(None, map(str.strip, read_text(place, "the list").splitlines())):
        whole = check_part(unicodedata.normalize("NFC", line), f"the list {place}", most=255)
        has_ending = is_image_name(Path(line)) and whole not in known
        names.append(sample_name(line) if has_ending else whole)
    return names


def _existing(parent: Path, name: str, what: str) -> Path:
    folder = parent / name
    if not folder.is_dir():
        folders = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        remedy = did_you_mean(name, folders) or "; --root, --task and --dataset say where yours is"
        raise UserError(f"{what} folder {folder} does not exist{remedy}")
    return folder
