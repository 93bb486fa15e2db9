"""Clips: videos (the optional extra `video`, PyAV), and folders of frames.

A clip has frames at known times. Two clips are fused at the times of B: each frame of B gets the last frame
of A that was there by then, so that cameras of different rates fit together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from jfusion.data import image
from jfusion.data.depth import Range, RangePolicy, to_uint8
from jfusion.data.names import list_files
from jfusion.errors import UserError, counted, missing, optional, unreadable
from jfusion.files import mark_input, replacing

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # FFmpeg's names
RATE = Fraction(25)  # frames per second of a folder of frames
SAMPLED = 16  # frames whose values set the range of a video of more than 8 bits
QUALITY = {"crf": "18", "preset": "veryfast", "bf": "0"}  # without B-frames, chunks can be joined
BT709 = 1  # FFmpeg's number of the standard for the colors of video, and of its limited range


def is_video_name(path: str | Path) -> bool:
    """Whether a file's name is that of a video: a known ending in any case, and no dot in front."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


class Clip(ABC):
    """Frames at known times.

    path: a video or a folder. size: height and width. times: those of the frames in seconds, rising from
    0. duration: in seconds, the last frame's own time included. names: of the frames. files: theirs, none
    for a video.
    """

    path: Path
    size: tuple[int, int]
    times: list[Fraction]
    duration: Fraction
    names: list[str]
    files: Sequence[Path] = ()

    @abstractmethod
    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 of rising indices, which may repeat. Raises UserError."""

    @abstractmethod
    def prepare(self, reader: image.Reader, side: str) -> None:
        """Chooses the range of values of a clip of more than 8 bits, as `reader` has it for this side."""

    @property
    def rate(self) -> Fraction:
        """Frames per second, on average."""
        return len(self.times) / self.duration

    def sample(self, count: int) -> list[int]:
        """At most `count` indices, evenly spread over the clip."""
        spread = np.linspace(0, len(self.times) - 1, count + 2)[1:-1].round().astype(int)
        return sorted(set(spread.tolist()))


def open_clip(path: str | Path, rate: Fraction = RATE) -> Clip:
    """A video, or a folder of frames in natural order at `rate`. Raises UserError."""
    path = Path(path)
    if path.is_dir():
        return FrameFolder(path, rate)
    return VideoFile(path)


class FrameFolder(Clip):
    """The images of a folder in natural order, at a constant rate."""

    def __init__(self, path: Path, rate: Fraction):
        self.path = path
        files = list_files(path, image.is_image_name, "image")
        self.names, self.files = list(files), list(files.values())
        self.times = [i / rate for i in range(len(self.names))]
        self.duration = len(self.names) / rate
        header = image.header(self.files[0])
        self.size = header.height, header.width
        self._reader, self._side = image.Reader(), ""

    def prepare(self, reader: image.Reader, side: str) -> None:
        """As `Reader.prepare` of the folder's images."""
        self._reader, self._side = reader, side
        reader.prepare(self.files, side)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Clip`. Raises UserError for a frame of another size."""
        for i in indices:
            path = self.files[i]
            rgb = self._reader.rgb(path, self._side)
            if rgb.shape[:2] != self.size:
                h, w = self.size
                raise UserError(
                    f"frame {path} is {rgb.shape[0]}x{rgb.shape[1]}, and the first one {h}x{w}; the frames "
                    "of a clip must have one size"
                )
            yield rgb


class VideoFile(Clip):
    """A video, of which the first video stream is read."""

    DEEP: ClassVar[tuple[str, ...]] = ("gray9", "gray10", "gray12", "gray14", "gray16")

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise missing("video", path)
        mark_input(path)
        self._range: Range | None = None
        self._starts = self._read_times()
        self.names = [f"{i:06d}" for i in range(len(self.times))]
        first = next(self._decoded([0]))
        self.size = first.shape[:2]

    def _read_times(self) -> list[int]:
        """The presentation times of all frames in the stream's unit; sets times and duration."""
        with self._opened() as container:
            stream = self._stream(container)
            unit = stream.time_base
            packets = [
                (p.pts if p.pts is not None else p.dts, p.duration or 0)
                for p in container.demux(stream)
                if p.size
            ]
            rate = stream.average_rate or stream.guessed_rate or RATE
        if any(pts is None for pts, _ in packets):
            step = max(1, round(1 / (rate * unit)))
            packets = [(i * step, step) for i in range(len(packets))]
        packets.sort()
        if not packets:
            raise UserError(f"video {self.path} holds no frame")
        starts = sorted({pts for pts, _ in packets})
        self._unit = unit
        self.times = [(pts - starts[0]) * unit for pts in starts]
        last = packets[-1][1] * unit or 1 / Fraction(rate)
        self.duration = self.times[-1] + last
        return starts

    def prepare(self, reader: image.Reader, side: str) -> None:
        """The range of a gray video of more than 8 bits, from a sample of its frames."""
        if next(self._decoded([0])).dtype != np.uint8:
            sample = (next(self._decoded([i])) for i in self.sample(SAMPLED))
            self._range = reader.ranges.get(side) or reader.policy.resolve(sample)
            reader.note(f"video {side}: values {self._range} become black to white (--range)")

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Clip`."""
        for pixels in self._decoded(indices):
            if pixels.dtype != np.uint8 and self._range is None:
                self._range = RangePolicy().resolve([pixels])
            levels = to_uint8(pixels, self._range)
            yield levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, 2)

    def _decoded(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The pixels of some frames, (H, W, 3) uint8 or (H, W) uint16; a damaged one is the one before."""
        if not len(indices):
            return
        with self._opened() as container:
            stream = self._stream(container)
            # Not threads by frame: FFmpeg waits for them when a decoder is freed, and they for Python's lock.
            stream.thread_type = "SLICE"
            if indices[0]:
                container.seek(self._starts[indices[0]], stream=stream, backward=True)
            decoded, count = self._indexed(container, stream), 0
            index, pixels = next(decoded, (-1, None))
            last = pixels
            for wanted in indices:
                while pixels is not None and index <= wanted:
                    last, count = pixels, count + 1
                    index, pixels = next(decoded, (-1, None))
                last = pixels if last is None else last
                if last is None:
                    raise UserError(f"video {self.path} cannot be decoded from frame {wanted} on")
                yield self._pixels(last)

    def _indexed(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """The frames from the present place on, with their indices."""
        at = 0
        for frame in container.decode(stream):
            if frame.pts is None:
                at += 1
            else:
                at = bisect_right(self._starts, frame.pts) - 1
            yield at, frame

    def _pixels(self, frame: Any) -> np.ndarray:
        if frame.format.name.startswith(self.DEEP):
            pixels = frame.to_ndarray(format="gray16le")
        else:
            pixels = frame.to_ndarray(format="rgb24")
        return np.rot90(pixels, round(frame.rotation / 90)) if frame.rotation else pixels

    def _opened(self) -> Any:
        return _Opened(self.path)

    def _stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise UserError(f"{self.path} holds no video")
        return container.streams.video[0]


class _Opened:
    """An open container; what PyAV raises inside becomes one UserError."""

    def __init__(self, path: Path):
        self.path, self.av = path, library()

    def __enter__(self) -> Any:
        try:
            self.container = self.av.open(str(self.path))
        except Exception as error:
            raise self._error(error) from error
        return self.container

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.container.close()
        if error is not None and isinstance(error, self.av.FFmpegError):
            raise self._error(error) from error

    def _error(self, error: Exception) -> UserError:
        if not isinstance(error, OSError):  # of PyAV, whose text names the file once more
            error = ValueError(getattr(error, "strerror", None) or str(error))
        return unreadable("video", self.path, error, "it is damaged, or no video")


def library() -> ModuleType:
    """PyAV; UserError that names the extra without it."""
    av = optional("av", "PyAV", "reading and writing videos", "video")
    av.logging.set_level(av.logging.FATAL)  # what matters is raised
    return av


# ---- two clips together ------------------------------------------------------------------------


def matched(a: Clip, b: Clip) -> list[tuple[int, int]]:
    """Indices of A and B for each frame of the result, at B's times, as long as both are there.

    Two folders of frames are matched by name. Raises UserError when their names differ.
    """
    if isinstance(a, FrameFolder) and isinstance(b, FrameFolder):
        odd = set(a.names) ^ set(b.names)
        if odd:
            raise UserError(
                f"{a.path} and {b.path}: {counted(len(odd), 'frame')} in one folder alone, such as {min(odd)!r}; "
                "give the frames of a moment one name"
            )
        return [(i, i) for i in range(len(b.names))]
    late = 1 / b.rate / 16  # files round times: a frame that comes so much later is there by then
    return [
        (bisect_right(a.times, t + late) - 1, i)
        for i, t in enumerate(b.times)
        if t + late < a.duration
    ]


# ---- writing -----------------------------------------------------------------------------------


def write_chunk(
    path: str | Path,
    frames: Iterable[np.ndarray],
    times: Sequence[Fraction],
    rate: Fraction,
) -> None:
    """Writes frames (H, W, 3) uint8 at times in seconds as a piece of a video (H.264, no sound).

    rate: frames per second, which the file states. Raises UserError.
    """
    av = library()
    with replacing(path, "a piece of the video", "video") as temporary:
        with av.open(str(temporary), "w", format="nut") as container:
            stream = None
            for pixels, time in zip(frames, times, strict=True):
                stream = stream or _new_stream(container, pixels.shape[:2], rate)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(
                    format=stream.pix_fmt, dst_colorspace=BT709, dst_color_range=BT709
                )
                frame.time_base = stream.codec_context.time_base
                frame.pts = round(time / frame.time_base)
                frame.duration = round(1 / rate / frame.time_base)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


UNIT = Fraction(1, 90000)  # of times in what is written; it divides the usual rates


def _new_stream(container: Any, size: tuple[int, int], rate: Fraction) -> Any:
    """A stream of H.264; sides that are odd keep their size by colors of full resolution."""
    stream = container.add_stream("libx264", rate=rate.limit_denominator(1001), options=QUALITY)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    context = stream.codec_context
    context.time_base = stream.time_base = UNIT
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = BT709
    return stream


def join(path: str | Path, chunks: Sequence[Path]) -> None:
    """Joins pieces of `write_chunk` to one video without another loss. Raises UserError."""
    av = library()
    kind = WRITTEN[Path(path).suffix.lower()]
    with replacing(path, "the video", "video") as temporary:
        with av.open(str(temporary), "w", format=kind) as target:
            stream = None
            for chunk in chunks:
                with _Opened(chunk) as source:
                    origin = source.streams.video[0]
                    if stream is None:
                        stream = target.add_stream_from_template(origin)
                        stream.time_base = UNIT
                    for packet in source.demux(origin):
                        if packet.size:
                            packet.dts = (
                                packet.pts
                            )  # NUT may leave it out; without B-frames they are one
                            packet.stream = stream
                            target.mux(packet)
