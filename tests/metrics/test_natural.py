"""NIQE and BRISQUE against LIVE's MATLAB code, and where their parameters come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from jfusion import metrics
from jfusion.errors import UserError
from jfusion.metrics import natural
from jfusion.metrics.natural import Machine, Published

GOLDEN = Path(__file__).parents[1] / "golden/metrics"
IMAGES = ("four", "larger", "odd_max")


def image(name: str) -> np.ndarray:
    """A gray image without flat areas, where both metrics are rounding noise; "four" is 192x256."""
    data = np.load(GOLDEN / "metrics.npz")
    if name == "four":
        parts = [data[f"{n}.F"][:96, :128] for n in ("weighted", "odd_max", "inverted", "noise")]
        return np.block([parts[:2], parts[2:]])
    return data[f"{name}.F"]


@pytest.fixture
def pristine():
    """The made-up model of the fixtures."""
    steps = np.arange(36)
    return (steps + 1) / 20, 0.9 ** np.abs(steps[:, None] - steps)


def test_equals_the_code_of_live(golden, monkeypatch, pristine):
    octave = golden("metrics/octave_natural.npz")
    monkeypatch.setattr(natural, "niqe_parameters", lambda: pristine)
    for name, niqe, features in zip(
        octave["images"], octave["niqe"], octave["features"], strict=True
    ):
        x = image(str(name))
        np.testing.assert_allclose(natural.image_features(x.astype(float)), features, 1e-9)
        if name == "odd_max":
            niqe = np.nan  # of a single block the code takes the variance over its features
        np.testing.assert_allclose(natural.niqe(x), niqe, 1e-9, err_msg=str(name))


def test_a_machine_weighs_the_distances_to_its_vectors():
    vectors = np.zeros((2, 36))
    vectors[1, 0] = 1.0
    machine = Machine(0.5, 0.25, np.array([2.0, -1.0]), vectors, None, None)
    expected = 2 * np.exp(-0.5 * 0.25) - np.exp(-0.5 * 0.25) - 0.25
    assert machine.predict(np.eye(36)[0] / 2) == pytest.approx(expected)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small machine of LIBSVM's format on a "server" of files; the folder in which it is kept."""
    texts = {
        "allmodel": "svm_type epsilon_svr\ngamma 0.05\nrho -50\nSV\n3 1:0.5 36:-1 \n-3 2:1 \n",
        "allrange": "x\n-1 1\n" + "".join(f"{i} 0 {i}\n" for i in range(1, 37)),
    }
    for name, text in texts.items():
        file = Published("live", "commit", name, hashlib.sha256(text.encode()).hexdigest())
        folder = tmp_path / "server/live/commit"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        monkeypatch.setitem(natural.FILES, name, file)
    monkeypatch.setattr(natural, "HOST", (tmp_path / "server").as_uri())
    monkeypatch.setenv("JFUSION_HOME", str(tmp_path / "home"))
    natural.brisque_parameters.cache_clear()
    natural.niqe_parameters.cache_clear()
    yield tmp_path / "home/live"
    natural.brisque_parameters.cache_clear()


def test_parameters_are_fetched_once(published, tmp_path):
    x = image("larger")
    first = metrics.evaluate(x, x, x, names="BRISQUE")
    assert 40 < first["BRISQUE"] < 60
    (tmp_path / "server").rename(tmp_path / "gone")
    natural.brisque_parameters.cache_clear()
    assert metrics.evaluate(np.dstack([x] * 3), x, x, "vifb", "BRISQUE") == first
    machine = natural.brisque_parameters()
    assert machine.vectors.shape == (2, 36) and machine.high.tolist() == list(range(1, 37))


def test_parameters_that_cannot_be_had_are_one_line(published):
    with pytest.raises(UserError, match=r"put .*modelparameters.mat into .*live"):
        metrics.columns("EN,NIQE")
    metrics.columns("BRISQUE")
    (published / "allmodel").write_text("another")
    natural.brisque_parameters.cache_clear()
    with pytest.raises(UserError, match="not the file that was published"):
        metrics.columns("BRISQUE")


def test_all_metrics_need_no_download():
    assert {"NIQE", "BRISQUE"}.isdisjoint(metrics.columns("all"))


@pytest.mark.parametrize("shape", [(1, 1), (95, 300), (191, 100), (192, 96)])
def test_no_statistics_no_value(shape, monkeypatch, pristine, published):
    monkeypatch.setattr(natural, "niqe_parameters", lambda: pristine)
    flat = np.full(shape, 9.0)
    assert np.isnan(natural.niqe(flat)) and np.isnan(natural.brisque(flat))
