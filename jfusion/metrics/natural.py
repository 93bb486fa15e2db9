"""How natural the fused image alone looks: NIQE and BRISQUE, with the parameters that their authors published.

Both describe the image by the statistics of its locally normalized values, at its own size and at half of
it. NIQE measures the distance to those of pristine photographs; BRISQUE predicts the opinion of observers by a
support vector machine. Both were made for photographs in visible light.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from jfusion.errors import UserError
from jfusion.files import read_text, replacing
from jfusion.metrics.gray_image import Gray, gaussian, gray_images, valid
from jfusion.runtime.cache import cache_home

BLOCK = 96
WINDOW = gaussian(7, 7 / 6)
HALF = tuple(
    np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
)  # a cubic as wide as two pixels of the result
SHAPES = np.arange(200, 10001) / 1000  # shape parameters of a generalized Gaussian that are tried
FEATURES = 36
DOWNLOAD_S = 30  # seconds without an answer


@dataclass(frozen=True)
class Published:
    """A file of parameters in the authors' repository at one commit, with the SHA-256 of its bytes."""

    repository: str
    commit: str
    path: str
    sha256: str


FILES = {
    "modelparameters.mat": Published(
        "utlive/niqe",
        "d80aead297ff48b0254c39806f3a277b3ecbfc8d",
        "modelparameters.mat",
        "fa2aa4d12dd9595c3fb6bf8b4e1a15c79d5d1469238d0901c88dead195be578d",
    ),
    "allmodel": Published(
        "utlive/BRISQUE",
        "2e2a5ac04cd4b73ac0f5867de5b974581fa2d4d2",
        "MATLAB/allmodel",
        "8b04d6045f1b27261610c8ab1730fdcc14ec80bfab0f1ab5f703bbc2927314de",
    ),
    "allrange": Published(
        "utlive/BRISQUE",
        "2e2a5ac04cd4b73ac0f5867de5b974581fa2d4d2",
        "MATLAB/allrange",
        "e47d753d96b631e1aa2dbac8c4e51ade767f2def8ce678c7130b6b3f90ee915f",
    ),
}
HOST = "https://raw.githubusercontent.com"


