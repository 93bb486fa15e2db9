"""A package of somebody else adds a system by an entry point; the commands know it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jfusion.data import image

ROOT = Path(__file__).parents[2]
SOURCE = '''
"""A weighted average of two images."""

from dataclasses import dataclass

from jfusion.config import SystemConfig, setting
from jfusion.systems.base import System


@dataclass(frozen=True)
class Config(SystemConfig):
    """The settings."""

    weight: float = setting(0.5, "share of image A")


class WeightedAverage(System):
    """A weighted average of two images."""

    Config = Config

    def _fuse(self, a, b, text, seed, callback):
        return self.config.weight * a + (1 - self.config.weight) * b
'''


@pytest.fixture
def run(tmp_path):
    """run(*arguments) -> the finished `jfusion` command of an environment where the package is installed."""
    site = tmp_path / "site"
    record = site / "weighted_average-1.0.dist-info"
    record.mkdir(parents=True)
    (site / "weighted_average.py").write_text(SOURCE)
    (record / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: weighted-average\nVersion: 1.0\n"
    )
    entry = "[jfusion.systems]\nblend = weighted_average:WeightedAverage\n"
    (record / "entry_points.txt").write_text(entry)

    def command(*arguments):
        code = "import sys; from jfusion.cli import main; status = main(sys.argv[1:]); "
        code += "assert 'jittor' not in sys.modules; sys.exit(status)"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        )

    return command


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for modality in ("IR", "VI"):
        for name in ("01", "02"):
            pixels = rng.integers(0, 256, (24, 26), dtype=np.uint8)
            image.write(tmp_path / f"VLFDataset/Image/IVF/Toy/{modality}/{name}.png", pixels)
    (tmp_path / "VLFDataset/Image/IVF/Toy/test.txt").write_text("01.png\n02.png\n")
    base = tmp_path / "VLFDataset/Image/IVF/Toy"
    return base / "IR", base / "VI"


def test_the_commands_know_it_and_start_no_jittor(run, folders, tmp_path):
    listed = run("systems")
    assert "blend" in listed.stdout and "A weighted average of two images" in listed.stdout

    a, b = folders
    done = run(
        "fuse", "--system", "blend", "--a", a, "--b", b, "--weight", "0.25", "--out", "fused"
    )
    assert done.returncode == 0, done.stderr
    fused, *sources = (image.read_rgb(f / "01.png")[..., 0] for f in (tmp_path / "fused", a, b))
    expected = 0.25 * sources[0].astype(float) + 0.75 * sources[1].astype(float)
    assert abs(fused - expected).max() <= 0.51

    tested = run("test", "blend", "--dataset", "Toy", "--text", "zeros", "--weight", "0.25")
    assert tested.returncode == 0, tested.stderr
    assert "ours (2 pairs)" in tested.stdout

    trained = run("train", "blend", "--data", "VLFDataset_h5/Toy_test.h5")
    assert trained.returncode == 2
    assert "not trained" in trained.stderr and len(trained.stderr.strip().splitlines()) == 1


def test_a_package_that_does_not_load_hides_no_other(run, tmp_path):
    record = tmp_path / "site/broken-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[jfusion.systems]\nbroken = broken:Broken\n")
    (tmp_path / "site/broken.py").write_text("import sys\nsys.exit(7)\n")
    listed = run("systems")
    assert listed.returncode == 0 and "blend" in listed.stdout
    assert "cannot be loaded (broken:Broken)" in listed.stdout
