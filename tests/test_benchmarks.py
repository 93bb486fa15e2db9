"""The benchmarks run our side, and report; nothing here is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jfusion.data.h5 import PairFile
from jfusion.data.image import read_rgb
from jfusion.data.layout import find_pairs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def scale(monkeypatch):
    """The module benchmarks/scale.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scale

    return scale


def test_the_comparison_runs_ours():
    command = [sys.executable, str(ROOT / "benchmarks/compare.py"), "film", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "forward-48x64: ours first run" in done.stdout and "peak memory" in done.stdout


def test_a_measured_case_is_not_measured_again(scale, monkeypatch, tmp_path):
    cases = [case for case in scale.cases() if case.part != "memory"]
    assert len(cases) == len(set(cases))
    done = []

    def measure(case, folder):
        if len(done) == 20:
            raise KeyboardInterrupt
        done.append(case)
        return scale.Measured(1.25, 100.0, 0.5, "2026-11-27")

    monkeypatch.setattr(scale, "measure", measure)
    path = tmp_path / "results/scale.csv"
    with pytest.raises(KeyboardInterrupt):
        scale.measure_all(cases, path, 1, tmp_path)
    rows = scale.read(path)
    assert 0 < len(rows) < 20 and rows[0] == (
        cases[0],
        scale.Measured(1.25, 100.0, 0.5, "2026-11-27"),
    )
    left = [case for case in cases if case not in dict(rows)]
    for runs, wanted in ((1, left), (1, []), (2, cases)):
        monkeypatch.setattr(scale, "measure", lambda case, folder: rows[0][1])
        before = len(scale.read(path))
        scale.measure_all(cases, path, runs, tmp_path)
        assert [case for case, _ in scale.read(path)[before:]] == wanted
    # one pair that was fused has shown its memory
    memory = [scale.Case("memory", "film-ivf", *size) for size in ((480, 640), (3000, 4000))]
    scale.measure_all(memory, path, 1, tmp_path)
    assert [case for case, _ in scale.read(path)[before:]] == [*cases, memory[0]]


def test_the_inputs_of_the_scale_are_made_once_and_can_be_read(scale, tmp_path):
    sides = scale.scale_inputs.folders(tmp_path, 32, 48, 3)
    pairs = find_pairs(*sides)
    assert [name for name, *_ in pairs] == ["000000", "000001", "000002"]
    shapes = {read_rgb(file).shape for _, *files in pairs for file in files}
    assert shapes == {(32, 48, 3)}
    written = pairs[0][1].stat().st_mtime_ns
    assert scale.scale_inputs.folders(tmp_path, 32, 48, 3) == sides
    assert pairs[0][1].stat().st_mtime_ns == written
    data = PairFile(scale.scale_inputs.h5_file(tmp_path, 32, 48, 3))
    assert len(data) == 3 and data[2].text.shape == (1, 768)
    assert not np.array_equal(data[0].b, data[1].b)


def test_the_plots_are_drawn_of_what_there_is(scale, tmp_path, capsys):
    rows = []
    for i, case in enumerate(scale.cases()):
        seconds = 0.5 + 0.1 * case.steps + case.pairs * case.height * case.width / 1e6
        rows.append((case, scale.Measured(seconds, 100 + i, 0.25, "2026-11-27")))
        rows.append((case, scale.Measured(2 * seconds, 100 + i, 0.25, "2026-11-27")))
    scale.scale_plots.draw(rows, tmp_path / "all")
    scale.scale_plots.draw(rows[:4], tmp_path / "few")
    for folder in ("all", "few"):
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert names == ["batch.png", "memory.png", "pairs.png", "speed.png"]
    # linear cost: as many megapixels a second at each size, of the faster run
    assert "| `fuse` laplacian | 480x640 | 78 | 24.46 s |" in capsys.readouterr().out
