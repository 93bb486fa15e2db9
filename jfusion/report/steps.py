"""Watching a sampler: a progress bar, and a recording of every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data import image
from jfusion.files import replacing

FORMATS = ("gif", "webp", "png")
SHOWN = 60  # frames of an animation at most, and the last one


class StepBar:
    """A callback of `jfusion.diffusion.samplers` that shows steps done and time left."""

    def __init__(self, name: str):
        self.name, self.bar = name, None

    def __enter__(self) -> StepBar:
        return self

    def __call__(self, k: int, x: Any, clean: Any) -> None:
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=k + 1, desc=self.name, unit="step", leave=False)
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class Recording:
    """A callback that writes `<folder>/<name>/x_NNNN.png` for each step, and an animation at the end.

    frame(x) -> (N, H, W) uint8; sample i > 0 of a batch goes to `<name>_<i>`. kind: "gif", "webp", or
    "png" for the pictures alone.
    """

    def __init__(self, folder: Path, name: str, kind: str, frame: Callable[[Any], np.ndarray]):
        self.folder, self.name, self.kind, self.frame = folder, name, kind, frame
        self.frames: list[list[np.ndarray]] = []

    def __enter__(self) -> Recording:
        return self

    def __call__(self, k: int, x: Any, clean: Any) -> None:
        for i, picture in enumerate(self.frame(x)):
            image.write(self._of(i) / f"x_{k:04d}.png", picture)
            if len(self.frames) <= i:
                self.frames.append([])
            self.frames[i].append(picture)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self.kind != "png":
            for i, frames in enumerate(self.frames):
                self._animate(self._of(i), frames)

    def _of(self, i: int) -> Path:
        return self.folder / (self.name if i == 0 else f"{self.name}_{i}")

    def _animate(self, folder: Path, frames: list[np.ndarray]) -> None:
        from PIL import Image

        chosen = np.unique(np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).astype(int))
        first, *rest = (Image.fromarray(frames[i]) for i in chosen)
        durations = [80] * len(rest) + [1500]
        path = folder.with_name(f"{folder.name}.{self.kind}")
        with replacing(path, "the animation") as temporary:
            first.save(
                temporary,
                format=self.kind,
                save_all=True,
                append_images=rest,
                duration=durations,
                loop=0,
            )
