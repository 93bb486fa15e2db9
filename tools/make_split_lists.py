"""Writes jfusion/data/splits/*.csv from a manifest of image pairs whose files are at hand.

    python tools/make_split_lists.py VLFDataset/manifest.csv

The manifest has the columns task, dataset, name, file, split, folder_a, folder_b, repository, sha256_a and
sha256_b. Its hashes are compared with those of the files next to it.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "jfusion/data/splits"
COLUMNS = ("name", "split", "sha256_a", "sha256_b")
CDDFUSE = "Zhaozixiang1228/MMIF-CDDFuse"
# the list's task and data set, and the repository whose files it is of
LISTS = {
    ("IVF", "RoadScene"): "hanna-xu/RoadScene",
    ("IVF", "TNO"): CDDFUSE,
    ("IVF", "VIFB"): "xingchenzhang/VIFB",
    ("MEF", "MEFB"): "xingchenzhang/MEFB",
    ("MFF", "Lytro"): "uzeful/IFCNN",
    ("MIF", "Harvard_CT"): CDDFUSE,
    ("MIF", "Harvard_PET"): CDDFUSE,
    ("MIF", "Harvard_SPECT"): CDDFUSE,
}


def main(manifest: Path) -> None:
    """Writes one list for each data set of `LISTS`."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for (task, dataset), repository in LISTS.items():
        chosen = [
            row
            for row in rows
            if (row["task"], row["dataset"], row["repository"]) == (task, dataset, repository)
        ]
        for row in chosen:
            _check(manifest.parent / "Image" / task / dataset, row)
        path = FOLDER / f"{task}_{dataset}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(chosen)
        print(f"{path.name}: {len(chosen)} pairs")


def _check(folder: Path, row: dict[str, str]) -> None:
    for side in "ab":
        path = folder / row[f"folder_{side}"] / row["file"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found == row[f"sha256_{side}"], path


if __name__ == "__main__":
    main(Path(sys.argv[1]))
