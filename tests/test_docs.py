"""The Python examples of the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jfusion
from jfusion import checkpoint
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
