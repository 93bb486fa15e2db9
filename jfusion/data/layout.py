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

from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError, did_you_mean
from jfusion.files import read_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


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

    Raises UserError when the folder or the list is missing, or a sample name comes twice (a name
    ends at the first dot of the file name, as in the reference).
    """
    folders = task(task_name)
    if (root / split / dataset).is_dir() and not (root / "Image" / task_name / dataset).is_dir():
        return _find_in_folders(root, task_name, dataset, split)
    base = _existing(root / "Image" / task_name, dataset, "data set")
    text = root / "TextFeature" / task_name / dataset
    lines = _lines(root, base, task_name, dataset, split, base / folders.folder_a)
    samples: dict[str, Sample] = {}
    for line in lines:
        name = line.split(".")[0]
        if not name or "/" in line or "\\" in line:
            raise UserError(f"{split} list of {base}: {line!r} is not a file name")
        if name in samples:
            raise UserError(
                f"{split} list of {base}: the sample name {name!r} comes twice (names end at the first dot)"
            )
        a, b = (_image(base / f, line, name) for f in (folders.folder_a, folders.folder_b))
        samples[name] = Sample(name, a, b, text / f"{name}.npy")
    if not samples:
        raise UserError(f"{split} list of {base} is empty")
    return list(samples.values())


def find_pairs(a: str | Path, b: str | Path) -> list[tuple[str, Path, Path]]:
    """The name and the files of each pair: two files, or all images of one name in two folders.

    Raises UserError when a path does not exist, or an image has no partner of its name.
    """
    a, b = Path(a), Path(b)
    for path in (a, b):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if a.is_file() and b.is_file():
        return [(a.stem, a, b)]
    if a.is_file() or b.is_file():
        raise UserError(f"{a} and {b} must both be files or both be folders")
    of_a, of_b = (
        {p.stem: p for p in sorted(f.iterdir()) if p.suffix.lower() in SUFFIXES} for f in (a, b)
    )
    if not of_a:
        raise UserError(f"{a} holds no image ({', '.join(SUFFIXES)})")
    missing = sorted(of_a.keys() ^ of_b.keys())
    if missing:
        raise UserError(
            f"{len(missing)} images of {a} and {b} have no partner of the same name: {', '.join(missing[:5])}"
        )
    return [(name, path, of_b[name]) for name, path in of_a.items()]


def _find_in_folders(root: Path, task_name: str, dataset: str, split: str) -> list[Sample]:
    """The pairs of LFDT-Fusion's layout, by name; where the names differ, by order (with a note).

    Names that are whole numbers are sorted as numbers, as Diff-FCCF's loader does.
    """
    base = root / split / dataset
    found = []
    for names in FOLDERS[task_name]:
        folder = next((base / n for n in names if (base / n).is_dir()), None)
        if folder is None:
            raise UserError(f"{base} has no folder {' or '.join(names)} (task {task_name})")
        files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]
        numbers = all(p.name.split(".")[0].isdecimal() for p in files)
        files.sort(key=lambda p: (int(p.name.split(".")[0]) if numbers else 0, p))
        found.append({p.name.split(".")[0]: p for p in files})
    a, b = found
    if not a or not b:
        raise UserError(f"{base} holds no pairs of images ({', '.join(SUFFIXES)})")
    partners = [b.get(name) for name in a]
    if a.keys() != b.keys():
        if len(a) != len(b):
            odd = sorted(a.keys() ^ b.keys())
            raise UserError(
                f"{base}: {len(a)} and {len(b)} images; without a partner of the same name: {', '.join(odd[:5])}"
            )
        print(f"note: the names in the two folders of {base} differ; paired by their order")
        partners = list(b.values())
    text = root / "TextFeature" / task_name / dataset
    pairs = zip(a.items(), partners, strict=True)
    return [Sample(name, path, other, text / f"{name}.npy") for (name, path), other in pairs]


def _lines(
    root: Path, base: Path, task_name: str, dataset: str, split: str, folder: Path
) -> list[str]:
    if split == "all":
        if not folder.is_dir():
            raise UserError(f"folder {folder} does not exist")
        return sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    # the reference's code reads the first, its README names the second
    places = [base / f"{split}.txt", root / task_name / dataset / f"{split}.txt"]
    for place in places:
        if place.is_file():
            lines = (line.strip() for line in read_text(place, "the list").splitlines())
            return [line for line in lines if line]
    lists = [p.stem for p in base.glob("*.txt")]
    raise UserError(
        f"list {places[0]} does not exist{did_you_mean(split, lists)}; write one file name per line, "
        "or use every image with --split all"
    )


def _existing(parent: Path, name: str, what: str) -> Path:
    folder = parent / name
    if not folder.is_dir():
        known = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise UserError(f"{what} folder {folder} does not exist{did_you_mean(name, known)}")
    return folder


def _image(folder: Path, line: str, name: str) -> Path:
    """The listed file, else the same name with another known suffix (a list may lack suffixes)."""
    if (folder / line).is_file():
        return folder / line
    found = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((p for p in found if p.is_file()), folder / line)
