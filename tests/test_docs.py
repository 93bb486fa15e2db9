"""The Python examples of the documentation run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jfusion
from jfusion import checkpoint
from jfusion.cli import COMMANDS
from jfusion.config import to_dict
from jfusion.systems.film.config import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the examples name."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(tmp_path / "ir.png")
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "vi.png")
    np.save(tmp_path / "paragraph.npy", rng.standard_normal((1, 3, 8)).astype(np.float32))
    film = jfusion.create("film", **TINY)
    content = {"system": "film", "config": to_dict(film.config), "model": film.state()}
    checkpoint.save(tmp_path / "film.pkl", content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_examples_of_a_page_run(folder, page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})


def test_the_page_of_options_has_every_command_and_the_settings_of_every_system():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools/docs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.options_page()
    assert all(f"## jfusion {command}\n" in page for command in COMMANDS)
    assert "| `--val-split X` | or this share of the training pairs" in page
    assert "## film" in page and "| `--learning-rate X` | Adam's learning rate" in page
    baseline = page.partition("## laplacian")[2].partition("## ")[0]
    assert "--levels N" in baseline and "--crop" not in baseline
