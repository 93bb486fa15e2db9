"""The split lists of the papers, with the SHA-256 of each file: whether the pairs at hand are theirs.

`<TASK>_<DATASET>.csv` has the columns name, split, sha256_a and sha256_b: hashes of the files as their
origin distributes them, and no images (tools/make_split_lists.py writes them).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jfusion.data.names import listed, natural_key

if TYPE_CHECKING:
    from jfusion.data.layout import Sample

FOLDER = Path(__file__).parent
PROBED = 3  # pairs whose hashes say which list they are of

# where the files of a list come from, and whose tables are about its test pairs
ORIGINS = {
    "RoadScene": "hanna-xu/RoadScene, tested on by CDDFuse",
    "TNO": "CDDFuse's test_img",
    "VIFB": "xingchenzhang/VIFB",
    "MEFB": "xingchenzhang/MEFB, in FILM's tables",
    "Lytro": "uzeful/IFCNN, in FILM's tables",
    "Harvard_CT": "CDDFuse's test_img",
    "Harvard_PET": "CDDFuse's test_img",
    "Harvard_SPECT": "CDDFuse's test_img",
}


@dataclass(frozen=True)
class Entry:
    """One pair of a list: its split, and the hashes of its two files."""

    split: str
    sha256_a: str
    sha256_b: str


@dataclass(frozen=True)
class SplitList:
    """The pairs of a data set by name, in the order of their names."""

    task: str
    dataset: str
    pairs: Mapping[str, Entry]

    def names(self, split: str) -> list[str]:
        """The names of the pairs of a split."""
        return [name for name, entry in self.pairs.items() if entry.split == split]

    @property
    def splits(self) -> list[str]:
        """train, test, or the one that there is."""
        found = {entry.split for entry in self.pairs.values()}
        return [split for split in ("train", "test") if split in found]


@cache
def split_lists() -> tuple[SplitList, ...]:
    """Every list of the package."""
    lists = []
    for path in sorted(FOLDER.glob("*.csv")):
        task, _, dataset = path.stem.partition("_")
        with path.open(newline="", encoding="utf-8") as file:
            rows = {
                row["name"]: Entry(row["split"], row["sha256_a"], row["sha256_b"])
                for row in csv.DictReader(file)
            }
        pairs = dict(sorted(rows.items(), key=lambda item: natural_key(item[0])))
        lists.append(SplitList(task, dataset, pairs))
    return tuple(lists)


def find_list(task: str, dataset: str, samples: Iterable[Sample]) -> SplitList | None:
    """The list of a data set, by its name, or by the bytes of its first pairs; None when there is none."""
    lists = [found for found in split_lists() if found.task == task]
    for found in lists:
        if _plain(found.dataset) == _plain(dataset):
            return found
    hashes = [
        (file_hash(sample.a), file_hash(sample.b))
        for sample in list(samples)[:PROBED]
        if sample.a.is_file() and sample.b.is_file()
    ]
    for found in lists:
        known = {(entry.sha256_a, entry.sha256_b) for entry in found.pairs.values()}
        if known.intersection(hashes):
            return found
    return None


def comparison(found: SplitList, split: str, samples: Iterable[Sample], hashes: Hashes) -> str:
    """One line: whether the samples of a split are the list's pairs byte for byte, or which differ."""
    here, names = {sample.name: sample for sample in samples}, found.names(split)
    kind = "pairs of the paper" if split == "test" else "pairs for training"
    whose = f"{found.dataset}: {ORIGINS[found.dataset]}"
    absent = [name for name in names if name not in here]
    more = [name for name in here if name not in names]
    differ = [
        name
        for name in names
        if name in here
        and (hashes[here[name].a], hashes[here[name].b])
        != (found.pairs[name].sha256_a, found.pairs[name].sha256_b)
    ]
    if not (absent or more or differ):
        return f"{split}: the {len(names)} {kind}, byte for byte ({whose})"
    parts = [
        f"{len(group)} {what} ({listed(group)})"
        for what, group in (("differ", differ), ("are missing", absent), ("are not in it", more))
        if group
    ]
    return f"{split}: not the {len(names)} {kind} ({whose}): {'; '.join(parts)}"


class Hashes(dict[Path, str]):
    """The SHA-256 of files, each computed at its first use."""

    def __missing__(self, path: Path) -> str:
        self[path] = file_hash(path)
        return self[path]

    def compute(self, samples: Iterable[Sample], label: str) -> None:
        """Computes the hashes of all files of the samples, with a progress bar where it takes long."""
        from tqdm import tqdm

        paths = [path for sample in samples for path in (sample.a, sample.b) if path not in self]
        for path in tqdm(paths, desc=f"{label} hashes", unit="file", delay=2):
            if path.is_file():
                self[path] = file_hash(path)


def duplicates(splits: Mapping[str, Iterable[Sample]], split: str, hashes: Hashes) -> list[str]:
    """What the bytes of a split's files reveal, a line for each find.

    An image may be a copy of its partner, and a file may be in another split too. Files that do not exist
    are ignored.
    """
    lines, origin = [], {}
    for other, samples in splits.items():
        for sample in samples:
            for path in (sample.a, sample.b) if other != split else ():
                if path.is_file():
                    origin.setdefault(hashes[path], (other, sample.name))
    for sample in splits[split]:
        if not (sample.a.is_file() and sample.b.is_file()):
            continue
        if hashes[sample.a] == hashes[sample.b]:
            lines.append(f"{sample.name}: both images are the same file")
        for path in (sample.a, sample.b):
            if hashes[path] in origin:
                other, name = origin[hashes[path]]
                lines.append(f"{sample.name}: {path.name} is also in {other} ({name})")
    return lines


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
