"""`jfusion fuse` with two clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jfusion.cli import main
from jfusion.data import image, video
from jfusion.fusing import clips

av = pytest.importorskip("av")


@pytest.fixture
def pair(tmp_path):
    """Two folders of seven frames: a warm spot that moves, and a colored scene."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 200, (6, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    for t in range(7):
        warm = np.full((48, 64), 20, np.uint8)
        warm[10:20, 5 * t : 5 * t + 10] = 240
        image.write(tmp_path / f"ir/{t}.png", warm)
        image.write(
            tmp_path / f"vi/{t}.png", scene + rng.integers(0, 6, scene.shape).astype(np.uint8)
        )
    return tmp_path / "ir", tmp_path / "vi"


def fused(a, b, out, *options):
    return main(["fuse", str(a), str(b), "-o", str(out), "--method", "laplacian", *options])


def as_video(folder, path, rate=Fraction(10)):
    """The frames of a folder as a video."""
    pixels = [image.read_rgb(p) for p in sorted(folder.glob("*.png"))]
    part = path.with_suffix(".nut")
    video.write_chunk(part, pixels, [i / rate for i in range(len(pixels))], rate)
    video.join(path, [part])
    return path


def test_two_folders_give_a_video_of_their_length(pair, tmp_path, capsys):
    assert fused(*pair, tmp_path / "out.mp4", "--fps", "12") == 0
    clip = video.open_clip(tmp_path / "out.mp4")
    assert (clip.size, len(clip.times), round(clip.rate)) == ((48, 64), 7, 12)
    last = next(clip.frames([6]))
    assert last[15, 35:38].mean() > last[40, 35:38].mean() and np.ptp(last[40, 5], -1) > 0
    assert not (tmp_path / "out.mp4.parts").exists()
    assert fused(*pair, tmp_path / "out.mp4") == 0
    assert "is there already and stays" in capsys.readouterr().out


def test_two_videos_keep_bs_rate(pair, tmp_path):
    a = as_video(pair[0], tmp_path / "a.mp4", Fraction(5))
    b = as_video(pair[1], tmp_path / "b.mp4", Fraction(10))
    assert fused(a, b, tmp_path / "o") == 0
    clip = video.open_clip(tmp_path / "o/b.mp4")
    assert len(clip.times) == 7 and round(clip.rate) == 10


def test_folders_with_clip_give_frames_and_missing_ones_are_added(pair, tmp_path, capsys):
    out = tmp_path / "out"
    assert fused(*pair, out, "--clip") == 0
    assert sorted(p.name for p in out.iterdir()) == [f"{i}.png" for i in range(7)]
    before = (out / "3.png").read_bytes()
    for i in (5, 6):
        (out / f"{i}.png").unlink()
    capsys.readouterr()
    assert fused(*pair, out, "--clip") == 0
    assert "there already, and kept" in capsys.readouterr().out
    assert (out / "3.png").read_bytes() == before and (out / "6.png").exists()


def test_chunks_have_every_frame_once(pair, tmp_path, monkeypatch):
    assert fused(*pair, tmp_path / "one.mp4") == 0
    monkeypatch.setattr(clips, "CHUNK", 2)
    assert fused(*pair, tmp_path / "many.mp4") == 0
    one, many = (video.open_clip(tmp_path / f"{n}.mp4") for n in ("one", "many"))
    assert one.times == many.times
    for x, y in zip(one.frames(range(7)), many.frames(range(7)), strict=True):
        assert abs(x.astype(int) - y).mean() < 6  # key frames are compressed otherwise


@pytest.mark.parametrize("color", ["b", "none"])
def test_an_interrupted_video_continues_and_is_that_of_one_run(
    pair, tmp_path, capsys, monkeypatch, color
):
    monkeypatch.setattr(clips, "CHUNK", 3)
    colors = "--color", color
    assert fused(*pair, tmp_path / "whole.mp4", *colors) == 0
    write, written = video.write_chunk, []

    def interrupted(path, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(Path(path).name)
        write(path, *arguments)

    monkeypatch.setattr(video, "write_chunk", interrupted)
    out = tmp_path / "out.mp4"
    assert fused(*pair, out, *colors) == 130
    assert not out.exists() and "the same command continues" in capsys.readouterr().out
    assert fused(*pair, out, *colors, "--seed", "1") == 2
    assert "other inputs or options" in capsys.readouterr().err
    monkeypatch.setattr(video, "write_chunk", write)
    assert fused(*pair, out, *colors) == 0
    assert "there already: 6 of 7 frames" in capsys.readouterr().out
    assert len(video.open_clip(out).times) == 7 and not (tmp_path / "out.mp4.parts").exists()
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_mistakes_are_one_line(pair, tmp_path, capsys):
    a = as_video(pair[0], tmp_path / "a.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    image.write(tmp_path / "one.png", np.zeros((4, 4), np.uint8))
    for first, second, out, options, said in (
        (a, tmp_path / "bad.mp4", "o.mp4", [], "bad.mp4 cannot be read"),
        (a, tmp_path / "gone.mp4", "o.mp4", [], "does not exist"),
        (a, pair[1], "o.webm", [], "videos are written as .mp4"),
        (a, pair[1], "o.png", [], "is the name of an image"),
        (a, pair[1], "o.mp4", ["--bits", "16"], "--bits is for images"),
        (a, a, "a.mp4", ["--overwrite"], "which this command reads"),
        (*pair, "ir", ["--clip", "--overwrite"], "which this command reads"),
        (a, tmp_path / "one.png", "o.mp4", [], "is a video and"),
        (tmp_path / "one.png", tmp_path / "one.png", "o.mp4", [], "is the name of a video"),
    ):
        assert fused(first, second, tmp_path / out, *options) == 2
        error = capsys.readouterr().err
        lines = [x for x in error.splitlines() if x.startswith("jfusion:")]
        assert len(lines) == 1 and said in lines[0], error


def test_metrics_of_clips_name_their_flicker(pair, tmp_path, capsys):
    assert fused(*pair, tmp_path / "steady", "--clip") == 0
    folder = tmp_path / "pumping"
    for t, path in enumerate(sorted((tmp_path / "steady").iterdir())):
        brighter = image.read_rgb(path) // 2 + 20 + 8 * (t % 2)
        image.write(folder / path.name, brighter.astype(np.uint8))
    as_video(tmp_path / "steady", tmp_path / "steady.mp4")
    command = ["metrics", "--a", str(pair[0]), "--b", str(pair[1]), "--metrics", "EN,SD", "--clip"]
    capsys.readouterr()
    assert main([*command, "--fused", str(folder), str(tmp_path / "steady")]) == 0
    said = capsys.readouterr().out
    assert "pumping: flicker" in said and "unsteady" in said and "steady: flicker 0." in said
    assert main([*command[:-1], "--fused", str(tmp_path / "steady.mp4")]) == 0
    assert "steady.mp4: flicker" in capsys.readouterr().out
    (folder / "6.png").unlink()
    assert main([*command, "--fused", str(folder)]) == 2
    assert "pumping has 6 frames and its sources have 7" in capsys.readouterr().err
