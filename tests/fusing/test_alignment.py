"""`jfusion fuse --align`, `--calib`, and the calibration that `jfusion align` makes. Needs no Jittor."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.cli import main
from jfusion.data import image
from tests.data.test_alignment import scene


def gray_rgb(x):
    """A gray image in [0, 1] as (H, W, 3) uint8."""
    return np.repeat((np.clip(x, 0, 1) * 255).astype(np.uint8)[..., None], 3, 2)


def test_points_and_images_calibrate_a_rig_that_fuse_uses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = (gray_rgb(x) for x in scene(0, (120, 160)))
    image.write("ir/1.png", a[10:90, 20:130])
    image.write("vi/1.png", b)
    Path("points.txt").write_text(
        "0 0 20 10\n100 0 120 10\n0 70 20 80\n100 70 120 80\n50 40 70 50\n"
    )
    assert main(["align", "ir", "vi", "--points", "points.txt", "-o", "c.json"]) == 0
    assert "residual 0.00 px over 5 points" in capsys.readouterr().out
    fuse = ["fuse", "ir", "vi", "--method", "average", "-o", "out"]
    assert main(fuse) == 2 and "another aspect" in capsys.readouterr().err
    assert main([*fuse, "--calib", "c.json"]) == 0
    fused = image.read_rgb("out/1.png")[..., 0].astype(float)
    expected = (a.astype(float) + b)[..., 0] / 2
    assert abs(fused - expected)[12:88, 22:128].max() <= 1.5
    np.testing.assert_allclose(fused[100:], b[100:, :, 0], atol=1)  # below A, B shows
    capsys.readouterr()
    for arguments, said in (
        (["ir", "vi", "--points", "gone.txt"], "gone.txt"),
        (["ir", "vi", "--points", "points.txt", "--estimate"], "exclude each other"),
        (["--estimate"], "name images A and B"),
    ):
        assert main(["align", *arguments, "-o", "d.json"]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not Path("d.json").exists()


def test_fuse_undoes_a_shift(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = (gray_rgb(x) for x in scene(3, (120, 160)))
    image.write("a.png", np.roll(a, (-9, 14), (0, 1)))
    image.write("b.png", b)
    command = ["fuse", "a.png", "b.png", "--task", "IVF", "--method", "average", "-o", "f.png"]
    assert main([*command, "--align", "shift"]) == 0
    said = "".join(capsys.readouterr())
    assert "A is moved by -14 columns and +9 rows" in said and "misaligned" not in said
    fused = image.read_rgb("f.png")[..., 0].astype(float)
    expected = ((a.astype(float) + b) / 2)[..., 0]
    assert abs(fused - expected)[12:-2, 2:-18].max() <= 1.5
    assert main([*command[:-1], "deep.png", "--align", "shift", "--bits", "16"]) == 0
    deep = image.Reader("full").gray("deep.png") * 255
    assert abs(deep - expected)[12:-2, 2:-18].max() <= 1.5
