"""Fused clips are evaluated frame by frame, and as a whole by their flicker. Needs no Jittor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jfusion import metrics, processes
from jfusion.data import color, image, video
from jfusion.errors import UserError, counted
from jfusion.metrics.temporal import Flicker

STEADY = 1.2  # a clip of at most this flicker counts as steady


@dataclass
class ClipValues:
    """By method: the metrics of each frame, and the flicker of the clip."""

    frames: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    flicker: dict[str, float] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """A line about each method's flicker."""
        return [f"{method}: {_judged(value)}" for method, value in self.flicker.items()]


def _judged(flicker: float) -> str:
    if math.isnan(flicker):
        return "no flicker is measured (one frame, or sources that do not change at all)"
    judgment = "steady" if flicker <= STEADY else f"above {STEADY}: unsteady"
    return f"flicker {flicker:.2f} (the change of what rests, over that of the sources; {judgment})"


def evaluate(
    a: str | Path,
    b: str | Path,
    fused: Mapping[str, str | Path],
    preset: str,
    columns: list[str],
    reader: image.Reader,
) -> ClipValues:
    """Evaluates the fused clips of several methods, videos or folders of frames, against sources A and B.

    fused: method -> clip, with a frame for each frame of B while A lasts. Raises UserError.
    """
    from tqdm import tqdm

    sources = [video.open_clip(path) for path in (a, b)]
    clips = {method: video.open_clip(path) for method, path in fused.items()}
    for side, clip in (*zip("AB", sources, strict=True), *clips.items()):
        clip.prepare(reader, side)
    frames = video.matched(*sources)
    for method, clip in clips.items():
        if len(clip.times) != len(frames):
            raise UserError(
                f"{method} has {counted(len(clip.times), 'frame')} and its sources have {len(frames)}; give the clip of "
                "these sources"
            )
    processes.note_one_process("the frames of a clip are compared with those before them")
    values = ClipValues({method: {} for method in clips})
    ratios = {method: Flicker() for method in clips}
    streams = [clip.frames([pair[i] for pair in frames]) for i, clip in enumerate(sources)]
    streams += [clip.frames(range(len(frames))) for clip in clips.values()]
    names = [sources[1].names[i] for _, i in frames]
    bar = tqdm(zip(names, *streams, strict=True), "evaluating", len(names), unit="frame")
    for name, one, two, *results in bar:
        size = results[0].shape[:2]
        one, two = (image.resample(x, *size) for x in (one, two))
        first, second = (metrics.prepare(x, preset) for x in (one, two))
        for method, result in zip(clips, results, strict=True):
            of_result = metrics.prepare(result, preset)
            row = metrics.evaluate(of_result, first, second, preset, columns)
            values.frames[method][name] = row
            ratios[method].add(*(color.gray(x) for x in (result, one, two)))
    values.flicker = {method: ratio.value for method, ratio in ratios.items()}
    return values
