"""The demo pairs."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.data import image, sample
from jfusion.data.layout import find_samples
from jfusion.errors import UserError


@pytest.mark.parametrize("task", ["MFF", "MEF"])
def test_demo_pairs_differ_from_their_truth_where_they_should(tmp_path, task):
    sample.make(tmp_path, task)
    pairs = {split: find_samples(tmp_path, task, "Demo", split) for split in ("train", "test")}
    assert [len(v) for v in pairs.values()] == [6, 2]
    for item in pairs["test"]:
        truth = image.read_rgb(item.a.parent.parent / "TRUTH" / item.a.name).astype(float)
        a, b = (image.read_rgb(p).astype(float) for p in (item.a, item.b))
        assert a.shape == b.shape == truth.shape
        error_a, error_b = (np.abs(x - truth).mean(-1) for x in (a, b))
        assert error_a.mean() > 0.5 and error_b.mean() > 0.5
        if task == "MEF":
            assert (a >= truth - 1).all() and (b <= truth + 1).all()
        else:  # each part is sharp in one of the two
            assert np.minimum(error_a, error_b).mean() < 0.5 * min(error_a.mean(), error_b.mean())
        assert (tmp_path / f"Text/{task}/Demo/{item.name}.txt").read_text().strip()


def test_demo_pairs_do_not_exist_for_every_task(tmp_path):
    with pytest.raises(UserError, match=r"demo pairs exist for .*, not for 'NIR'"):
        sample.make(tmp_path, "NIR")
