"""Measures the methods without weights and the shipped weights on the papers' test sets.

    python tools/results_measure.py --root VLFDataset
    python tools/results_measure.py --root VLFDataset --set RoadScene --method film-ivf

It writes docs/results/<set>.csv, one row for each image and method. Rows that are there are kept, so
that it can be stopped and started again; those of weights that have changed since are measured anew.
tools/results_page.py makes the page of them. The metrics are those of FILM's evaluator, of the gray
images, as `jfusion test` computes them.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jfusion import inference, metrics, weights  # noqa: E402
from jfusion.data import image  # noqa: E402
from jfusion.data.h5 import Pair  # noqa: E402
from jfusion.data.layout import Sample, find_samples, task  # noqa: E402
from jfusion.files import read_text, write_text  # noqa: E402
from jfusion.metrics.gray_image import GrayImage  # noqa: E402
from jfusion.metrics.plausibility import plausibility  # noqa: E402
from jfusion.systems import registry  # noqa: E402
from jfusion.systems.base import System  # noqa: E402

if TYPE_CHECKING:
    from jfusion.text.features import Encoder

FOLDER = ROOT / "docs/results"
COLUMNS = metrics.preset("film").columns
BASELINES = ("average", "maximum", "laplacian", "guided", "mertens")
CHECKS = ("CC_A", "CC_B", "clipped")
HEAD = ("method", "version", "image", *COLUMNS, *CHECKS)


@dataclass(frozen=True)
class TestSet:
    """A data set in the VLF layout: its task, and the list that is measured."""

    name: str
    task: str
    split: str = "test"

    @property
    def file(self) -> Path:
        """The values that were measured on it."""
        return FOLDER / f"{self.name}.csv"


SETS = (
    TestSet("RoadScene", "IVF"),
    TestSet("Lytro", "MFF"),
    TestSet("MEFB", "MEF"),
    TestSet("TNO", "IVF"),
    TestSet("VIFB", "IVF"),
    TestSet("M3FD", "IVF"),
    TestSet("RealMFF", "MFF"),
    TestSet("MFI-WHU", "MFF"),
    TestSet("SICE", "MEF"),
    TestSet("Harvard_CT", "MIF", "dev_test"),
    TestSet("Harvard_PET", "MIF", "dev_test"),
    TestSet("Harvard_SPECT", "MIF", "dev_test"),
)


def methods(of: TestSet) -> dict[str, str]:
    """What is measured on a set: name -> version, the hash of its weights ("" without weights)."""
    shipped = {n: weights.card(n)["file"]["sha256"][:12] for n in weights.names(of.task)}
    return {**dict.fromkeys(BASELINES, ""), **shipped}


def rows(of: TestSet) -> list[dict[str, str]]:
    """The rows that were measured with what is shipped now."""
    if not of.file.is_file():
        return []
    current = methods(of)
    with of.file.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if current.get(row["method"]) == row["version"]]


def measure(root: Path, of: TestSet, only: str | None) -> None:
    """Adds what is missing to the file of a set, pair by pair."""
    kept = rows(of)
    done = {(row["method"], row["image"]) for row in kept}
    missing = {
        sample: [m for m in methods(of) if (m, sample.name) not in done and only in (None, m)]
        for sample in find_samples(root, of.task, of.name, of.split)
    }
    systems = {m: system_for(m, of) for m in methods(of) if any(m in v for v in missing.values())}
    encoder = _encoder(systems)
    reader = image.Reader()
    write_text(of.file, "".join(_lines(kept)), "the measurements")
    with of.file.open("a", newline="", encoding="utf-8") as file:
        for sample, names in tqdm(missing.items(), desc=of.name, unit="pair"):
            pair = _read(sample, of, root, reader, encoder) if names else None
            for name, values in _values({m: systems[m] for m in names}, pair):
                row = {"method": name, "version": methods(of)[name], "image": sample.name}
                file.write(_line({**row, **values}))
                file.flush()


def system_for(method: str, of: TestSet) -> System:
    """A method without weights, or the shipped weights of that name, for the pairs of a set."""
    if method in registry.SYSTEMS:
        return registry.create(method)
    return inference.load_system(method, attributes={"task": of.task, "dataset": of.name})


def _encoder(systems: Mapping[str, System]) -> Encoder | None:
    """The encoder of the paragraphs, where a system reads them."""
    if not any(system.reads_text for system in systems.values()):
        return None
    from jfusion.text.features import Encoder

    return Encoder("minilm")


def _read(
    sample: Sample, of: TestSet, root: Path, reader: image.Reader, encoder: Encoder | None
) -> Pair:
    """A pair, with the features of its paragraph where a system reads them and there is one."""
    rgb = reader.pair(sample.a, sample.b)
    pair = Pair.of_images(sample.name, *rgb, None, task(of.task).chroma)
    paragraph = root / "Text" / of.task / of.name / f"{sample.name}.txt"
    if encoder is None or not paragraph.is_file():
        return pair
    tokens = encoder.tokens(read_text(paragraph, "the paragraph").strip())
    tokens = tokens[: encoder.limit(None)]
    return replace(pair, text=encoder.encode([tokens], len(tokens))[0])


def _values(
    systems: Mapping[str, System], pair: Pair | None
) -> Iterator[tuple[str, dict[str, float]]]:
    """The metrics of one pair and the checks, method by method."""
    if pair is None:
        return
    a, b = (GrayImage(np.round(x[0] * 255)) for x in (pair.a, pair.b))
    for name, system in systems.items():
        (fused,) = inference.fuse_pair(system, pair)
        values = metrics.evaluate(GrayImage(fused.gray), a, b, "film", COLUMNS)
        checks = plausibility(fused.gray, a.pixels, b.pixels)
        yield name, values | dict(zip(CHECKS, checks, strict=True))


def _lines(found: list[dict[str, str]]) -> Iterator[str]:
    yield ",".join(HEAD) + "\n"
    yield from map(_line, found)


def _line(row: dict[str, str | float]) -> str:
    """One line of the file; five digits are more than any table shows."""
    cells = (f"{v:.5g}" if isinstance(v, float) else v for v in (row[k] for k in HEAD))
    return ",".join(cells) + "\n"


def main() -> None:
    """Measures the sets that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds Image/")
    names = [s.name for s in SETS]
    parser.add_argument("--set", choices=names, action="append", help="default: all")
    parser.add_argument("--method", help="default: every method without weights, and the weights")
    options = parser.parse_args()
    for of in SETS:
        if options.set is None or of.name in options.set:
            measure(options.root, of, options.method)


if __name__ == "__main__":
    main()
