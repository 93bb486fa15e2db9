"""The demo: the whole job, shortened."""

from __future__ import annotations

import pytest
from PIL import Image

import jfusion
from jfusion import weights
from jfusion.commands import demo
from jfusion.config import to_dict
from jfusion.systems.film.config import TINY
from tests.weights.test_weights import ship


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """shipped(True) -> a tiny FILM is among the weights that come with jfusion; False: none is."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "defaults.json").write_text('{"IVF": "laplacian", "MFF": "guided", "MEF": "mertens"}')
    monkeypatch.setattr(weights, "FOLDER", folder)

    def add(wanted):
        if wanted:
            film = jfusion.create("film", **{**TINY, "text_dim": 384})
            config = to_dict(film.config)
            ship(folder, "tiny-mff", "MFF", film.state(), config=config, encoder="minilm")

    return add


@pytest.mark.parametrize("with_weights", [False, True])
def test_the_demo_goes_through(tmp_path, monkeypatch, capsys, shipped, with_weights):
    shipped(with_weights)
    monkeypatch.setattr(demo, "CROP", (16, 16))
    monkeypatch.setitem(demo.SETTINGS, "token_size", (6, 8))
    monkeypatch.setattr("jfusion.data.sample.WIDTH", 64)
    figure = demo.demo(demo.Options(out=str(tmp_path / "demo"), task="MFF", steps=2))
    assert Image.open(figure).size[0] > 500
    printed = capsys.readouterr().out
    assert Image.open(tmp_path / "demo/fused.png").size[1] > 1000
    for text in (
        "fine-tune tiny-mff" if with_weights else "train FILM",
        "IVF: 2 pairs fused by laplacian",
        "encoder: minilm",
        "ours (2 pairs)",
        "fused against the truth",
        "demo-sized",
    ):
        assert text in printed
    assert len(list(tmp_path.glob("demo/test_output/*/Demo/table.md"))) == 1


def test_the_demo_of_ddfm_goes_through(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "PRIOR_CROP", (16, 16))
    monkeypatch.setattr(demo, "RESPACING", "2")
    monkeypatch.setattr("jfusion.data.sample.WIDTH", 48)
    options = demo.Options(out=str(tmp_path / "demo"), system="ddfm", steps=2)
    assert Image.open(demo.demo(options)).size[0] > 500
    printed = capsys.readouterr().out
    assert "small diffusion model" in printed and "fused against the truth" in printed
