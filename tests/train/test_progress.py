"""The lines of log.txt, and the images of a run."""

from __future__ import annotations

import re

import numpy as np

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
    run.close()
    line = (run.folder / "log.txt").read_text()
    expected = r"2\tEpoch 1/4 Batch 1/3 total: 0.500000 ssim: 0.250000 ETA: \d\d:\d\d:\d\d\n"
    assert re.fullmatch(expected, line)
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    assert rows == ["step,total,ssim,learning_rate/all", "2,0.5,0.25,0.0001"]


def test_images_are_those_of_each_pair_cropped_to_the_preview(toy, tmp_path):
    system = registry.create("toy")
    a, b = (np.full((2, 1, 4, 6), value, np.float32) for value in (0.0, 1.0))
    system.preview = lambda batch: system.fuse(batch.a, batch.b)[:, :, :2]
    run = Run.new(tmp_path, "toy", "Set", {})
    save_images(system, Batch(jt.array(a), jt.array(b), None, ["x", "y"]), run, 3)
    assert system.is_training()
    for name in ("x", "y"):
        row = read_rgb(run.folder / f"pic_fusion/ckpt_3/{name}.png")
        assert row.shape == (2, 18, 3) and row[0, ::6, 0].tolist() == [0, 255, 128]
