"""Clips are read frame by frame, matched in time, and written in pieces."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from jfusion.data import image, video
from jfusion.data.depth import Range
from jfusion.errors import UserError

av = pytest.importorskip("av")


def frames(count, size=(32, 48)):
    """Flat frames, each of a color of its own."""
    return [np.full((*size, 3), (20 * i, 100, 240 - 20 * i), np.uint8) for i in range(count)]


def write(path, count=10, rate=Fraction(10), chunk=4, size=(32, 48)):
    """A video of `frames`, in pieces of `chunk`."""
    times, pixels, pieces = [i / rate for i in range(count)], frames(count, size), []
    for k in range(0, count, chunk):
        pieces.append(path.with_name(f"{path.name}.{k}.nut"))
        video.write_chunk(pieces[-1], pixels[k : k + chunk], times[k : k + chunk], rate)
    video.join(path, pieces)
    return path


@pytest.mark.parametrize(
    "name, rate, size",
    [
        ("a.mp4", Fraction(30000, 1001), (32, 48)),
        ("b.mkv", Fraction(10), (31, 47)),
        ("c.mov", Fraction(24), (32, 48)),
    ],
)
def test_a_joined_video_has_every_frame_at_its_time(tmp_path, name, rate, size):
    clip = video.open_clip(write(tmp_path / name, rate=rate, size=size))
    assert clip.size == size and len(clip.times) == 10
    assert abs(clip.rate - rate) < rate / 100 and abs(clip.duration - 10 / rate) < Fraction(1, 100)
    for i, pixels in zip(range(10), clip.frames(range(10)), strict=True):
        assert abs(pixels[5, 5].astype(int) - (20 * i, 100, 240 - 20 * i)).max() < 6


def test_frames_are_found_in_the_middle_and_may_repeat(tmp_path):
    clip = video.open_clip(write(tmp_path / "a.mp4"))
    reds = [int(x[0, 0, 0]) for x in clip.frames([3, 3, 5, 9])]
    assert np.allclose(reds, [60, 60, 100, 180], atol=6)
    assert abs(int(next(clip.frames([7]))[0, 0, 0]) - 140) < 6


def test_clips_of_different_rates_are_matched_in_time(tmp_path):
    slow = video.open_clip(write(tmp_path / "a.mp4", 3, Fraction(10)))
    fast = video.open_clip(write(tmp_path / "b.mp4", 9, Fraction(30)))
    assert video.matched(slow, fast) == [(i // 3, i) for i in range(9)]
    assert video.matched(fast, slow) == [(0, 0), (3, 1), (6, 2)]
    short = video.open_clip(write(tmp_path / "c.mp4", 2, Fraction(10)))
    assert len(video.matched(short, fast)) == 6


def test_folders_of_frames_are_matched_by_name(tmp_path):
    for folder, names in (("a", "0 1 2"), ("b", "0 1 2"), ("c", "1 2 10")):
        for name in names.split():
            image.write(tmp_path / folder / f"{name}.png", np.zeros((4, 6), np.uint8))
    a, b, c = (video.open_clip(tmp_path / x, Fraction(5)) for x in "abc")
    assert video.matched(a, b) == [(0, 0), (1, 1), (2, 2)] and a.duration == Fraction(3, 5)
    assert c.names == ["1", "2", "10"]
    with pytest.raises(UserError, match="2 frames in one folder alone"):
        video.matched(a, c)
    image.write(tmp_path / "a/2.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(UserError, match="must have one size"):
        list(a.frames([0, 1, 2]))


def test_a_thermal_video_of_16_bits_has_one_range(tmp_path):
    with av.open(str(tmp_path / "t.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=9)
        stream.width, stream.height, stream.pix_fmt = 16, 8, "gray16le"
        for level in (1000, 2000, 3000):
            pixels = np.full((8, 16), level, np.uint16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray16le")))
        container.mux(stream.encode(None))
    clip, reader = video.open_clip(tmp_path / "t.mkv"), image.Reader()
    clip.prepare(reader, "a")
    assert [int(x[0, 0, 0]) for x in clip.frames([0, 1, 2])] == [0, 128, 255]
    reader.fix({"a": Range(0, 4000)})
    clip.prepare(reader, "a")
    assert int(next(clip.frames([1]))[0, 0, 0]) == 128


@pytest.mark.parametrize(
    "content, said",
    [(b"nonsense", "cannot be read"), (b"", "cannot be read"), (None, "does not exist")],
)
def test_what_is_no_video_is_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(UserError, match=said):
        video.open_clip(tmp_path / "x.mp4")


def test_a_truncated_video_is_read_as_far_as_it_goes_or_refused(tmp_path):
    path = write(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[:-300])
    try:
        clip = video.open_clip(path)
        assert len(list(clip.frames(range(len(clip.times))))) == len(clip.times)
    except UserError as error:
        assert "cannot be" in str(error)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'jfusion\[video\]'"):
        video.open_clip(tmp_path / "x.mp4")
