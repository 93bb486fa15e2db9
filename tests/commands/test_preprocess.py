"""Preprocessing against the authors' script, and on data sets that are broken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jfusion.commands.preprocess import Options, preprocess
from jfusion.data import color, h5, image
from jfusion.data.layout import TASKS
from jfusion.errors import UserError
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def reference(golden):
    return golden("film/preprocess.npz")


def make_dataset(root, pairs, task="IVF", dataset="Set", split="test", width=8):
    """pairs: name -> (a, b) uint8 arrays. Writes images, list and features."""
    folders = TASKS[task]
    base, text = root / "Image" / task / dataset, root / "TextFeature" / task / dataset
    text.mkdir(parents=True, exist_ok=True)
    for i, folder in enumerate((folders.folder_a, folders.folder_b)):
        (base / folder).mkdir(parents=True, exist_ok=True)
        for name, images in pairs.items():
            Image.fromarray(images[i]).save(base / folder / f"{name}.png")
    for name in pairs:
        np.save(text / f"{name}.npy", np.full((1, 3, width), len(name), np.float32))
    (base / f"{split}.txt").write_text("".join(f"{name}.png\n" for name in pairs))
    return base


def options(root, **values):
    return Options(
        root=str(root), dataset="Set", out=str(root / "out.h5"), **{"split": "test", **values}
    )


def random_pair(seed, shape=(12, 10)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 256, (*shape, 3), np.uint8)


def test_training_images_equal_the_references(tmp_path, reference):
    kinds = ("landscape", "portrait", "square")
    pairs = {k: (reference[f"train.{k}.ir"], reference[f"train.{k}.vi"]) for k in kinds}
    make_dataset(tmp_path, pairs, split="train")
    preprocess(options(tmp_path, split="train"))
    file = h5.PairFile(tmp_path / "out.h5")
    for kind in kinds:
        pair = file.read(kind)
        assert pair.a.shape == (1, 288, 384)
        for label, found in (("imageA", pair.a), ("imageB", pair.b)):
            np.testing.assert_allclose(
                found[:, ::12, ::12], reference[f"train.{kind}.{label}"], atol=1e-6
            )
            mean = reference[f"train.{kind}.{label}_mean"]
            np.testing.assert_allclose(found.mean(dtype=np.float64), mean, atol=1e-6)


def test_test_images_and_order_equal_the_references(tmp_path, reference):
    names = [str(n).split(".")[0] for n in reference["test.list"]]
    make_dataset(
        tmp_path, {n: (reference[f"test.{n}.ir"], reference[f"test.{n}.vi"]) for n in names}
    )
    preprocess(options(tmp_path))
    ours, authors = h5.PairFile(tmp_path / "out.h5"), h5.PairFile(GOLDEN / "film/sample_test.h5")
    assert ours.names == authors.names == [str(n) for n in reference["test.order"]]
    for name in names:
        np.testing.assert_allclose(ours.read(name).a, authors.read(name).a, atol=1e-6)
        np.testing.assert_allclose(ours.read(name).b, authors.read(name).b, atol=1e-6)


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_reads_its_own_folders(tmp_path, task):
    pair = random_pair(1)
    make_dataset(tmp_path, {"one": pair}, task=task, split="train")
    preprocess(options(tmp_path, task=task, split="train"))
    stored = h5.PairFile(tmp_path / "out.h5").read("one")
    if task == "MIF":  # never resized
        np.testing.assert_array_equal(stored.a[0], pair[0] / np.float32(255))
        np.testing.assert_array_equal(stored.b[0], color.gray(pair[1]) / np.float32(255))
    else:
        assert stored.a.shape == (1, 288, 384)


def test_running_again_does_nothing_until_something_changes(tmp_path):
    base = make_dataset(tmp_path, {"one": random_pair(1), "two": random_pair(2)})
    assert preprocess(options(tmp_path)).written
    before = (tmp_path / "out.h5").stat().st_mtime_ns
    assert not preprocess(options(tmp_path)).written
    assert (tmp_path / "out.h5").stat().st_mtime_ns == before
    Image.fromarray(random_pair(3)[0]).save(base / "IR" / "one.png")
    assert preprocess(options(tmp_path)).written


def test_color_is_kept_and_restored(tmp_path):
    make_dataset(tmp_path, {"one": random_pair(1)})
    preprocess(options(tmp_path))
    pair = h5.PairFile(tmp_path / "out.h5").read("one")
    rgb = random_pair(1)[1]
    back = color.with_chroma(color.gray(rgb).astype(np.uint8), pair.chroma)
    assert np.abs(back.astype(int) - rgb).mean() < 1.5


@pytest.mark.parametrize("chosen, rule", [("auto", "b"), ("none", "none"), ("a", "a")])
def test_colors_are_kept_exactly_and_only_where_there_are_some(tmp_path, chosen, rule):
    make_dataset(tmp_path, {"one": random_pair(1)})
    preprocess(options(tmp_path, chroma=chosen))
    pair = h5.PairFile(tmp_path / "out.h5").read("one")
    assert pair.rgb_a is None and pair.rule == rule
    np.testing.assert_array_equal(pair.rgb_b, random_pair(1)[1])
    assert (pair.chroma is None) == (rule != "b")


def make_folders(root, task, names=("1", "2")):
    """LFDT-Fusion's layout: root/test/X/<folder 1>, <folder 2>, and a stray file."""
    from jfusion.data.layout import FOLDERS

    base = root / "test" / "X"
    for i, (folder, *_) in enumerate(FOLDERS[task]):
        (base / folder).mkdir(parents=True, exist_ok=True)
        for k, name in enumerate(names):
            Image.fromarray(random_pair(k)[i]).save(base / folder / f"{name}.png")
        (base / folder / ".txt").write_text("")
    return base


