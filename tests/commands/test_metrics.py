"""`jfusion metrics` and `jfusion papers` as a user meets them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jfusion import metrics
from jfusion.cli import main
from jfusion.commands import metrics as command
from jfusion.data import color, image
from jfusion.metrics.table import Table
from jfusion.report.table import Block, latex

NAMES = ("one", "two", "three")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folders(tmp_path):
    """Three pairs and two methods: "good" keeps both sources, "flat" blurs everything away."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        a, b = rng.integers(0, 256, (2, 50, 60), dtype=np.uint8)
        save(tmp_path / "ir" / f"{name}.png", a)
        save(tmp_path / "vi" / f"{name}.bmp", np.repeat(b[..., None], 3, 2))
        save(tmp_path / "good" / f"{name}.png", a // 2 + b // 2)
        save(tmp_path / "flat" / f"{name}.png", a // 16 + 100)
    return tmp_path


def run(folders, *more, fused=("good", "flat")):
    return main(
        [
            *("metrics", "--a", str(folders / "ir"), "--b", str(folders / "vi"), "--fused"),
            *(str(folders / f) for f in fused),
            *map(str, more),
        ]
    )


def values(path):
    """(method, image, metric) -> value of a tidy CSV."""
    rows = list(csv.DictReader(path.open()))
    return {(r["method"], r["image"], r["metric"]): float(r["value"]) for r in rows}


def test_values_are_those_of_evaluate_and_the_best_is_marked(folders, capsys):
    path = folders / "v.csv"
    assert run(folders, "--csv", path, "--json", folders / "v.json", "--std") == 0
    each = values(path)
    means = json.loads((folders / "v.json").read_text())["datasets"][folders.name]["good"]["mean"]
    for n in NAMES:
        images = (
            color.gray(image.read_rgb(folders / p))
            for p in (f"good/{n}.png", f"ir/{n}.png", f"vi/{n}.bmp")
        )
        for metric, value in metrics.evaluate(*images).items():
            assert each["good", n, metric] == pytest.approx(value, rel=1e-9)
    assert means["EN"] == pytest.approx(np.mean([each["good", n, "EN"] for n in NAMES]))
    assert len(each) == 2 * 3 * 12
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("good") and "¹" in out[1] and "²" in out[2] and "±" in out[1]


def test_several_processes_give_the_same_values(folders):
    options = {"a": str(folders / "ir"), "b": str(folders / "vi"), "fused": [str(folders / "good")]}
    one, two = (
        command.evaluate(command.Options(**options, jobs=n)).comparison.values for n in (1, 2)
    )
    assert one == two


def test_what_does_not_fit_is_named_and_the_rest_is_evaluated(folders, capsys):
    (folders / "good/two.png").unlink()
    save(folders / "good/three.png", np.zeros((50, 61), np.uint8))
    save(folders / "flat/extra.png", np.zeros((5, 5), np.uint8))
    (folders / "flat/one.png").write_bytes((folders / "flat/one.png").read_bytes()[:200])
    assert run(folders, "--no-common") == 2
    out, err = capsys.readouterr()
    assert "two: good has no fused image" in err
    assert "three of good: sizes differ: A 50x60, B 50x60, fused 50x61" in err
    assert "extra: no image of that name in A and B" in err
    assert "one of flat: image" in err and "flat/one.png cannot be read" in err
    assert "good (1)" in out and "flat (2)" in out
    assert "the methods were not evaluated on the same images" in out


def test_a_method_that_lacks_pairs_leaves_the_common_ones(folders, capsys):
    (folders / "good/two.png").unlink()
    assert run(folders, "--csv", folders / "v.csv") == 0
    out, err = capsys.readouterr()
    assert (
        "note: good lacks 1 of 3 pairs (two); every method is evaluated on the 2" in out and not err
    )
    assert {image for _, image, _ in values(folders / "v.csv")} == {"one", "three"}
    for name in ("one", "three"):
        (folders / f"good/{name}.png").unlink()
    save(folders / "good/new.png", np.zeros((50, 60), np.uint8))
    save(folders / "ir/new.png", np.zeros((50, 60), np.uint8))
    save(folders / "vi/new.png", np.zeros((50, 60), np.uint8))
    assert run(folders) == 2
    assert "no pair was fused by every method: good lacks 3 of 4" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_leaves_its_pair_out_for_every_method(folders, capsys):
    (folders / "flat/one.png").write_bytes((folders / "flat/one.png").read_bytes()[:200])
    assert run(folders, "--csv", folders / "v.csv") == 2
    assert "skipped one of flat" in capsys.readouterr().err
    assert {image for _, image, _ in values(folders / "v.csv")} == {"two", "three"}


def test_pairs_that_nobody_fused_count_unless_a_list_leaves_them_out(folders, capsys):
    for method in ("good", "flat"):
        (folders / method / "two.png").unlink()
    assert run(folders) == 2
    assert "skipped two: no method has fused them" in capsys.readouterr().err
    (folders / "test.txt").write_text("one.png\nthree.png\n")
    assert run(folders, "--list", folders / "test.txt") == 0
    (folders / "test.txt").write_text("one.png\nfour.png\n")
    assert run(folders, "--list", folders / "test.txt") == 2
    assert "four: in no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--preset", "flim"], "did you mean 'film'"),
        (["--metrics", "EN,Qbaf"], "did you mean 'Qabf'"),
        (["--paper", "film/Nowhere"], "published nothing on 'Nowhere'"),
        (["--paper", "flim"], "system/dataset"),
        (["--jobs", "0"], "--jobs"),
        (["--truth", "nowhere"], "folder nowhere does not exist"),
        (["--decimals", "EN=x"], "--decimals must be 0 to 9"),
        (["--decimals", "NE=2"], "no column 'NE'; did you mean 'EN'"),
        (["--set", "T", "x", "y"], "not both"),
        (["--zoom", "1,2"], "--zoom must be x,y,w,h"),
        (["--range", "1"], "--range"),
        (["--scatter", "EN,VFI"], "did you mean 'VIF'"),
        (["--scatter", "EN"], "--scatter needs two metrics"),
        (["--scatter", "EN,NMI"], "NMI is not among the columns"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(folders, capsys, change, message):
    assert run(folders, *change) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_two_files_of_one_name_are_not_guessed_at(folders, capsys):
    save(folders / "ir/one.bmp", np.zeros((50, 60), np.uint8))
    assert run(folders) == 2
    assert "holds two images called 'one': one.bmp and one.png" in capsys.readouterr().err


def test_outputs_are_neither_each_other_nor_an_input(folders, capsys):
    path = folders / "n.txt"
    (folders / "link").symlink_to(path)
    assert run(folders, "--csv", path, "--markdown", folders / "link") == 2
    assert "two outputs are one file" in capsys.readouterr().err and not path.exists()
    path.write_text("one\n")
    assert run(folders, "--list", path, "--csv", path) == 2
    assert "which this command reads" in capsys.readouterr().err and path.read_text() == "one\n"


def test_ground_truth_adds_its_own_columns(folders):
    good = str(folders / "good")
    options = command.Options(
        a=str(folders / "ir"), b=str(folders / "vi"), fused=[good], truth=good
    )
    values = command.evaluate(options).comparison.values[folders.name]["good"]["one"]
    assert values["PSNR_truth"] == np.inf and values["SSIM_truth"] == pytest.approx(1)


def test_the_published_row_stands_below_with_the_differences(folders, capsys):
    assert run(folders, "--paper", "cddfuse/RoadScene", "--markdown", folders / "t.md") == 0
    out = capsys.readouterr().out
    assert "published (MMIF-CDDFuse README.md)" in out and "difference of good" in out
    assert "the published row is over 50 pairs, ours over 3" in out
    assert "its definitions are those of --preset cddfuse, ours of film" in out
    text = (folders / "t.md").read_text()
    assert "MSE ↓" in text and "**" in text


def test_several_sets_become_one_table_with_figures_and_strips(folders, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(command.charts, "write_all", lambda *options: drawn.append(options[1:]))
    for method in ("good", "flat"):
        for name in NAMES:
            pixels = image.read_rgb(folders / method / f"{name}.png")[..., 0]
            save(folders / f"r/{method}/S/{name}.png", pixels)
            save(folders / f"r/{method}/T/{name}_{method}.png", pixels)
    (folders / "t.yaml").write_text(
        """
sets: {S: {a: ir, b: vi}, T: {a: ir, b: vi, truth: ir}}
methods: {good: r/good, flat: "r/flat/{set}"}
metrics: EN,MSE,Qabf
rank: true
latex: o/t.tex
html: o/t.html
json: o/t.json
figures: o/figures
scatter: EN,MSE
strips: o/strips
"""
    )
    assert main(["metrics", str(folders / "t.yaml"), "--decimals", "EN=4", "--label", "tab:x"]) == 0
    out = capsys.readouterr().out
    assert "S (3 pairs)" in out and "mean ranks, the pairs of all data sets" in out
    assert "note: good: the files of" in out and "are named {name}_good" in out
    made = {str(p.relative_to(folders / "o")) for p in (folders / "o").rglob("*.*")}
    strips = {f"strips/{s}/{n}.png" for s in "ST" for n in NAMES}
    assert made == {"t.tex", "t.html", "t.json"} | strips
    assert drawn == [(str(folders / "o/figures"), "png", ["EN", "MSE"])]
    content = json.loads((folders / "o/t.json").read_text())
    assert content["datasets"]["T"]["good"]["mean"]["SSIM_truth"] < 1
    assert content["ranks"]["tests"][-1]["images"] == 6
    assert r"\label{tab:x}" in (folders / "o/t.tex").read_text()


def test_strips_do_not_replace_the_images_that_they_show(folders, capsys):
    before = (folders / "good/one.png").read_bytes()
    assert run(folders, "--strips", folders / "good", "--metrics", "EN", "--jobs", 2) == 2
    assert "which this command reads" in capsys.readouterr().err
    assert (folders / "good/one.png").read_bytes() == before


def test_one_method_has_no_ranks(folders, capsys):
    assert run(folders, "--rank", fused=("good",)) == 2
    assert "--rank compares methods" in capsys.readouterr().err


def test_sets_may_be_typed(folders, capsys):
    places = [str(folders / p) for p in ("ir", "vi")]
    (folders / "both").mkdir()
    for name in ("S", "T"):
        (folders / "both" / name).symlink_to(folders / "good")
    more = ["--fused", str(folders / "both"), "--metrics", "EN"]
    assert main(["metrics", "--set", "S", *places, "--set", "T", *places, *more]) == 0
    assert "T (3 pairs)" in capsys.readouterr().out
    for wrong, words in (
        (["--set", "S", *places, "--set", "S", *places], "two data sets have one name"),
        (["--set", "S", *places, "T"], "--set must be followed by"),
        (
            ["--set", "S", *places, "--set", "T", *places, "--fused", str(folders / "good")],
            "good has no image of any data set",
        ),
        (["--a", places[0]], "both sources are needed"),
    ):
        assert main(["metrics", *wrong, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["metrics", *more]) == 2 and "give the sources" in capsys.readouterr().err
    assert main(["metrics", "--a", places[0], "--b", places[1]]) == 2
    assert "give the fused images" in capsys.readouterr().err


def test_every_kind_of_image_file_is_read_as_its_gray_values(tmp_path):
    gray = np.add.outer(np.arange(50), 2 * np.arange(60)).astype(np.uint8)
    kinds = {
        "8.png": (gray, {}),
        "16.png": (gray.astype(np.uint16) * 257, {}),
        "alpha.png": (np.dstack([gray, np.full_like(gray, 9)]), {}),
        "rgba.png": (np.dstack([gray] * 3 + [np.full_like(gray, 9)]), {}),
        "float.tiff": (gray / np.float32(255), {}),
    }
    for name, (pixels, options) in kinds.items():
        save(tmp_path / name, pixels, **options)
    Image.fromarray(gray).convert("P").save(tmp_path / "palette.png")
    rotated = Image.fromarray(np.rot90(gray))
    exif = rotated.getexif()
    exif[0x0112] = 6  # viewers rotate it clockwise
    rotated.save(tmp_path / "rotated.png", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(color.gray(image.read_rgb(path)), gray, err_msg=path.name)


def test_a_float_image_with_nan_is_named(folders, capsys):
    (folders / "good/one.png").unlink()
    bad = np.zeros((50, 60), np.float32)
    bad[3, 4] = np.nan
    save(folders / "good/one.tiff", bad)
    assert run(folders) == 2
    assert "good/one.tiff has values that are not finite" in capsys.readouterr().err


def test_best_and_second_best_follow_the_direction():
    table = Table(["EN", "MSE"], lower=["MSE"])
    for label, values in (("x", (3.0, 3.0)), ("y", (2.0, 2.0)), ("z", (1.0, 1.0))):
        table.add(label, dict(zip(table.columns, values, strict=True)), ranked=True)
    table.add("published", {"EN": 9.0})
    assert [[table.rank(r, c) for c in table.columns] for r in table.rows] == [
        [1, 0],
        [2, 2],
        [0, 1],
        [0, 0],
    ]
    assert "3.00¹" in table.text() and r"\textbf{3.00} & 3.00 \\" in latex([Block("", table)])
    assert "| y | *2.00* | *2.00* |" in table.markdown()


def test_published_tables_are_listed_and_shown(capsys):
    assert main(["papers", "list"]) == 0
    assert "film_ivf: 180 numbers, 10 systems" in capsys.readouterr().out
    assert main(["papers", "show", "--system", "film", "--dataset", "roadscene"]) == 0
    assert "43.64" not in (out := capsys.readouterr().out) and "49.26" in out
    assert main(["papers", "show", "film/RoadScene"]) == 0
    out = capsys.readouterr().out
    assert "RoadScene (IF-FILM README.md): compare with --preset film" in out and "49.26" in out
    assert main(["papers", "show", "film/RoadScen"]) == 2
    assert "did you mean 'RoadScene'" in capsys.readouterr().err
    assert main(["papers", "show", "--metric", "Qbaf"]) == 2
    assert "no published metric 'Qbaf'; did you mean 'Qabf'?" in capsys.readouterr().err


def test_evaluating_does_not_start_jittor():
    code = "import sys, jfusion.commands.metrics; print([m for m in sys.modules if m.split('.')[0] == 'jittor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
