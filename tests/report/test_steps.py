"""The recording of a sampler's steps, and its progress bar."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jfusion.data.image import read_rgb
from jfusion.report.steps import LAST_FRAME, MOST_FRAMES, Recording, StepBar


def preview(x):
    """Two samples: flat images whose gray value is x, and x + 100."""
    return np.stack([np.full((4, 6), value, np.uint8) for value in (x, x + 100)])


def record(folder, kind, steps, scale=1):
    with Recording(folder, "pair", kind, preview) as recording:
        for i in reversed(range(steps)):
            recording(i, i * scale, None)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_every_step_and_an_animation_of_each_sample_are_written(tmp_path, kind):
    record(tmp_path, kind, 3, scale=70)
    for name, offset in (("pair", 0), ("pair_1", 100)):
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        assert files == ["x_0000.png", "x_0001.png", "x_0002.png"]
        assert (read_rgb(tmp_path / name / "x_0002.png") == 140 + offset).all()
        with Image.open(tmp_path / f"{name}.{kind}") as animation:
            assert animation.n_frames == 3 and animation.size == (6, 4)


def test_an_animation_of_many_steps_has_its_first_and_last_and_stops_at_the_end(tmp_path):
    record(tmp_path, "gif", 2 * MOST_FRAMES + 1)
    assert len(list((tmp_path / "pair").iterdir())) == 2 * MOST_FRAMES + 1
    with Image.open(tmp_path / "pair.gif") as animation:
        assert animation.n_frames == MOST_FRAMES
        assert np.asarray(animation.convert("L")).flat[0] == 2 * MOST_FRAMES
        animation.seek(MOST_FRAMES - 1)
        assert np.asarray(animation.convert("L")).flat[0] == 0
        assert animation.info["duration"] == LAST_FRAME


def test_png_is_the_steps_alone(tmp_path):
    record(tmp_path, "png", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair", "pair_1"]


def test_after_an_error_there_are_the_steps_and_no_animation(tmp_path):
    with pytest.raises(ZeroDivisionError), Recording(tmp_path, "x", "gif", preview) as recording:
        recording(1, 1, None)
        raise ZeroDivisionError
    assert (tmp_path / "x/x_0001.png").is_file() and not (tmp_path / "x.gif").exists()


def test_the_bar_counts_the_steps_down_to_0(capsys):
    with StepBar("pair") as bar:
        for i in (2, 1, 0):
            bar(i, None, None)
        assert bar.bar.total == bar.bar.n == 3
    assert "pair" in capsys.readouterr().err
    with StepBar("none") as bar:
        pass
    assert bar.bar is None
