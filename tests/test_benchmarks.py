"""The benchmark runs our side and reports; nothing here is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_comparison_runs_ours():
    command = [sys.executable, str(ROOT / "benchmarks/compare.py"), "film", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "forward-48x64: ours first run" in done.stdout and "peak memory" in done.stdout
