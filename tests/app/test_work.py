"""What the page does, without a server: the same results as the commands, one line for every error."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jfusion import metrics
from jfusion.app import work
from jfusion.app.methods import AUTO, Methods
from jfusion.app.work import Wish, evaluate, fuse_pair, one_line, without_paths
from jfusion.commands import fuse
from jfusion.data import image
from jfusion.errors import UserError
from tests.hostile import files as hostile_files


def test_the_page_fuses_and_measures_as_the_commands_do(pair, tmp_path):
    done = fuse_pair(*pair, Wish(method="laplacian"), Methods(), tmp_path, 1)
    out = str(tmp_path / "same.png")
    outcome = fuse.fuse(fuse.Options(a=pair[0], b=pair[1], system="laplacian", out=out))
    ours, theirs = (image.read_rgb(p) for p in (done.result, outcome.written[0]))
    assert np.array_equal(ours, theirs)
    assert any("task IVF" in note and "--" not in note for note in done.notes)
    values = evaluate(done, 1).values
    grays = [metrics.prepare(image.read_rgb(p)) for p in (done.result, *pair)]
    assert values == pytest.approx(metrics.evaluate(*grays, names=list(values)))


@pytest.mark.parametrize("kind", work.KINDS)
def test_every_kind_of_file_is_written_and_judged(pair, tmp_path, kind):
    done = fuse_pair(*pair, Wish(kind=kind, method="average"), Methods(), tmp_path, 1)
    assert image.header(done.result).bits == work.KINDS[kind][1]
    assert evaluate(done, 1).values["EN"] == pytest.approx(
        evaluate(fuse_pair(*pair, Wish(method="average"), Methods(), tmp_path / "8", 1), 1).values[
            "EN"
        ],
        abs=0.1,
    )


def test_a_shift_is_found_and_undone(tmp_path):
    rng = np.random.default_rng(1)
    scene = np.kron(rng.integers(0, 256, (20, 24)), np.ones((6, 6))).astype(np.uint8)
    for name, pixels in (("a", scene), ("b", np.roll(scene, (5, 7), (0, 1)))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in "ab"]
    seen = evaluate(
        fuse_pair(*files, Wish(task="IVF", method="average"), Methods(), tmp_path / "1", 1), 1
    )
    assert (seen.shift.rows, seen.shift.columns) == (5, 7)
    undone = fuse_pair(*files, Wish("IVF", "average", align=True), Methods(), tmp_path / "2", 1)
    assert any("moved by" in note for note in undone.notes)
    found = evaluate(undone, 1)
    assert found.shift is None and found.values["SCD"] != seen.values["SCD"]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(method="nonsense"), "unknown method"),
        (Wish(task="XYZ"), "unknown task"),
        (Wish(kind="EXE"), "unknown kind"),
        (Wish(text="/etc/passwd"), "must be a sentence"),
        (Wish(text="a word " * 2000), "the most"),
        (Wish(text="two people", method="average"), "reads no text"),
        (Wish(method="../../etc/passwd"), "unknown method"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(pair, tmp_path, wish, said):
    with pytest.raises(UserError, match=said):
        fuse_pair(*pair, wish, Methods(), tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_a_description_is_never_read_as_a_file(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my secret text").write_text("secret")
    with pytest.raises(UserError, match="must be a sentence"):
        fuse_pair(*pair, Wish(method="film-ivf", text="my secret text"), Methods(), tmp_path, 1)


def test_what_is_too_large_is_refused_before_it_is_decoded(pair, tmp_path, monkeypatch):
    Image.fromarray(np.zeros((1200, 1000), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(image, "_pillow", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr("jfusion.fusing.task.by_images", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="megapixels"):
        large = str(tmp_path / "large.png")
        fuse_pair(large, large, Wish(task="IVF"), Methods(), tmp_path / "out", 1)


@pytest.mark.parametrize("name", sorted(hostile_files()))
def test_a_hostile_file_gives_one_line_without_a_path(pair, tmp_path, name):
    bad = tmp_path / name
    bad.write_bytes(hostile_files()[name])
    with pytest.raises(UserError) as error:
        fuse_pair(str(bad), pair[1], Wish(task="IVF"), Methods(), tmp_path / "out", 1)
    line = one_line(error.value, {str(bad): name}, "fault")
    assert "\n" not in line and str(tmp_path) not in line and "/tmp" not in line and line


def test_only_the_names_of_files_are_shown():
    text = (
        "image /home/ann/x y.png: see /usr/lib/python3/site-packages/a.py, https://example.org/a/b"
    )
    shown = without_paths(text, {"/home/ann/x y.png": "A"})
    assert shown == "image A: see a.py, https://example.org/a/b"


def test_a_fault_is_not_shown(capsys):
    assert one_line(KeyError("/home/ann"), {}, "a fault") == "a fault"
    assert "KeyError" in capsys.readouterr().err


def test_the_methods_are_weights_and_systems_without_weights():
    methods = Methods()
    assert {"film-ivf", "laplacian", "guided", "mertens"} <= set(methods.names)
    assert not {"film", "cddfuse", "ddfm", "lfdt", "fccf", "sfdfuse"} & set(methods.names)
    assert methods.reads_text("film-ivf") and not methods.reads_text("laplacian")
    assert methods.options(AUTO) == {} and methods.options("film-ivf") == {"weights": "film-ivf"}
