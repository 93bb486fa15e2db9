"""The lines of log.txt, and the images of a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from jfusion.data.h5 import Pair
from jfusion.data.image import read_rgb
from jfusion.runs import Run
from jfusion.runtime import jt
from jfusion.systems import registry
from jfusion.systems.base import Batch
from jfusion.train.progress import Progress, save_images


def test_a_step_is_a_line_and_a_row(tmp_path):
    run = Run.new(tmp_path, "toy", "Set", {})
    run.start_log(0)
    with Progress(run, 4, 12, 1) as progress:
        progress.report(2, (0, 1, 3), {"total": 0.5, "ssim": 0.25}, {"all": 1e-4})
        assert progress.bar.n == 2 and progress.bar.total == 12
        assert progress.epoch_bar.n == 2 and progress.epoch_bar.total == 3
    run.close()
    line = (run.folder / "log.txt").read_text()
    assert line == "2\tEpoch 1/4 Batch 1/3 total: 0.500000 ssim: 0.250000 ETA: ?\n"
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    assert rows == ["step,total,ssim,learning_rate/all", "2,0.5,0.25,0.0001"]


def test_the_time_left_is_of_the_median_step_without_those_that_compile(tmp_path, monkeypatch):
    now = iter([0, *np.cumsum([900, 2, 2, 50, 2, 900, 2])])
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr("jfusion.train.progress.time", clock)
    run = Run.new(tmp_path, "toy", "Set", {})
    run.start_log(0)
    lefts = []
    with Progress(run, 1, 100_007, 0) as progress:
        assert "compiling kernels" in progress.bar.desc
        for step in range(1, 8):
            if step == 6:  # a new stage
                progress.compiling()
            progress.report(step, (0, step - 1, 7), {"total": 1.0 / step}, {})
            lefts.append(progress._left())
    run.close()
    assert lefts[0] == "?" and lefts[1] == "55:33:30" and lefts[-1] == "55:33:20"
    assert list(progress.seconds) == [2, 2, 50, 2, 2]


def test_the_end_says_what_came_of_it(tmp_path):
    run = Run.new(tmp_path, "toy", "Set", {"system": "toy"})
    run.start_log(0)
    with Progress(run, 1, 4, 0) as progress:
        for step, loss in enumerate((4.0, 2.0, 1.0, 2.0), 1):
            progress.report(step, (0, step - 1, 4), {"total": loss}, {})
        run.save({"model": {"w": np.ones(2, np.float32)}, "epoch": 1, "batch": 0})
        progress.draw(last=True)
        text = progress.summary(4)
    run.close()
    assert "loss: 3 at first, 1.5 at last (means of the first and last 2 steps)" in text
    assert f"checkpoint: {run.folder}/model/ckpt_1.pkl" in text
    assert text.endswith(f"test with: jfusion test --weights {run.folder}")
    assert (run.folder / "curves.png").is_file() and (run.folder / "report.html").is_file()


def test_images_are_those_of_each_pair_cropped_to_the_preview(toy, tmp_path):
    system = registry.create("toy")
    a, b = (np.full((2, 1, 4, 6), value, np.float32) for value in (0.0, 1.0))
    system.preview = lambda batch: system.fuse(batch.a, batch.b)[:, :, :2]
    run = Run.new(tmp_path, "toy", "Set", {})
    red = np.full((4, 6, 3), (255, 0, 0), np.uint8)
    pairs = [Pair("x", a[0], b[0]), Pair("y", a[1], b[1], rgb_b=red, rule="b")]
    save_images(system, Batch(jt.array(a), jt.array(b), None, ["x", "y"]), pairs, run, 3)
    assert system.is_training()
    for name in ("x", "y"):
        row = read_rgb(run.folder / f"pic_fusion/ckpt_3/{name}.png")
        assert row.shape == (2, 18, 3) and row[0, ::6, 0].tolist()[:2] == [0, 255]
    assert read_rgb(run.folder / "pic_fusion/ckpt_3/x.png")[0, 12].tolist() == [128] * 3
    fused = read_rgb(run.folder / "pic_fusion/ckpt_3/y.png")
    assert fused[0, 6].tolist() == [255, 0, 0] and np.ptp(fused[0, 12]) > 60  # both have color


def test_the_bar_shows_the_metrics_of_the_last_validation(tmp_path):
    run = Run.new(tmp_path, "toy", "Set", {})
    run.start_log(0)
    with Progress(run, 2, 4, 0) as progress:
        progress.report_validation(2, 1, {"EN": 6.912, "VIF": 0.6349})
        progress.report(3, (1, 0, 2), {"total": 0.5}, {})
        assert progress.bar.postfix == "left ?; validation EN 6.91 VIF 0.635"
    run.close()
