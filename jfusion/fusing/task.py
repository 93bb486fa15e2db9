"""Which task a pair of images is of, where nobody says it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfusion.data import color
from jfusion.data.image import Reader
from jfusion.data.layout import FOLDERS, TASKS
from jfusion.errors import UserError

# The options for images A and B that also name the task.
SIDES = {
    "IVF": ("ir", "vi"),
    "MIF": ("mri", "pet"),
    "MEF": ("over", "under"),
    "MFF": ("near", "far"),
    "NIR": ("nir", "rgb"),
    "PIF": ("dolp", "s0"),
}
COLORED = 2.0  # levels by which the channels of a colored image differ on average
SAME_SCENE = 0.95  # correlation of two gray images above which one camera took both
EXPOSURE = 0.1  # difference of the mean lumas, of 1, above which two images are exposures


class Guess(NamedTuple):
    """A task, why, and whether A and B have changed places: A is the gray (infrared) image."""

    task: str
    reason: str
    swapped: bool = False


def by_option(alias_a: str, alias_b: str) -> str | None:
    """The task that options such as --ir and --vi name; None for plain A and B. UserError for two tasks."""
    tasks = {x: t for t, names in SIDES.items() for x in (alias_a, alias_b) if x in names}
    if len(set(tasks.values())) > 1:
        raise UserError(
            f"--{alias_a} is of {tasks[alias_a]} and --{alias_b} of {tasks[alias_b]}; use options of one "
            "task, or --a and --b"
        )
    return next(iter(tasks.values()), None)


def find(
    named: str | None,
    alias_a: str,
    alias_b: str,
    pairs: list[tuple[str, Path, Path]],
    reader: Reader,
) -> Guess:
    """The task that the user named, or that the options for A and B name, or that the first pair shows.

    pairs: their names and files. Where none can be read, it is IVF.
    """
    task = named or by_option(alias_a, alias_b)
    if task:
        return Guess(task, "")
    found = by_names(pairs[0][1:], len(pairs)) or by_images(pairs, reader)
    # Options such as --a and --b say which is which.
    return found._replace(swapped=found.swapped and not (alias_a or alias_b))


def by_images(pairs: list[tuple[str, Path, Path]], reader: Reader) -> Guess:
    """What the first pair that can be read shows."""
    for _, a, b in pairs:
        with contextlib.suppress(UserError):
            return guess(reader.rgb(a), reader.rgb(b))
    return Guess("IVF", "")


def by_names(files: Sequence[Path], count: int) -> Guess | None:
    """What the names of two folders (`ir`, `vi`) say, or of two files of unequal names; None: nothing."""
    a, b = files
    names = (a.parent, b.parent) if count > 1 or a.stem == b.stem else (a, b)
    return _by_names(*(path.absolute().stem.lower() for path in names))


def guess(rgb_a: np.ndarray, rgb_b: np.ndarray) -> Guess:
    """The task of a pair of images, (H, W, 3) uint8 each.

    One gray and one in color are infrared and visible. Two in color, or two gray ones that are much
    alike, are exposures where their mean lumas differ, otherwise of two focuses. Other gray ones are
    taken for infrared and visible.
    """
    colored = [_is_colored(x) for x in (rgb_a, rgb_b)]
    if colored == [False, True]:
        return Guess("IVF", "A is gray and B in color")
    if colored == [True, False]:
        return Guess("IVF", "B is gray and A in color: B is taken as the infrared image", True)
    grays = [color.gray(x) / 255 for x in (rgb_a, rgb_b)]
    kind = "in color" if any(colored) else "gray and much alike"
    if not any(colored) and _correlation(*grays) < SAME_SCENE:
        return Guess("IVF", "both are gray")
    if abs(float(grays[0].mean() - grays[1].mean())) > EXPOSURE:
        return Guess("MEF", f"both are {kind}, and one is brighter")
    return Guess("MFF", f"both are {kind}, and equally bright")


def _by_names(a: str, b: str) -> Guess | None:
    """The task whose folders have these names, in either order."""
    for name, task in TASKS.items():
        first = {task.folder_a.lower(), SIDES[name][0], *(x.lower() for x in FOLDERS[name][0])}
        second = {task.folder_b.lower(), SIDES[name][1], *(x.lower() for x in FOLDERS[name][1])}
        if a in first and b in second:
            return Guess(name, f"by the names {a} and {b}")
        if b in first and a in second:
            return Guess(name, f"by the names {a} and {b}: {b} is taken as images A", True)
    return None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two gray images (H, W); 0 for images of unequal size, and for flat ones."""
    if a.shape != b.shape or not (a.std() and b.std()):
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _is_colored(rgb: np.ndarray) -> bool:
    """Whether an image has more color than a JPEG of a gray one, whose channels differ by a level or so."""
    values = rgb.astype(np.int16)
    return float((values.max(-1) - values.min(-1)).mean()) > COLORED
