"""Two clips, videos or folders of frames: every frame is fused, and the result stays steady.

The range of values, the normalization, the alignment and the rule of color are chosen once, from frames
spread over the clip. A video is made in chunks that a later run of the same command continues.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import processes
from jfusion.data import color, image, video
from jfusion.data.alignment import find_shift
from jfusion.data.image import Header
from jfusion.data.names import listed
from jfusion.data.thermal import ThermalReader
from jfusion.data.video import Clip, FrameFolder
from jfusion.errors import UserError, counted
from jfusion.files import check_output, read_text, write_text
from jfusion.fusing import plan as planning
from jfusion.fusing import task as tasks
from jfusion.fusing.images import Outcome, Source
from jfusion.fusing.method import Method, choose
from jfusion.fusing.result import color_rule
from jfusion.fusing.steady import Steady
from jfusion.fusing.task import Guess
from jfusion.systems.stretch import Stretch

if TYPE_CHECKING:
    from jfusion.commands.fuse import Options

CHUNK = 100  # frames that are lost at most when a run is interrupted
LOOKED_AT = 5  # frames from which the normalization and the color of all are chosen


def fuse(options: Options, settings: Mapping[str, Any]) -> Outcome:
    """Fuses two clips into one. Raises UserError."""
    rate = Fraction(options.fps).limit_denominator(1001)
    a, b = (video.open_clip(path, rate) for path in (options.a, options.b))
    guess = _guess(options, a, b)
    if guess.swapped:
        a, b = b, a
    frames = video.matched(a, b)
    size = _size(options, a, b)
    out = _output(options, b)
    reader = ThermalReader(options.range, options.max_pixels, options.unit)
    reader.check_unit(a.files)
    weights, system = choose(options.weights, options.system, guess)
    print(
        f"{_described(a)} + {_described(b)} -> {out}: {counted(len(frames), 'frame')} of {size[0]}x{size[1]}"
    )
    if len(frames) < len(b.times):
        print(
            f"note: A ends before B; the rest of B, {counted(len(b.times) - len(frames), 'frame')}, is left out"
        )
    if options.dry_run:
        # says what is missing
        Method.find(weights, system).find_text(options.text, guess.task, ["clip"])
        return Outcome()
    if out.suffix and out.exists() and not options.overwrite:
        print(f"note: {out} is there already and stays (--overwrite)")
        return Outcome(kept=[out])
    processes.note_one_process("each frame of a clip follows the one before")
    source = Source.of(options, guess.task, reader)
    method = Method.find(weights, system)
    reader.fix(method.ranges)
    for clip, side in ((a, "a"), (b, "b")):
        clip.prepare(reader, side)
    needed = len(frames) * size[0] * size[1] * (3 if not out.suffix else 1) // 4
    check_output(out.parent if out.suffix else out, "the fused clip", needed, folder=True)
    text = {"text": options.text, "task": guess.task, "names": ["clip"]}
    method.build(settings, options.allow_partial, **text)
    fuser = Fuser(a, b, frames, size, method, source, options.steady, options.seed)
    fuser.look(options.check_alignment)
    write = _write_video if out.suffix else _write_frames
    return write(fuser, out, _record(options, settings, a, b), options.overwrite)


def _guess(options: Options, a: Clip, b: Clip) -> Guess:
    """The task of two clips, by the user, the names, or the first frames."""
    named = options.task or tasks.by_option(options.a_alias, options.b_alias)
    if named:
        return Guess(named, "")
    files = [x.path / "frame" if x.path.is_dir() else x.path for x in (a, b)]
    found = tasks.by_names(files, 1) or tasks.guess(*(next(x.frames([0])) for x in (a, b)))
    return found._replace(swapped=found.swapped and not (options.a_alias or options.b_alias))


def _size(options: Options, a: Clip, b: Clip) -> tuple[int, int]:
    """Height and width of the result. Raises UserError for another aspect that nobody requested."""
    sizes = planning.Sizes.parse(options.size_of, options.size, options.calib is not None)
    headers = [Header(*clip.size, 8, 3) for clip in (a, b)]
    if problem := sizes.problem(*headers, (a.path, b.path)):
        raise UserError(problem)
    return sizes.of(*headers)


def _output(options: Options, b: Clip) -> Path:
    """The video, or the folder of frames, that is written: a video unless both inputs are folders."""
    out = Path(options.out)
    if video.is_video_name(out) and not out.is_dir():
        if out.suffix.lower() not in video.WRITTEN:
            raise UserError(f"videos are written as {', '.join(video.WRITTEN)}, not {out.suffix}")
        video.library()
        return out
    if image.is_image_name(out) and not out.is_dir():
        raise UserError(f"--out {out} is the name of an image, and there are many frames")
    if Path(options.a).is_dir() and Path(options.b).is_dir():
        return out
    return out / f"{b.path.stem if b.path.is_file() else b.path.resolve().name}.mp4"


def _described(clip: Clip) -> str:
    h, w = clip.size
    return f"{clip.path.name} ({counted(len(clip.times), 'frame')} of {h}x{w}, {float(clip.rate):.4g} per second)"


def _record(options: Options, settings: Mapping[str, Any], a: Clip, b: Clip) -> dict[str, Any]:
    """What decides the result, to know whether a part of it is of the same command."""
    ignored = ("a", "b", "out", "overwrite", "dry_run", "skip_bad")
    chosen = {k: v for k, v in asdict(options).items() if k not in ignored}
    inputs = [
        [os.path.realpath(c.path), len(c.times), c.path.stat().st_size, c.path.stat().st_mtime_ns]
        for c in (a, b)
    ]
    return {"inputs": inputs, "options": chosen, "settings": dict(settings)}


@dataclass
class Fuser:
    """Fuses the frames of two clips in order.

    frames: the indices of A and B for each frame. size: height and width of the result.
    """

    a: Clip
    b: Clip
    frames: list[tuple[int, int]]
    size: tuple[int, int]
    method: Method
    source: Source
    steady: bool
    seed: int | None

    def look(self, check_alignment: bool) -> None:
        """Chooses what holds for all frames from a few of them, and notes an apparent misalignment."""
        self.stretch = Stretch()
        spread = np.linspace(0, len(self.frames) - 1, LOOKED_AT + 2)[1:-1].round().astype(int)
        chosen = [self.frames[i] for i in sorted(set(spread.tolist()))]
        images = [
            next(self._read([frame])) for frame in chosen
        ]  # found by seeking, not by decoding
        colored = tuple(any(color.is_color(x[i]) for x in images) for i in (0, 1))
        if self.source.color == "auto" and (rule := color_rule(self.source.task, colored)) in "ab":
            self.source.color = rule
        alignment = self.source.alignment
        alignment.learn([(a, image.resample(b, *self.size)) for a, b in images], "the clip")
        pairs = [self.source.pair("clip", *x, self.size) for x in images]
        check_alignment = check_alignment and not alignment.moves
        if check_alignment and (s := find_shift(pairs[0].a[0], pairs[0].b[0])).suspicious:
            print(f"note: the clips look misaligned: {s} (docs/alignment.md)")
        for pair in pairs:
            with self.stretch.measured():
                self._fused(pair)
            if not np.isfinite(self.stretch.low):  # a system that does not normalize
                break

    def results(self, start: int, before: np.ndarray | None) -> Iterator[np.ndarray]:
        """The fused frames (H, W) or (H, W, 3) uint8 from `start` on; before: the result of the one before.

        What is smoothed is rounded at the end of each chunk, so that a run that was interrupted there and
        continues from the last frame gives the same results.
        """
        steady = Steady()
        if before is not None:
            (x,) = self._read([self.frames[start - 1]])
            pair = self.source.pair("clip", *x, self.size)
            steady.resume(before, pair.a[0] * 255, pair.b[0] * 255)
        for i, x in enumerate(_ahead(self._read(self.frames[start:])), start):
            if i % CHUNK == 0:
                steady.round()
            pair = self.source.pair("clip", *x, self.size)
            with self.stretch.applied():
                result = self._fused(pair)
            if self.steady:
                result = steady.next(result, pair.a[0] * 255, pair.b[0] * 255)
            yield result

    def _read(self, frames: list[tuple[int, int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        indices = [[pair[i] for pair in frames] for i in (0, 1)]
        return zip(self.a.frames(indices[0]), self.b.frames(indices[1]), strict=True)

    def _fused(self, pair: Any) -> np.ndarray:
        pair = pair.replaced(text=self.method.text_of("clip"))
        return self.method.fuse(pair, self.seed)[0]


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, of which the next is made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item


# ---- writing -----------------------------------------------------------------------------------


def _write_frames(fuser: Fuser, out: Path, record: dict[str, Any], overwrite: bool) -> Outcome:
    """Writes one PNG for each frame; those that are there already stay."""
    names = [fuser.b.names[i] for _, i in fuser.frames]
    paths = [out / f"{name}.png" for name in names]
    for clip in (fuser.a, fuser.b):
        if isinstance(clip, FrameFolder) and out.exists() and out.samefile(clip.path):
            raise UserError(f"the frames would be written into {out}, which this command reads")
    start = 0 if overwrite else next((i for i, p in enumerate(paths) if not p.exists()), len(paths))
    if start:
        print(f"note: there already, and kept (--overwrite): {listed(names[:start])}")
    if start == len(paths):
        return Outcome(kept=paths)
    before = image.read_rgb(paths[start - 1]) if start else None
    with _bar(len(paths), start) as bar:
        for path, result in zip(paths[start:], fuser.results(start, before), strict=True):
            image.write(path, result)
            bar.update()
    return Outcome(written=paths[start:], kept=paths[:start])


def _write_video(fuser: Fuser, out: Path, record: dict[str, Any], overwrite: bool) -> Outcome:
    """Writes a video in chunks, and joins them; chunks of the same command that are there already stay.

    Beside each chunk is its last frame, without the losses of a video's compression, to continue from.
    """
    parts = out.with_name(f"{out.name}.parts")
    chunks = [parts / f"{i:05d}.nut" for i in range(-(-len(fuser.frames) // CHUNK))]
    done = _resumed(parts, chunks, record, overwrite)
    times, rate = fuser.b.times, fuser.b.rate
    start = min(done * CHUNK, len(fuser.frames))
    before = image.read_rgb(_last_frame(chunks[done - 1])) if done else None
    if done:
        print(
            f"note: there already: {start} of {counted(len(fuser.frames), 'frame')} ({parts}); the rest follows"
        )
    try:
        with _bar(len(fuser.frames), start) as bar:
            results = _counted(fuser.results(start, before), bar)
            for i in range(done, len(chunks)):
                indices = [b for _, b in fuser.frames[i * CHUNK : (i + 1) * CHUNK]]
                last: deque[np.ndarray] = deque(maxlen=1)
                some = _remembered(itertools.islice(results, len(indices)), last)
                video.write_chunk(chunks[i], some, [times[k] for k in indices], rate)
                image.write(_last_frame(chunks[i]), last[0])
    except KeyboardInterrupt:
        print(f"\nnote: what is done stays in {parts}; the same command continues")
        raise
    video.join(out, chunks)
    shutil.rmtree(parts)
    return Outcome(written=[out])


def _resumed(parts: Path, chunks: list[Path], record: dict[str, Any], overwrite: bool) -> int:
    """How many chunks of an interrupted run of the same command are there; makes the folder if there is none."""
    text = json.dumps(record, indent=1, default=str)
    place = parts / "command.json"
    if parts.exists() and overwrite:
        shutil.rmtree(parts)
    if place.exists():
        if read_text(place, "the record of the video", rewritten=True) != text:
            raise UserError(
                f"{parts} holds a part of a video that other inputs or options made; --overwrite begins anew"
            )
        whole = (p.exists() and _last_frame(p).exists() for p in chunks)
        return next((i for i, there in enumerate(whole) if not there), len(chunks))
    if parts.exists():
        raise UserError(f"{parts} is no folder of jfusion's; rename it, or choose another --out")
    write_text(place, text, "the record of the video")
    return 0


def _last_frame(chunk: Path) -> Path:
    return chunk.with_suffix(".png")


def _remembered(frames: Iterator[np.ndarray], last: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The same frames; `last` holds the newest of them."""
    for frame in frames:
        last.append(frame)
        yield frame


def _bar(total: int, start: int) -> Any:
    """A progress bar over frames, with frames per second."""
    from tqdm import tqdm

    return tqdm(total=total, initial=start, desc="fusing", unit="frame")


def _counted(results: Iterator[np.ndarray], bar: Any) -> Iterator[np.ndarray]:
    """The results as RGB (H, W, 3), counted as they pass."""
    for result in results:
        bar.update()
        yield result if result.ndim == 3 else np.repeat(result[..., None], 3, 2)
