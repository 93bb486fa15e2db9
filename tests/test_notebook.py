"""docs/quickstart.ipynb runs from its first cell to its last, without Jittor and without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/quickstart.ipynb"


def cells(kind):
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_cells_run(tmp_path):
    pytest.importorskip("skimage")
    code = "\n".join(cell["source"] for cell in cells("code"))
    code += "\nimport sys; assert 'jittor' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": str(NOTEBOOK.parents[1]),
            "TMPDIR": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Qabf") == 3 and "1 fused" in done.stdout


def test_the_notebook_is_kept_without_results():
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells("code"))
    assert json.loads(NOTEBOOK.read_text(encoding="utf-8"))["nbformat"] == 4
