"""Folders are fused in a process of their own: progress, stop, and what the command said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jfusion.app.folder_job import FolderJob
from jfusion.app.methods import Methods
from jfusion.app.work import Wish
from jfusion.errors import UserError


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("ir", "vi"):
        (tmp_path / folder).mkdir()
        for name in "123":
            pixels = rng.integers(0, 256, (40, 50), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "ir/3.png").write_bytes(b"broken")
    return tmp_path


def test_all_pairs_but_the_broken_one_are_fused_with_a_report(folders):
    wish = Wish(method="average")
    job = FolderJob(folders / "ir", folders / "vi", folders / "out", wish, Methods(), 1)
    seen = list(job.watch())
    assert job.count == 3 and seen[-1] == job.done == 2 and not job.stopped
    job.check()
    assert (folders / "out/report.html").is_file()
    said = "\n".join(job.said())
    assert "3.png" in said and str(folders) not in said


def test_a_job_is_stopped(folders):
    job = FolderJob(
        folders / "ir", folders / "vi", folders / "out", Wish(method="average"), Methods(), 1
    )
    watched = job.watch()
    next(watched)
    job.stop()
    assert list(watched)[-1] <= 2 and job.stopped and job._process.poll() is not None
    job.check()


def test_a_job_ends_with_its_page(folders):
    job = FolderJob(
        folders / "ir", folders / "vi", folders / "out", Wish(method="average"), Methods(), 1
    )
    watched = job.watch()
    next(watched)
    watched.close()
    assert job._process.poll() is not None


def test_what_cannot_be_fused_is_said(folders):
    wish = Wish(method="average")
    with pytest.raises(UserError, match="does not exist"):
        FolderJob(folders / "no", folders / "vi", folders / "out", wish, Methods(), 1)
    job = FolderJob(folders / "ir", folders / "vi", folders / "out", wish, Methods(), 0.0001)
    assert list(job.watch())[-1] == 0
    with pytest.raises(UserError) as error:
        job.check()
    assert str(folders) not in str(error.value)
