"""Alignment of a pair: the check for a shift between its images, and warping one of them.

The check (`find_shift`) computes the normalized mutual information of the two images over small
whole-pixel shifts. What moves an image (`estimate_shift`) searches farther, by the phase correlation of the
directions of edges and by mutual information together, in one pair or in several of one shift.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jfusion.errors import counted

BINS = 32
MAX_SHIFT = 12  # the largest shift that is tried, in pixels
COARSE_SIDE = 160  # images with a longer side are searched at half the size first
MIN_LENGTH = 2.0  # shorter shifts are not reported
# by how much the shared information must rise; measured, see docs/alignment.md
VALUE_GAIN, EDGE_GAIN = 0.1, 0.25
NEAR = 3  # how far a shift is refined at full size
REFINED = 3  # pairs whose mutual information refines a common shift
FAR = 32  # the largest shift that `estimate_shift` tries, in pixels
APART, AGREE = (
    8,
    6,
)  # pixels from which two shifts are different ones, and up to which they are the same
# by how much the best shift must stand out from different ones, in deviations; less where values and
# edges agree; measured, see there too
LEAD, LEAD_AGREED = 2.0, 0.3


class Shift(NamedTuple):
    """How far b is shifted relative to a: b(y + rows, x + columns) shows what a(y, x) shows.

    certainty: how far the shift stands out, divided by how far it must; at 1 or more it is trusted.
    """

    rows: int
    columns: int
    certainty: float

    @property
    def length(self) -> float:
        """The length of the shift in pixels."""
        return float(np.hypot(self.rows, self.columns))

    @property
    def suspicious(self) -> bool:
        """Whether the pair looks misaligned."""
        return self.length >= MIN_LENGTH and self.certainty >= 1

    def __str__(self) -> str:
        return f"b is shifted by {counted(self.columns, 'column', '+d')} and {counted(self.rows, 'row', '+d')} from a"


def normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """(H(a) + H(b)) / H(a, b) of two gray images (H, W), with 32 bins each (Studholme 1999).

    The result is between 1 (nothing is shared) and 2; the values of the images may be any.
    """
    return float(_shared(_binned(a), [_binned(b)])[0])


def find_shift(a: np.ndarray, b: np.ndarray, max_shift: int = MAX_SHIFT) -> Shift:
    """The whole-pixel shift at which two gray images (H, W) share the most information.

    It is searched with the values and with the edges of the images: values are more reliable in
    medical pairs, edges in infrared and visible ones. The more certain of the two results is
    returned. Images with a side of 4 `max_shift` or less are too small; for them the shift is 0.
    """
    if min(a.shape) <= 4 * max_shift:
        return Shift(0, 0, 0.0)
    candidates = [
        Shift(rows, columns, gain / needed)
        for (rows, columns), gain, needed in (
            (*_search(a, b, max_shift), VALUE_GAIN),
            (*_search(_edges(a), _edges(b), max_shift), EDGE_GAIN),
        )
    ]
    return max(candidates, key=lambda s: (s.suspicious, s.certainty))


def estimate_shift(pairs: Iterable[tuple[np.ndarray, np.ndarray]], far: int = FAR) -> Shift:
    """The whole-pixel shift that all pairs of gray images (H, W) have in common, at most `far` pixels.

    Each pair adds two maps over all shifts: the correlation of the directions of edges, by FFT (Fitch et
    al., "Orientation Correlation", BMVC 2002, with directions doubled, so that an edge from dark to bright
    fits one from bright to dark), and the normalized mutual information of the values at a quarter of
    the size. The highest place of their sum, refined at full size, is the shift; it is certain where it
    stands out from all others, or where edges and values agree. Images with a side of 4
    `far` or less are searched less far; raises ValueError without a pair.
    """
    edges, values, fine, corners = 0.0, 0.0, 0.0, []
    for a, b in pairs:
        radius = min(far, min(a.shape) // 4) // 4 * 4
        if radius < 4:
            return Shift(0, 0, 0.0)
        side = 2 * radius + 1
        halves = [_half_size(x) for x in (a, b)]
        fits = standardized(orientation_correlation(*halves, radius // 2))
        shared = standardized(_information_map(*map(_half_size, halves), radius // 4))
        edges, values = edges + _enlarged(fits, side), values + _enlarged(shared, side)
        fine = fine + standardized(orientation_correlation(a, b, radius))
        corners.append((a, b))
    if not corners:
        raise ValueError("no pair of images")
    place, certainty = _peak(edges, values)
    for _ in range(2):  # the first may end at the border of what it searches
        place = _refined(fine, corners[:REFINED], *place)
    return Shift(place[0] - radius, place[1] - radius, certainty)


def _peak(edges: np.ndarray, values: np.ndarray) -> tuple[tuple[int, int], float]:
    """The highest place of the sum of two maps over all shifts, and how certain it is (see `Shift`).

    In the map of two images that share nothing, something is highest too, but other places are as high,
    and the highest places of the two maps have nothing to do with each other.
    """
    both = standardized(edges + values)
    place = _highest(both)
    rows, columns = np.indices(both.shape)
    away = np.maximum(abs(rows - place[0]), abs(columns - place[1]))
    lead = both[place] - both[away > min(APART, len(both) // 4)].max()
    agreed = all(np.abs(np.subtract(_highest(x), place)).max() <= AGREE for x in (edges, values))
    return place, float(lead) / (LEAD_AGREED if agreed else LEAD)


def _highest(x: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(x.argmax(), x.shape)
    return int(row), int(column)


def orientation_correlation(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """How well the directions of edges fit at each shift of b, (2 radius + 1, 2 radius + 1).

    The place (radius + rows, radius + columns) is that of the shift (rows, columns).
    """
    from scipy import fft

    shape = [fft.next_fast_len(n + radius) for n in a.shape]
    first, second = (fft.fft2(_orientations(x), shape) for x in (a, b))
    fit = fft.ifft2(np.conj(first) * second).real
    return np.roll(fit, (radius, radius), (0, 1))[: 2 * radius + 1, : 2 * radius + 1]


def move(image: np.ndarray, shift: Shift, fill: np.ndarray) -> np.ndarray:
    """Image A moved by a shift, so that it fits b: out(y + rows, x + columns) = a(y, x).

    image, fill (H, W, ...) of one shape: `fill` has the values where the moved image has none.
    """
    out = fill.copy()
    h, w = image.shape[:2]
    if abs(shift.rows) < h and abs(shift.columns) < w:
        (to_y, from_y), (to_x, from_x) = (
            (slice(max(d, 0), n + min(d, 0)), slice(max(-d, 0), n + min(-d, 0)))
            for d, n in ((shift.rows, h), (shift.columns, w))
        )
        out[to_y, to_x] = image[from_y, from_x]
    return out


def warp(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The image moved by a displacement field: out(y, x) = image(y + field_y, x + field_x), bilinear.

    image (H, W, C) of any values; field (H, W, 2) in pixels, x first -> (H, W, C) float64. Pixels
    outside the image count as 0.
    """
    from scipy import ndimage

    columns, rows = np.moveaxis(np.asarray(field, np.float64), 2, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    places = [y + rows, x + columns]
    channels = np.moveaxis(image.astype(np.float64), 2, 0)
    moved = [ndimage.map_coordinates(c, places, order=1, mode="grid-constant") for c in channels]
    return np.stack(moved, 2)


def _orientations(x: np.ndarray) -> np.ndarray:
    """The doubled direction of each pixel's gradient as a complex number of length sqrt(gradient)."""
    rows, columns = _gradient(x)
    gradient = columns + 1j * rows
    gradient[[0, 1, -2, -1]] = gradient[:, [0, 1, -2, -1]] = 0
    length = np.abs(gradient)
    return (gradient * gradient / np.maximum(length, 1e-6) ** 1.5).astype(np.complex64)


def _information_map(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """The normalized mutual information at each shift of b, as in `orientation_correlation`."""
    shifts = range(-radius, radius + 1)
    _, values = _best(_binned(a), _binned(b), [(0, 0)], radius, radius)
    return np.array([[values[y, x] for x in shifts] for y in shifts])


def standardized(x: np.ndarray) -> np.ndarray:
    """Values as distances from their median, in robust standard deviations."""
    middle = np.median(x)
    return (x - middle) / (1.4826 * np.median(np.abs(x - middle)) + 1e-12)


def _enlarged(x: np.ndarray, side: int) -> np.ndarray:
    """A square map at more places, its corners kept."""
    from scipy import ndimage

    return ndimage.zoom(x, side / x.shape[0], order=1)


def _refined(
    fine: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], row: int, column: int
) -> tuple[int, int]:
    """The best place of the map `fine` and of the mutual information at most NEAR from a place."""
    radius = fine.shape[0] // 2
    rows, columns = (slice(max(c - NEAR, 0), c + NEAR + 1) for c in (row, column))
    fits = fine[rows, columns]
    places = np.mgrid[rows, columns][:, : fits.shape[0], : fits.shape[1]].reshape(2, -1)
    information = np.zeros(fits.size)
    for a, b in pairs:
        h, w = a.shape
        one, two = _binned(a), _binned(b)
        inner = one[radius : h - radius, radius : w - radius]
        parts = (two[y : y + h - 2 * radius, x : x + w - 2 * radius] for y, x in places.T)
        information += _zero_to_one(_shared(inner, parts))
    best = places[:, np.argmax(_zero_to_one(fits.ravel()) + information / len(pairs))]
    return int(best[0]), int(best[1])


def _zero_to_one(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / max(float(np.ptp(x)), 1e-12)


def _search(a: np.ndarray, b: np.ndarray, max_shift: int) -> tuple[tuple[int, int], float]:
    """The best shift and its gain; large images at half the size first, then around that and 0."""
    centers, radius = [(0, 0)], max_shift
    if max(a.shape) > COARSE_SIDE:
        (row, column), _ = _search(_half_size(a), _half_size(b), -(-max_shift // 2))
        centers, radius = [(0, 0), (2 * row, 2 * column)], 1
    best, values = _best(_binned(a), _binned(b), centers, radius, max_shift)
    shared = values[0, 0] - 1
    return best, (values[best] - 1) / shared - 1 if shared > 1e-9 else 0.0


def _best(
    a: np.ndarray, b: np.ndarray, centers: list[tuple[int, int]], radius: int, max_shift: int
) -> tuple[tuple[int, int], dict[tuple[int, int], float]]:
    """The best shift within `radius` of a center and `max_shift` of 0, and the value of each."""
    around = range(-radius, radius + 1)
    near = ((row + y, column + x) for row, column in centers for y in around for x in around)
    shifts = list(dict.fromkeys(s for s in near if max(map(abs, s)) <= max_shift))
    h, w = (n - 2 * max_shift for n in a.shape)
    inner = a[max_shift : max_shift + h, max_shift : max_shift + w]
    places = ((max_shift + y, max_shift + x) for y, x in shifts)
    shared = _shared(inner, (b[y : y + h, x : x + w] for y, x in places))
    values = dict(zip(shifts, shared.tolist(), strict=True))
    return max(values, key=lambda s: (values[s], -abs(s[0]) - abs(s[1]))), values


def _shared(a: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """The normalized mutual information of bin numbers (H, W) and each of several others: (N,)."""
    row = a * BINS
    counts = [np.bincount((row + b).ravel(), minlength=BINS * BINS) for b in others]
    p = np.reshape(counts, (-1, BINS, BINS)) / a.size
    joint = _entropy(p.reshape(len(p), -1))
    alone = _entropy(p.sum(1)) + _entropy(p.sum(2))
    return np.divide(alone, joint, out=np.ones_like(joint), where=joint > 0)


def _entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of each of several distributions (N, values): (N,)."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1)


def _edges(x: np.ndarray) -> np.ndarray:
    """The root of the gradient's length, clipped: its few largest values would leave no bins."""
    strength = np.sqrt(np.hypot(*_gradient(x)))
    return np.minimum(strength, np.percentile(strength, 99.5))


def _gradient(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's derivatives along rows and columns of the image, smoothed by a Gaussian of 1 pixel.

    SciPy would do it in three lines, but its import alone takes 0.3 s, a third of what a quick method takes
    from its start to the picture, and every pair is looked at.
    """
    gaussian = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    gaussian /= gaussian.sum()
    smooth = _filtered(_filtered(x.astype(np.float32), gaussian).T, gaussian).T
    rows = _filtered(_filtered(smooth, [-1, 0, 1]).T, [1, 2, 1]).T
    columns = _filtered(_filtered(smooth.T, [-1, 0, 1]).T, [1, 2, 1])
    return rows, columns


def _filtered(x: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The correlation of the rows with an odd number of weights; the border is reflected."""
    wide = np.pad(x, [(len(weights) // 2,) * 2, (0, 0)], mode="symmetric")
    out = np.zeros_like(x)
    for i, weight in enumerate(weights):
        if weight:
            out += np.float32(weight) * wide[i : i + len(x)]
    return out


def _half_size(x: np.ndarray) -> np.ndarray:
    """The means of 2x2 pixels."""
    h, w = (n // 2 for n in x.shape)
    return x[: h * 2, : w * 2].reshape(h, 2, w, 2).mean((1, 3))


def _binned(x: np.ndarray) -> np.ndarray:
    """Bin numbers 0..BINS - 1, evenly between the image's extremes."""
    low, high = float(x.min()), float(x.max())
    return np.clip((x - low) * (BINS / max(high - low, 1e-9)), 0, BINS - 1).astype(np.int64)
