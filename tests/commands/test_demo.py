"""The demo: the whole job, shortened."""

from __future__ import annotations

import pytest
from PIL import Image

from jfusion.commands import demo


@pytest.mark.parametrize("task", ["MFF"])
def test_the_demo_goes_through(tmp_path, monkeypatch, capsys, task):
    monkeypatch.setattr(demo, "CROP", (16, 16))
    monkeypatch.setitem(demo.SETTINGS, "token_size", (6, 8))
    monkeypatch.setattr("jfusion.data.sample.WIDTH", 64)
    figure = demo.demo(demo.Options(out=str(tmp_path / "demo"), task=task, steps=2))
    assert Image.open(figure).size[0] > 500
    printed = capsys.readouterr().out
    assert Image.open(tmp_path / "demo/fused.png").size[1] > 1000
    for text in (
        "IVF: 2 pairs fused by",
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
