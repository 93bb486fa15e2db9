"""`jfusion fuse A B` on image files and folders, with methods that need neither weights nor Jittor."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.data import color, image
from jfusion.data.layout import TASKS
from jfusion.weights import default_for

DEFAULTS = {task: default_for(task) for task in TASKS}


def ramp(size=(50, 60), seed=0, channels=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, channels) if channels else (5, 6), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Three pairs, gray in x and in color in y; the present folder is the one that holds them.

    The default of IVF is a method without weights here, so that no test starts Jittor.
    """
    monkeypatch.setattr("jfusion.weights.default_for", {**DEFAULTS, "IVF": "laplacian"}.get)
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        save(tmp_path / f"x/{i}.png", ramp(seed=i))
        save(tmp_path / f"y/{i}.png", ramp(seed=10 + i, channels=3))
    return tmp_path


def fuse(*words):
    return main(["fuse", *map(str, words), "--no-check-alignment"])


def test_two_folders_need_nothing_else(pairs, capsys):
    assert fuse("x", "y") == 0
    said = capsys.readouterr().out
    assert (
        "method laplacian, task IVF (A is gray and B in color)" in said and "3 fused: fused" in said
    )
    for i in range(3):
        assert color.is_color(image.read_rgb(pairs / f"fused/{i}.png"))


def test_results_stay_unless_they_are_to_be_replaced(pairs, capsys):
    assert fuse("x", "y") == 0
    first = (pairs / "fused/0.png").read_bytes()
    assert fuse("x", "y", "--method", "average") == 0
    assert "3 results are there already" in capsys.readouterr().out
    assert (pairs / "fused/0.png").read_bytes() == first
    assert fuse("x", "y", "--method", "average", "--overwrite") == 0
    assert (pairs / "fused/0.png").read_bytes() != first


@pytest.mark.parametrize("wrong", [("--weights", "no/run"), ("--calib", "no.json")])
def test_a_wrong_name_is_said_also_when_all_results_are_there(pairs, capsys, wrong):
    assert fuse("x", "y") == 0
    assert fuse("x", "y", *wrong) == 2
    said = capsys.readouterr().err
    assert wrong[1] in said and "not exist" in said


def test_a_single_result_can_be_named(pairs):
    assert fuse("x/0.png", "y/0.png", "-o", "new/result.tif", "--bits", "16") == 0
    import tifffile

    deep = tifffile.imread(pairs / "new/result.tif")
    assert deep.shape == (50, 60, 3) and deep.dtype == np.uint16 and len(np.unique(deep)) > 256
    assert fuse("x/0.png", "y/0.png", "-o", "deep.png", "--bits", "16") == 0
    again = image.header(pairs / "deep.png")
    assert (again.bits, again.channels) == (16, 3)
    np.testing.assert_array_equal(image.Reader()._decoded(pairs / "deep.png"), deep)


def test_an_empty_file_is_no_result(pairs):
    (pairs / "fused").mkdir()
    (pairs / "fused/0.png").touch()
    assert fuse("x", "y") == 0
    assert color.is_color(image.read_rgb(pairs / "fused/0.png"))


@pytest.mark.parametrize(
    "words", ["--ir x/0.png y/0.png y/1.png", "--ir x/0.png --over x/1.png y/0.png"]
)
def test_a_side_that_is_named_twice_is_refused(pairs, capsys, words):
    assert fuse(*words.split(), "-o", "r.png") == 2
    assert "named by --ir and by its place" in (said := capsys.readouterr().err) or (
        "--ir and --over both name A" in said
    )
    assert not (pairs / "r.png").exists()


def test_16_bits_keep_what_8_bits_round(pairs):
    deep = np.linspace(0, 65535, 50 * 60).reshape(50, 60).astype(np.uint16)
    for side in "ab":
        save(pairs / f"{side}.png", deep)
    assert fuse("a.png", "b.png", "--method", "average", "-o", "r.png", "--bits", "16") == 0
    result = np.asarray(Image.open(pairs / "r.png")).astype(int)
    assert abs(result - deep).max() <= 1
    assert fuse("a.png", "b.png", "-o", "r.jpg", "--bits", "16") == 2


@pytest.mark.parametrize(
    "options, said",
    [
        (("--blend", "0.3"), "--blend is for the overlay of --palette"),
        (("--hotter-than", "40"), "--hotter-than is for the overlay of --palette"),
        (("--background", "black"), "--background is for --pseudo-color"),
        (
            ("--dry-run", "--weights", "film-ivf", "--text", "nowhere.txt", "--skip-bad"),
            "--text nowhere.txt is no file",
        ),
        (
            ("--dry-run", "--method", "laplacian", "--text", "a street", "--skip-bad"),
            "reads no text",
        ),
    ],
)
def test_an_option_that_does_nothing_is_refused(pairs, capsys, options, said):
    assert fuse("x", "y", *options) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_writes_nothing(pairs, capsys):
    save(pairs / "y/1.png", ramp((50, 90), channels=3))
    assert fuse("x", "y", "--dry-run") == 2  # as the run itself would
    said = capsys.readouterr()
    assert "0: 50x60 8 bit gray + 50x60 8 bit color -> fused/0.png" in said.out
    assert "cannot be fused: x/1.png is 50x60 and y/1.png is 50x90, which is another" in said.out
    assert "1 of 3 pairs cannot be fused" in said.err
    assert fuse("x", "y", "--dry-run", "--skip-bad") == 0
    assert not (pairs / "fused").exists()
    assert fuse("x", "y", "--dry-run", "--weights", "nowhere.pkl") == 2
    assert "nowhere.pkl" in capsys.readouterr().err