def niqe(fused: Gray, a: Gray | None = None, b: Gray | None = None) -> float:
    """NIQE: distance of the fused image's statistics from those of pristine photographs. Lower is better.

    fused (H, W) in 0..255; a and b do not count. In blocks of 96, without what is left over at the far
    borders; NaN with fewer than two blocks. Where the image is flat, such as where it is saturated, the
    statistics are rounding noise, as in the reference. Source: Mittal, Soundararajan and Bovik 2013; LIVE's MATLAB release
    with its parameters.
    """
    x = gray_images(fused)[0].pixels
    rows, columns = (n // BLOCK for n in x.shape)
    if rows * columns < 2:
        return math.nan
    x = x[: rows * BLOCK, : columns * BLOCK]
    return niqe_distance(block_features(x), *niqe_parameters())


def niqe_distance(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The distance of blocks' features (N, 36) from pristine ones of a mean (36,) and covariance (36, 36)."""
    complete = features[np.isfinite(features).all(1)]  # a flat block has no statistics
    if len(complete) < 2:
        return math.nan
    difference = mean - np.nanmean(np.where(np.isfinite(features), features, np.nan), axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(complete.T)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def brisque(fused: Gray, a: Gray | None = None, b: Gray | None = None) -> float:
    """BRISQUE: the opinion of observers, predicted from the fused image's statistics. Lower is better.

    fused (H, W) in 0..255; a and b do not count. About 0..100; NaN for a constant image, rounding noise where
    the image is flat (see NIQE). Source: Mittal, Moorthy and Bovik 2012; LIVE's MATLAB release with its
    support vector machine, features rounded as it writes them to a file.
    """
    features = image_features(gray_images(fused)[0].pixels)
    if not np.isfinite(features).all():
        return math.nan
    machine = brisque_parameters()
    scaled = 2 * (np.round(features, 6) - machine.low) / (machine.high - machine.low) - 1
    scaled = np.array([float(f"{value:g}") for value in scaled])
    return machine.predict(scaled)


@dataclass(frozen=True)
class Machine:
    """A support vector machine with a radial kernel, and the ranges (36,) of the features it was trained on."""

    gamma: float
    offset: float
    weights: np.ndarray
    vectors: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def predict(self, features: np.ndarray) -> float:
        """The value of scaled features (36,)."""
        distances = ((self.vectors - features) ** 2).sum(1)
        return float(self.weights @ np.exp(-self.gamma * distances) - self.offset)


@lru_cache(maxsize=1)
def niqe_parameters() -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs."""
    from scipy.io import loadmat

    held = loadmat(parameters_file("modelparameters.mat"))
    return held["mu_prisparam"].ravel(), held["cov_prisparam"]


@lru_cache(maxsize=1)
def brisque_parameters() -> Machine:
    """LIVE's machine, from LIBSVM's text files."""
    ranges = read_text(parameters_file("allrange"), "BRISQUE").splitlines()[2:]
    low, high = np.array([line.split()[1:] for line in ranges], float).T
    head, _, vectors = read_text(parameters_file("allmodel"), "BRISQUE").partition("\nSV")
    settings = dict(line.split(maxsplit=1) for line in head.splitlines())
    rows = [line.split() for line in vectors.splitlines() if line.strip()]
    matrix = np.zeros((len(rows), FEATURES))
    for row, (_, *entries) in zip(matrix, rows, strict=True):
        for entry in entries:
            place, _, value = entry.partition(":")
            row[int(place) - 1] = float(value)
    weights = np.array([float(row[0]) for row in rows])
    return Machine(float(settings["gamma"]), float(settings["rho"]), weights, matrix, low, high)


def parameters_file(name: str) -> Path:
    """A file of published parameters, fetched once into `<cache>/live`. Raises UserError that says how to get it."""
    file, path = FILES[name], cache_home() / "live" / name
    url = f"{HOST}/{file.repository}/{file.commit}/{file.path}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_S) as answer:
                with replacing(path, "the file", "parameters") as target, target.open("wb") as out:
                    shutil.copyfileobj(answer, out)
        except OSError as error:
            raise UserError(
                f"NIQE and BRISQUE need the parameters that their authors published: put {url} into "
                f"{path.parent} ({error})"
            ) from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
        raise UserError(f"{path} is not the file that was published; remove it, and get {url}")
    return path


def block_features(x: np.ndarray) -> np.ndarray:
    """The 36 features of each block of 96: (blocks, 36). x (H, W), whole blocks, its border repeated."""
    found = []
    for side in (BLOCK, BLOCK // 2):
        normalized = _normalized(x, "edge")
        rows, columns = (n // side for n in normalized.shape)
        blocks = normalized.reshape(rows, side, columns, side).transpose(2, 0, 1, 3)
        found.append([_block(block) for block in blocks.reshape(-1, side, side)])
        x = _halved(x)
    return np.hstack(found)


def _block(x: np.ndarray) -> list[float]:
    shape, left, right = _asymmetric(x)
    scale = _scale(shape)
    features = [shape, (left + right) / 2 * scale]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _asymmetric(x * np.roll(x, shift, (0, 1)))
        scale = _scale(shape)
        features += [shape, _mean(shape, left, right), left * scale, right * scale]
    return features


def image_features(x: np.ndarray) -> np.ndarray:
    """The 36 features of an image (H, W), black outside."""
    features: list[float] = []
    for _ in range(2):
        normalized = _normalized(x, "constant")
        square = float(np.mean(normalized**2))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = square / np.mean(np.abs(normalized)) ** 2
        features += [_nearest(np.abs(ratio - 1 / _ratios())), square]
        for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
            shape, left, right = _asymmetric(normalized * np.roll(normalized, shift, (0, 1)))
            features += [shape, _mean(shape, left, right), left**2, right**2]
        x = _halved(x)
    return np.array(features)


def _normalized(x: np.ndarray, border: str) -> np.ndarray:
    """Each value less the local mean, over the local standard deviation + 1."""
    padded = np.pad(x, len(WINDOW) // 2, mode=border)
    mean = valid(padded, WINDOW)
    deviation = np.sqrt(np.abs(valid(padded * padded, WINDOW) - mean * mean))
    return (x - mean) / (deviation + 1)


def _halved(x: np.ndarray) -> np.ndarray:
    """MATLAB's imresize(x, 0.5): a cubic of twice the width, the border mirrored."""
    odd = [n % 2 for n in x.shape]
    return valid(np.pad(x, [(3, 3 + n) for n in odd], mode="symmetric"), HALF, step=2)


def _asymmetric(x: np.ndarray) -> tuple[float, float, float]:
    """Shape and the standard deviations left and right of zero of an asymmetric generalized Gaussian."""
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (_root_mean_square(x[side]) for side in (x < 0, x > 0))
        skew = np.float64(left) / right
        ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return _nearest((_ratios() - ratio) ** 2), left, right


def _nearest(differences: np.ndarray) -> float:
    """The shape parameter of the least difference; NaN where there is none."""
    return float(SHAPES[np.argmin(differences)]) if np.isfinite(differences).all() else math.nan


def _root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else math.nan


def _mean(shape: float, left: float, right: float) -> float:
    """The mean of an asymmetric generalized Gaussian."""
    from scipy.special import gamma

    return (right - left) * _scale(shape) * gamma(2 / shape) / gamma(1 / shape)


def _scale(shape: float) -> float:
    from scipy.special import gamma

    return float(np.sqrt(gamma(1 / shape) / gamma(3 / shape)))


@lru_cache(maxsize=1)
def _ratios() -> np.ndarray:
    """The squared mean absolute value over the mean square, for each of SHAPES."""
    from scipy.special import gamma

    return gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
