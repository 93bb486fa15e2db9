"""Callbacks for sampling: a progress bar, and a recording of every step.

Each is a context manager and is called as `System.fuse` says: callback(i, x, pred_x0) with the step's
index, counting down to 0, the new x, and the estimate of the final image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data import image
from jfusion.files import replacing

FORMATS = ("gif", "webp", "png")
MOST_FRAMES = 60  # of an animation; they are spread evenly over the steps
FRAME, LAST_FRAME = 80, 1500  # milliseconds


class StepBar:
    """A progress bar that shows the steps done and the time left. `name`: the label before it."""

    def __init__(self, name: str):
        self.name, self.bar = name, None

    def __enter__(self) -> StepBar:
        return self

    def __call__(self, i: int, x: Any, pred_x0: Any) -> None:
        """Advances the bar by one step; the first step says how many there are."""
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=i + 1, desc=self.name, unit="step", leave=False)
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class Recording:
    """Writes `<folder>/<name>/x_NNNN.png` for each step, and an animation at the end.

    Sample i > 0 of a batch goes to `<name>_<i>`. kind: one of `FORMATS`, the format of the animation;
    "png" for the images of the steps alone. preview: maps x to gray images (N, H, W) uint8, as
    `SamplingSystem.preview_step` does. After an error there is no animation.
    """

    def __init__(self, folder: Path, name: str, kind: str, preview: Callable[[Any], np.ndarray]):
        self.folder, self.name, self.kind, self.preview = folder, name, kind, preview
        self.frames: list[list[np.ndarray]] = []  # of each sample

    def __enter__(self) -> Recording:
        return self

    def __call__(self, i: int, x: Any, pred_x0: Any) -> None:
        """Writes the step and keeps it for the animation."""
        for sample, frame in enumerate(self.preview(x)):
            image.write(self._folder_of(sample) / f"x_{i:04d}.png", frame)
            if len(self.frames) <= sample:
                self.frames.append([])
            self.frames[sample].append(frame)

    def __exit__(self, error: type | None, *_: object) -> None:
        if error is None and self.kind != "png":
            for sample, frames in enumerate(self.frames):
                self._animate(self._folder_of(sample), frames)

    def _folder_of(self, sample: int) -> Path:
        return self.folder / (self.name if sample == 0 else f"{self.name}_{sample}")

    def _animate(self, folder: Path, frames: list[np.ndarray]) -> None:
        """Writes the animation of a sample next to the folder of its frames."""
        from PIL import Image

        count = min(MOST_FRAMES, len(frames))
        places = np.unique(np.linspace(0, len(frames) - 1, count).astype(int))
        first, *rest = (Image.fromarray(frames[place]) for place in places)
        path = folder.with_name(f"{folder.name}.{self.kind}")
        with replacing(path, "the animation", "image") as temporary:
            first.save(
                temporary,
                format=self.kind,
                save_all=True,
                append_images=rest,
                duration=[FRAME] * len(rest) + [LAST_FRAME],
                loop=0,
            )