def test_a_plan_says_that_a_network_is_compiled_first_or_cannot_be(pairs, capsys, monkeypatch):
    command = ("x", "y", "--weights", "film-ivf", "--dry-run")
    monkeypatch.setenv("JFUSION_HOME", str(pairs / "new"))
    assert fuse(*command) == 0
    said = capsys.readouterr().out
    assert "core is compiled first" in said and "--method laplacian" in said
    monkeypatch.setenv("cc_path", "no-such-compiler")
    assert fuse(*command) == 2
    said = capsys.readouterr()
    assert "-> fused/0.png" in said.out
    (line,) = said.err.strip().splitlines()
    assert "no C++ compiler found; remedy: " in line and "--method laplacian" in line
    assert fuse("x", "y", "--method", "laplacian", "--dry-run") == 0
    assert "compile" not in capsys.readouterr().out


def test_bad_pairs_stop_the_work_before_it_begins_or_are_skipped(pairs, capsys):
    (pairs / "x/1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert fuse("x", "y") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "1 of 3 pairs cannot be fused; 1: image" in line and "--skip-bad" in line
    assert not (pairs / "fused").exists()
    assert fuse("x", "y", "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "skipping 1 of 3 pairs" in said and "2 fused" in said


def test_images_without_a_partner_are_left_out_when_this_is_wanted(pairs, capsys):
    (pairs / "x/1.png").unlink()
    assert fuse("x", "y") == 2
    assert "1 image without a partner of the same name: 1" in capsys.readouterr().err
    assert fuse("x", "y", "--skip-bad") == 0
    assert "left out: 1" in capsys.readouterr().out


def test_a_pair_that_fails_later_is_listed_and_the_others_are_done(pairs, capsys):
    whole = (pairs / "x/1.png").read_bytes()
    save(pairs / "x/1.bmp", ramp(seed=1))
    (pairs / "x/1.png").unlink()
    half = (pairs / "x/1.bmp").read_bytes()
    (pairs / "x/1.bmp").write_bytes(half[: len(half) // 2])  # a BMP has no checksum
    assert whole and fuse("x", "y") == 2
    said = capsys.readouterr()
    assert "1 pair failed:\n  1: image x/1.bmp cannot be read" in said.err
    assert "2 fused" in said.out


@pytest.mark.parametrize("out", ["x", "x/../x", "link", "x/0.png", "hard.png"])
def test_a_result_never_replaces_an_input(pairs, out, capsys):
    (pairs / "link").symlink_to(pairs / "x")
    (pairs / "hard.png").hardlink_to(pairs / "x/0.png")
    before = (pairs / "x/0.png").read_bytes()
    inputs = ("x/0.png", "y/0.png") if out.endswith("png") else ("x", "y")
    assert fuse(*inputs, "-o", out, "--overwrite") == 2
    assert "which this command reads; choose another output" in capsys.readouterr().err
    assert (pairs / "x/0.png").read_bytes() == before


def test_images_of_unequal_size_are_resampled_to_b(pairs, capsys):
    for i in range(3):
        save(pairs / f"x/{i}.png", ramp((25, 30), seed=i))
    assert fuse("x", "y") == 0
    assert "3 pairs: A resampled to 50x60" in capsys.readouterr().out
    assert image.header(pairs / "fused/0.png")[:2] == (50, 60)
    assert fuse("x", "y", "-o", "small", "--size-of", "a") == 0
    assert image.header(pairs / "small/0.png")[:2] == (25, 30)
    assert fuse("x", "y", "-o", "odd", "--size", "33x20") == 0
    assert image.header(pairs / "odd/0.png")[:2] == (33, 20)


def test_the_options_for_a_and_b_name_the_task(pairs, capsys):
    assert fuse("--mri", "x", "--pet", "y") == 0
    said = capsys.readouterr().out
    assert (
        f"method {default_for('MIF')}; change it with --method, --weights" in said
        and "task" not in said
    )


def test_the_gray_image_is_a_whatever_the_order(pairs):
    assert fuse("x", "y", "--method", "average", "-o", "one") == 0
    assert fuse("y", "x", "--method", "average", "-o", "two") == 0
    for i in range(3):
        assert (pairs / f"one/{i}.png").read_bytes() == (pairs / f"two/{i}.png").read_bytes()


def test_the_color_that_is_kept_can_be_chosen(pairs, capsys):
    assert fuse("x", "y", "--color", "none", "-o", "gray") == 0
    assert image.header(pairs / "gray/0.png").channels == 1
    assert fuse("y", "x", "--task", "IVF", "-o", "side") == 0
    assert color.is_color(image.read_rgb(pairs / "side/0.png"))
    capsys.readouterr()
    assert fuse("y", "y", "--task", "IVF", "-o", "both") == 0
    assert "both images have color; that of B is kept (--color)" in capsys.readouterr().out


@pytest.fixture
def deep(pairs):
    """Three pairs of which x has 16 bits: each file uses other values of 1000 to 4000."""
    for i in range(3):
        values = 1000 * (i + 1) + ramp(seed=i).astype(np.uint16) * 3
        values.flat[:2] = 1000 * (i + 1), 1000 * (i + 2)
        save(pairs / f"x/{i}.png", values)
    return pairs


def test_a_report_of_results_that_stay_reads_the_sources_as_they_were_fused(
    deep, monkeypatch, capsys
):
    reports = []
    monkeypatch.setattr("jfusion.report.page.write", lambda *parts: reports.append(parts))
    for _ in range(2):
        assert fuse("x", "y", "--method", "average", "--report") == 0
        assert "images a: values 1000:4000 become black to white" in capsys.readouterr().out
    first, second = (comparison.values["IVF"] for _, _, _, comparison, *_ in reports)
    assert first["average"] == second["results"] and len(second["results"]) == 3


def test_a_fusion_that_is_continued_makes_what_the_whole_would_have_made(deep):
    assert fuse("x", "y", "--method", "average") == 0
    whole = (deep / "fused/2.png").read_bytes()
    (deep / "fused/2.png").unlink()
    assert fuse("x", "y", "--method", "average") == 0
    assert (deep / "fused/2.png").read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name two images, or two folders"),
        (("x",), "name two images, or two folders"),
        (("x", "y/0.png"), "both be files or both be folders"),
        (("x", "nowhere"), "nowhere does not exist"),
        (("x", "y", "-o", "r.png"), "several results; name a folder"),
        (("x/0.png", "y/0.png", "-o", "r.gif"), "use one of png"),
        (("x", "y", "--size", "3"), "HEIGHTxWIDTH"),
        (("x", "y", "--method", "guidet"), "did you mean 'guided'"),
        (("x", "y", "--weights", "nowhere.pkl"), "nowhere.pkl"),
        (("x", "y", "--text", "a street"), "reads no text; leave out --text"),
        (("x", "y", "--bits", "16", "--method", "lfdt", "--weights", "x/0.png"), "x/0.png"),
        (("x", "y", "--levels", "3"), "a setting of laplacian; name the system"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(pairs, words, text, capsys):
    assert fuse(*words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert text in said[-1] and len([x for x in said if not x.startswith("usage")]) == 1


@pytest.mark.parametrize("out", ["one.xyz", "deep/one.Tar"])
def test_a_name_with_an_unknown_ending_is_neither_file_nor_folder(pairs, out, capsys):
    for inputs in (("x/0.png", "y/0.png"), ("x", "y")):
        assert fuse(*inputs, "-o", out) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "written as png, tif, tiff, jpg, jpeg, bmp, webp;" in said
    assert not (pairs / out).parent.joinpath(out).exists()


@pytest.mark.parametrize("out", ["plain", "v1.5", "one.xyz/", "there.old", "a.2026-11"])
def test_other_names_are_folders(pairs, out):
    (pairs / "there.old").mkdir()
    assert fuse("x/0.png", "y/0.png", "-o", out) == 0
    assert (pairs / out / "0.png").is_file()


def test_two_equal_images_and_one_without_content_are_noted(pairs, capsys):
    save(pairs / "x/1.png", np.zeros((50, 60), np.uint8))
    assert fuse("x", "y") == 0
    said = capsys.readouterr().out
    assert "note: x/1.png holds one value in all of its pixels, 0\n" in said
    assert "the same pixels" not in said
    assert fuse("x", "x", "-o", "same") == 0
    said = capsys.readouterr().out
    assert re.findall("note: x/(.).png and x/(.).png hold the same pixels; is one of them", said)
    assert said.count("the same pixels") == 1


def test_a_unit_needs_deep_images(pairs, capsys):
    assert fuse("x", "y", "--unit", "0.01K") == 2
    assert "none of the images A has more; leave it out" in capsys.readouterr().err
    for i in range(3):
        save(pairs / f"x/{i}.png", ramp(seed=i).astype(np.uint16) + 29000)
    assert fuse("x", "y", "--unit", "0.01K") == 0


@pytest.mark.parametrize(
    ("option", "kind"), [("--clip", "clips"), ("--fps=9", "clips"), ("--series-a=x", "volumes")]
)
def test_an_option_of_another_kind_is_refused(pairs, option, kind, capsys):
    assert fuse("x/0.png", "y/0.png", option) == 2
    assert f"is for {kind}; leave it out for images" in capsys.readouterr().err
