"""The calibration of a rig of two cameras: a homography from image A to image B, in a file.

A homography is right for a scene that is far away, or flat, or seen from one place. It is read from JSON
or OpenCV's YAML, and made from points or from the images of a rig.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfusion.data.alignment import orientation_correlation, standardized
from jfusion.errors import UserError, counted, printable
from jfusion.files import read_text, write_text

RADII = 0.06, 0.045, 0.045  # of a window's search in each round, in parts of B's longer side
LEAST = 8  # pixels of a search radius, at least
GRID = 6, 8  # windows of an image whose displacements are measured
SCALES = np.geomspace(0.5, 2, 29)  # by how much A may be larger or smaller than it fills B
COARSE = 120  # rows of the images in which the scale is searched
SHARPNESS = 5.0  # height of a window's peak over its map, in deviations, from which it counts
ENOUGH = 8  # windows that a homography is fitted to, at least


class Calibration(NamedTuple):
    """A homography (3, 3) from pixels (x, y) of A to those of B, whose centers are whole numbers.

    size_a, size_b: height and width of the images that it is of, None if unknown. residual: the root of
    the mean squared distance in pixels of B that the fit left, None if unknown.
    """

    homography: np.ndarray
    size_a: tuple[int, int] | None = None
    size_b: tuple[int, int] | None = None
    residual: float | None = None

    def apply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A (H, W, C) on B's grid (h, w, C), bilinear; where A has nothing, B shows.

        Images of another size than the calibrated ones, as of another resolution of one camera, are
        scaled. The result has the type of `a`.
        """
        from scipy import ndimage

        matrix = self.scaled(a.shape[:2], b.shape[:2])
        y, x = np.mgrid[: b.shape[0], : b.shape[1]]
        back = np.linalg.inv(matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        with np.errstate(divide="ignore", invalid="ignore"):
            places = (back[:2] / back[2])[::-1].reshape(2, *x.shape)
        limits = np.array(a.shape[:2])[:, None, None]
        inside = ((places > -0.5) & (places < limits - 0.5)).all(0) & (back[2] > 0).reshape(x.shape)
        out = b.astype(a.dtype).copy()
        for channel in range(a.shape[2]):
            source = a[..., channel].astype(np.float32)
            values = ndimage.map_coordinates(source, places[:, inside], order=1, mode="nearest")
            out[inside, channel] = np.round(values) if a.dtype == np.uint8 else values
        return out

    def scaled(self, size_a: tuple[int, int], size_b: tuple[int, int]) -> np.ndarray:
        """The homography for images of these sizes."""
        to_a = _resized(size_a, self.size_a or size_a)
        from_b = _resized(self.size_b or size_b, size_b)
        return from_b @ self.homography @ to_a


def _resized(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The map of pixels of an image to those of one of another size."""
    y, x = (n / o for n, o in zip(new, old, strict=True))
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


# ---- files -------------------------------------------------------------------------------------


def read(path: str | Path) -> Calibration:
    """A calibration from JSON (ours, or a matrix of 3 rows) or OpenCV's YAML or JSON. Raises UserError."""
    text = read_text(path, "the calibration")
    try:
        values = _yaml(text) if text.lstrip().startswith("%YAML") else json.loads(text)
        matrix = np.array(_matrix(values), float)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError
        sizes = [_size(values, f"size_{side}") for side in "ab"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f'{path} holds no homography; it must be JSON such as {{"homography": [[1, 0, 0], [0, 1, 0], '
            "[0, 0, 1]]}, or OpenCV's YAML with a matrix of 3x3"
        ) from error
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise UserError(f"{path}: the homography has no inverse; calibrate again")
    residual = values.get("residual") if isinstance(values, dict) else None
    return Calibration(matrix, *sizes, residual)


def write(path: str | Path, calibration: Calibration) -> None:
    """Writes a calibration as JSON. Raises UserError."""
    values = {
        "homography": calibration.homography.tolist(),
        "size_a": calibration.size_a,
        "size_b": calibration.size_b,
        "residual": calibration.residual,
    }
    write_text(path, json.dumps(values, indent=1) + "\n", "the calibration")


def _matrix(values: Any) -> Any:
    """The homography among what a file holds: by its name, or the only matrix of 3x3."""
    if not isinstance(values, dict):
        return values
    for name in ("homography", "H", "Homography", "M"):
        if name in values:
            return _plain(values[name])
    matrices = [m for m in map(_plain, values.values()) if np.shape(m) == (3, 3)]
    if len(matrices) != 1:
        raise ValueError
    return matrices[0]


def _plain(value: Any) -> Any:
    """Rows of OpenCV's matrix {rows, cols, data}; anything else as it is."""
    if isinstance(value, dict) and "data" in value:
        return np.reshape(value["data"], (int(value["rows"]), int(value["cols"]))).tolist()
    return value


def _yaml(text: str) -> Any:
    """OpenCV's YAML, whose first line and tags the standard does not know."""
    import yaml

    try:
        return yaml.safe_load(re.sub(r"^%YAML[^\n]*\n(---)?|!![\w-]*opencv-matrix", "", text))
    except yaml.YAMLError as error:
        raise ValueError from error


def _size(values: Any, name: str) -> tuple[int, int] | None:
    size = values.get(name) if isinstance(values, dict) else None
    if size is None:
        return None
    height, width = (int(n) for n in size)
    if min(height, width) < 1:
        raise ValueError
    return height, width


# ---- from points -------------------------------------------------------------------------------


def read_points(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Points of A and of B, (N, 2) each as x, y: lines of four numbers `xa ya xb yb`, also with commas.

    A first line without numbers is a header, and # begins a comment. Raises UserError.
    """
    rows = []
    for number, line in enumerate(read_text(path, "the points").splitlines(), 1):
        words = re.split(r"[\s,;]+", line.partition("#")[0].strip(" \t,;"))
        try:
            values = [float(word) for word in words if word]
        except ValueError as error:
            if number == 1:
                continue
            raise UserError(
                f"{path}, line {number}: {printable(line, 60)!r} holds no four numbers"
            ) from error
        if values and (len(values) != 4 or not np.isfinite(values).all()):
            raise UserError(
                f"{path}, line {number}: a line must hold four numbers, xa ya xb yb, not {printable(line, 60)!r}"
            )
        rows += [values] if values else []
    if len(rows) < 4:
        raise UserError(
            f"{path} holds {counted(len(rows), 'pair')} of points; a homography needs 4 or more"
        )
    both = np.array(rows)
    return both[:, :2], both[:, 2:]


def from_points(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """The homography that fits points (N, 2) of A to those of B best, by the normalized direct linear
    transform (Hartley and Zisserman, algorithm 4.2). Raises UserError for points that decide none."""
    (one, from_a), (two, from_b) = _normalized(a), _normalized(b)
    zero, ones = np.zeros((len(a), 3)), np.ones((len(a), 1))
    points = np.hstack([one, ones])
    weights = np.ones(len(a)) if weights is None else weights
    rows = np.vstack(
        [
            weights[:, None] * np.hstack([points, zero, -two[:, :1] * points]),
            weights[:, None] * np.hstack([zero, points, -two[:, 1:] * points]),
        ]
    )
    _, values, vectors = np.linalg.svd(rows)
    matrix = np.linalg.inv(from_b) @ vectors[-1].reshape(3, 3) @ from_a
    if values[7] < 1e-9 * values[0] or abs(np.linalg.det(matrix)) < 1e-15:
        raise UserError(
            "the points do not decide a homography; use four or more, no three on a line"
        )
    matrix = matrix / matrix[2, 2]
    distances = np.linalg.norm(transformed(matrix, a) - b, axis=1)
    return Calibration(matrix, residual=float(np.sqrt(np.average(distances**2, weights=weights))))


def transformed(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) as x, y under a homography."""
    moved = np.hstack([points, np.ones((len(points), 1))]) @ homography.T
    return moved[:, :2] / moved[:, 2:]


def _normalized(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points around 0 at a mean distance of sqrt(2), and the matrix that makes them so."""
    center = points.mean(0)
    scale = np.sqrt(2) / max(np.linalg.norm(points - center, axis=1).mean(), 1e-12)
    matrix = np.array([[scale, 0, -scale * center[0]], [0, scale, -scale * center[1]], [0, 0, 1]])
    return (points - center) * scale, matrix


# ---- from the images of a rig ------------------------------------------------------------------


def estimate(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Calibration:
    """The homography that all pairs of one rig have in common; gray images, A (H, W) and B (h, w).

    First the scale and the shift at which the directions of edges fit best, in small images; then, in a
    few rounds, A is warped as known so far, the displacement of each of 6x8 windows is measured in all
    pairs together, and a homography is fitted to them. Raises UserError when too few windows fit.
    """
    size_a, size_b = pairs[0][0].shape, pairs[0][1].shape
    matrix = _coarse(pairs)
    known = Calibration(matrix, size_a, size_b)
    for part in RADII:
        radius = max(LEAST, round(part * max(size_b)))
        points, moved, weights = _displacements(pairs, known, radius)
        if len(points) < ENOUGH:
            raise UserError(
                f"edges fit in {len(points)} of {GRID[0] * GRID[1]} places of these pairs; use more pairs of "
                "one rig, or points (--points)"
            )
        back = transformed(np.linalg.inv(known.homography), points)
        for _ in range(3):  # a window on something near is none of the rest
            fit = from_points(back, moved, weights)
            errors = np.linalg.norm(transformed(fit.homography, back) - moved, axis=1)
            weights = weights * (errors <= max(3 * np.median(errors), 1.0))
        known = fit._replace(size_a=size_a, size_b=size_b)
    return known


def _coarse(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The scale and the shift at which the edges of small images fit best, as a homography."""
    from jfusion.data.image import resize

    h, w = pairs[0][1].shape
    factor = min(1.0, COARSE / h)
    rows, columns = max(8, round(h * factor)), max(8, round(w * factor))
    best = (-np.inf, np.eye(3))
    for scale in SCALES:
        total = 0.0
        height, width = pairs[0][0].shape
        fitted = scale * max(rows / height, columns / width)  # at 1, A fills B
        size = max(8, round(height * fitted)), max(8, round(width * fitted))
        canvas = max(rows, size[0]), max(columns, size[1])
        for a, b in pairs:
            grays = [
                _centered(resize(x.astype(np.float32), *s), canvas)
                for x, s in ((a, size), (b, (rows, columns)))
            ]
            fit = orientation_correlation(*grays, min(canvas) // 3)
            total = total + (fit - np.median(fit)) / (fit.std() + 1e-12)
        peak = np.unravel_index(np.argmax(total), total.shape)
        if total[peak] > best[0]:
            radius = min(canvas) // 3
            shift_y, shift_x = (
                p - radius + (c - s) // 2 - (c - r) // 2
                for p, c, s, r in zip(peak, canvas, size, (rows, columns), strict=True)
            )
            matrix = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]], float)
            to_small, to_full = _resized((height, width), size), _resized((rows, columns), (h, w))
            best = float(total[peak]), to_full @ matrix @ to_small
    return best[1]


def _centered(x: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """The image in the middle of a larger canvas, its border repeated."""
    before = [(c - n) // 2 for c, n in zip(canvas, x.shape, strict=True)]
    after = [c - n - f for c, n, f in zip(canvas, x.shape, before, strict=True)]
    return np.pad(x, list(zip(before, after, strict=True)), mode="edge")


def _displacements(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], known: Calibration, radius: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places in B of windows of the warped A, where each fits best, and how surely: (N, 2), (N, 2), (N,)."""
    h, w = pairs[0][1].shape
    warped = []
    for a, b in pairs:
        moved = known.apply(a[..., None].astype(np.float32), np.full((h, w, 1), np.nan, np.float32))
        warped.append((moved[..., 0], b))
    side = max(4 * radius, min(h, w) // 4)
    side = min(side, min(h, w))
    points, moved, weights = [], [], []
    for top in np.linspace(0, h - side, GRID[0]).round().astype(int):
        for left in np.linspace(0, w - side, GRID[1]).round().astype(int):
            window = np.s_[top : top + side, left : left + side]
            total, count = 0.0, 0
            for a, b in warped:
                if np.isfinite(a[window]).all():
                    fit = orientation_correlation(a[window], b[window], radius)
                    total, count = total + fit / (np.abs(fit).max() + 1e-12), count + 1
            if not count:
                continue
            y, x = np.unravel_index(np.argmax(total), total.shape)
            sharp = float(standardized(total)[y, x])
            if sharp < SHARPNESS or not (0 < y < 2 * radius and 0 < x < 2 * radius):
                continue
            center = np.array([left, top]) + (side - 1) / 2
            shift_x = x - radius + _vertex(total[y, x - 1 : x + 2])
            shift_y = y - radius + _vertex(total[y - 1 : y + 2, x])
            points.append(center)
            moved.append((center[0] + shift_x, center[1] + shift_y))
            weights.append(min(sharp / SHARPNESS, 4))
    return np.array(points), np.array(moved), np.array(weights)


def _vertex(values: np.ndarray) -> float:
    """Where the parabola through three values, the middle one the largest, has its top: -0.5..0.5."""
    before, middle, after = values
    curvature = before - 2 * middle + after
    return 0.0 if curvature >= 0 else float(np.clip((before - after) / (2 * curvature), -0.5, 0.5))
