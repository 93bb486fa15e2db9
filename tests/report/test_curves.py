"""The curves of runs over one another, and the film strip of their previews."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.errors import UserError
from jfusion.report import curves
from jfusion.runs import Run


def make_run(root, steps, epochs=2, loss="total", **config):
    """A run with a log and with an image of the pair `x` for each epoch."""
    run = Run.new(root, "toy", "Set", {"system": "toy", "dataset": "Set", "config": config})
    rows = [f"{i},{1 / i},{'' if i % 2 else i / 10}" for i in range(1, steps + 1)]
    (run.folder / "metrics.csv").write_text("\n".join([f"step,{loss},val/VIF", *rows]) + "\n")
    for epoch in range(1, epochs + 1):
        run.save_images(epoch, "x", [np.full((4, 6), value, np.uint8) for value in (0, 255, 128)])
        run.save_images(epoch, f"only_{epoch}", [np.zeros((4, 6), np.uint8)] * 3)
    return run


def test_columns_are_losses_then_metrics_then_learning_rates(tmp_path):
    runs = [make_run(tmp_path, 3), make_run(tmp_path, 3, loss="learning_rate/all")]
    assert curves.columns(runs) == ["total", "val/VIF", "learning_rate/all"]
    assert curves.columns(runs, "val/VIF, total") == ["val/VIF", "total"]
    with pytest.raises(UserError, match="no run has 'totl'; did you mean 'total'"):
        curves.columns(runs, "totl")


def test_a_panel_has_a_curve_of_each_run_that_has_the_column(tmp_path):
    runs = [make_run(tmp_path, 8), make_run(tmp_path, 4), make_run(tmp_path, 4, loss="other")]
    with curves.style():
        figure = curves.draw(runs, ["total", "val/VIF"])
    total, vif = figure.subfigs[0].axes
    drawn = [line.get_xydata() for line in total.lines if len(line.get_xydata())]
    assert [len(points) for points in drawn] == [8, 4]
    np.testing.assert_allclose(drawn[0][:, 1], [1 / i for i in range(1, 9)])
    points = vif.lines[0].get_xydata()  # steps without a value are left out
    np.testing.assert_allclose(points, [[2, 0.2], [4, 0.4], [6, 0.6], [8, 0.8]])


def test_the_running_mean_has_fewer_values_at_the_beginning():
    mean = curves.running_mean(np.array([2.0, 4.0, 9.0, 2.0]), 3)
    np.testing.assert_allclose(mean, [2, 3, 5, 5])


def test_the_film_shows_the_pair_that_most_epochs_have(tmp_path):
    frames = curves.frames_of(make_run(tmp_path, 1, epochs=20))
    assert len(frames) == curves.MOST_FRAMES
    labels = [label for label, _ in frames]
    assert labels[0] == "epoch 1\nx" and labels[-1] == "epoch 20\nx"
    assert frames[0][1].shape == (12, 6, 3)
    assert frames[0][1][::4, 0, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_each_kind_is_written(tmp_path, ending):
    runs = [make_run(tmp_path, 3, epochs=1, rate=0.1), make_run(tmp_path, 3, epochs=0, rate=0.2)]
    path = curves.write(tmp_path / f"plot.{ending}", runs)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if ending == "png" else b"</" in content
    if ending == "html":
        assert b"<td>0.1</td><td>0.2</td>" in content and b"<td>toy</td>" not in content


def test_what_cannot_be_drawn_is_one_line(tmp_path):
    run = make_run(tmp_path, 0)
    (run.folder / "metrics.csv").unlink()
    with pytest.raises(UserError, match="no step is logged yet"):
        curves.write(tmp_path / "plot.png", [run])
    with pytest.raises(UserError, match=r"written as \.png, \.svg, \.pdf, \.html"):
        curves.write(tmp_path / "plot.jpg", [run])
    (run.folder / "metrics.csv").write_text("step,total\n1,one\n")
    with pytest.raises(UserError, match=r"metrics\.csv is not the table of a run"):
        curves.write(tmp_path / "plot.png", [run])