@pytest.mark.parametrize("task", TASKS)
def test_the_folders_of_lfdt_fusion_are_read(tmp_path, task):
    make_folders(tmp_path, task)
    made = preprocess(
        Options(task, "X", "test", str(tmp_path), str(tmp_path / "o.h5"), text="zeros")
    )
    file = h5.PairFile(made.path)
    assert file.names == ["1", "2"] and file.attributes["dataset"] == "X"
    np.testing.assert_array_equal(file.read("2").rgb_b, random_pair(1)[1])


@pytest.mark.parametrize("background, blue", [("jet", 128), ("black", 0)])
def test_a_gray_image_gets_the_colors_of_jet(tmp_path, background, blue):
    gray, other = random_pair(1)
    gray[0, 0] = 0
    make_dataset(tmp_path, {"one": (gray, other)}, "MIF")
    made = options(tmp_path, task="MIF", pseudo_color="a", background=background)
    preprocess(made)
    rgb = h5.PairFile(tmp_path / "out.h5").read("one").rgb_a
    assert tuple(rgb[0, 0]) == (0, 0, blue)
    expected = color.jet(gray)
    np.testing.assert_array_equal(rgb[gray > 31], expected[gray > 31])
    with pytest.raises(UserError, match="is in color; pseudo-colors are for gray"):
        preprocess(options(tmp_path, task="MIF", pseudo_color="b"))
    with pytest.raises(UserError, match="preprocess: background must be jet or black, not 'white'"):
        preprocess(options(tmp_path, task="MIF", pseudo_color="a", background="white"))


def test_a_size_asked_for_is_made_as_opencv_makes_it(tmp_path, golden):
    z = golden("fccf/color.npz")
    gray, other = z["resize_gray_in"], z["resize_rgb_in"]
    for out in ("resize_gray_out", "resize_gray_down"):
        made = image.resize_8bit(gray, *z[out].shape)
        np.testing.assert_array_equal(made, z[out])
    make_dataset(tmp_path, {"one": (gray, other)}, "MIF")
    preprocess(options(tmp_path, task="MIF", size="40x40"))
    pair = h5.PairFile(tmp_path / "out.h5").read("one")
    np.testing.assert_array_equal(pair.rgb_b, z["resize_rgb_out"])
    assert pair.a.shape == (1, 40, 40)
    with pytest.raises(UserError, match="--size must be one of"):
        preprocess(options(tmp_path, task="MIF", size="40x"))


def broken_dataset(root):
    """Five pairs, four of which cannot be used; returns the names of the bad ones."""
    base = make_dataset(
        root, {k: random_pair(i) for i, k in enumerate(("good", "gone", "cut", "odd", "mute"))}
    )
    (base / "VI" / "gone.png").unlink()
    whole = (base / "IR" / "cut.png").read_bytes()
    (base / "IR" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(random_pair(9, (5, 5))[0]).save(base / "IR" / "odd.png")
    (root / "TextFeature/IVF/Set/mute.npy").write_bytes(b"not an array")
    return ["gone", "cut", "odd", "mute"]


def test_a_broken_pair_is_named_and_nothing_is_written(tmp_path):
    broken_dataset(tmp_path)
    with pytest.raises(UserError, match=r"'gone'.*gone\.png does not exist.*--skip-bad"):
        preprocess(options(tmp_path))
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".h5", ".part")] == []


def test_skip_bad_goes_on_and_lists_them(tmp_path):
    bad = broken_dataset(tmp_path)
    result = preprocess(options(tmp_path, skip_bad=True))
    assert result.samples == 1 and [line.split(":")[0] for line in result.skipped] == bad
    assert h5.PairFile(result.path).names == ["good"]
    assert preprocess(options(tmp_path, skip_bad=True)).skipped == result.skipped


def test_mistakes_in_names_are_explained(tmp_path):
    base = make_dataset(tmp_path, {"one": random_pair(1)})
    for values, text in (
        ({"task": "IVFF"}, "did you mean 'IVF'"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"text": "none"}, "unknown encoder 'none'"),
    ):
        with pytest.raises(UserError, match=text):
            preprocess(options(tmp_path, **values))
    (base / "twice.txt").write_text("one.png\none\n")
    with pytest.raises(UserError, match="comes twice"):
        preprocess(options(tmp_path, split="twice"))
    (base / "escape.txt").write_text("../one.png\n")
    with pytest.raises(UserError, match="cannot be a file name"):
        preprocess(options(tmp_path, split="escape"))
    with pytest.raises(UserError, match="did you mean 'Set'"):
        preprocess(Options(root=str(tmp_path), dataset="set", split="test"))


def test_zeros_are_marked(tmp_path):
    make_dataset(tmp_path, {"one": random_pair(1)})
    result = preprocess(options(tmp_path, text="zeros", text_dim=5))
    file = h5.PairFile(result.path)
    assert file.attributes["encoder"] == "zeros" and file.attributes["text_dim"] == 5
    assert file.read("one").text.shape == (1, 5) and not file.read("one").text.any()
