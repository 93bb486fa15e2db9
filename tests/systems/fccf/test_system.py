"""Diff-FCCF as a system: sizes, groups, settings, training runs and the command line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import jfusion
from jfusion import runtime
from jfusion.config import from_dict, to_dict
from jfusion.data import color, image
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.fccf.config import GROUPS, TINY, Config


@pytest.mark.parametrize("group", GROUPS)
def test_any_size_and_batch_of_every_group_is_trained_and_fused(make, group):
    """Sides that are no multiples of 8, two images: each with its own region, as if it were alone."""
    system = jfusion.create("fccf", width=32, train_timesteps=4, group=group)
    rng = np.random.default_rng(0)
    s, f = (rng.random((2, c, 32, 40)).astype(np.float32) for c in (1, 3))
    (stage,) = system.stages()
    losses = system.losses(Batch(jt.array(s), jt.array(f), None, ["x", "y"], "Set"), stage)
    assert all(np.isfinite(v.item()) for v in losses.values())
    system.eval()
    s, f = s[:, :, :27, :34], f[:, :, :27, :34]
    both = system.fuse(jt.array(s), jt.array(f)).numpy()
    alone = system.fuse(jt.array(s[:1]), jt.array(f[:1])).numpy()
    assert both.shape == (2, 3, 27, 34) and both.min() >= 0 and both.max() <= 1
    np.testing.assert_allclose(both[:1], alone, atol=2e-4)  # rounding, grown in four steps
    assert abs(both - system.fuse(jt.array(s), jt.array(f), seed=5).numpy()).max() > 0.01


@pytest.mark.parametrize("steps, sampler", [("3", "ddpm"), ("3", "ddim"), ("ddim3", "ddim")])
def test_fewer_steps(make, steps, sampler):
    rng = np.random.default_rng(0)
    s, f = (jt.array(rng.random((1, c, 32, 32)).astype(np.float32)) for c in (1, 3))
    seen = []
    system = make(train_timesteps=9, inference_steps=steps, sampler=sampler)
    with jt.no_grad():
        fused = system.fuse(s, f, callback=lambda i, x, pred_x0: seen.append(i)).numpy()
    assert seen == [2, 1, 0] and np.isfinite(fused).all()


def test_a_region_without_pixels_leaves_the_channel(make):
    system = make(group="pet", train_timesteps=3)
    s, f = (np.full((1, c, 16, 16), v, np.float32) for c, v in ((1, 0.3), (3, 0.1)))
    losses = system.losses_of(s, f, np.zeros((3, 1), int), jt.zeros((3, 1, 1, 16, 16)), "pet")
    assert all(np.isfinite(v.item()) for v in losses.values())
    with jt.no_grad():
        fused = system.fuse(jt.array((s + 1) / 2), jt.array((f + 1) / 2)).numpy()
    np.testing.assert_allclose(fused[0, 1:], 0.55, atol=1e-6)
    unguarded = make(group="pet", train_timesteps=3, region_guard=False)
    with pytest.raises(UserError, match="region-guard"):
        unguarded.fuse(jt.array((s + 1) / 2), jt.array((f + 1) / 2))


def test_the_group_is_that_of_the_data_set():
    auto = jfusion.create("fccf", width=32)
    names = ("Harvard_PET", "SPECT-MRI", "GFP", "HARVARD-CT-MRI", "ADNI_2")
    groups = ["pet", "spect", "gfp", "ct", "adni"]
    assert [auto.group_of(name) for name in names] == groups
    settings = [Config.for_dataset({"dataset": name, "task": "MIF"}) for name in names]
    assert settings == [{"group": group} for group in groups]
    assert Config.for_dataset({"dataset": "spectral"}) == Config.for_dataset({}) == {}
    for dataset in ("spectral", ""):
        with pytest.raises(UserError, match="name one with --group"):
            auto.group_of(dataset)
    assert jfusion.create("fccf", width=32, group="gfp").group_of("Harvard_PET") == "gfp"


def test_each_pair_and_batch_is_of_its_own_group():
    """In the group ct the structure is b, and the luma is compared before the warp but for pet."""
    auto = jfusion.create("fccf", **TINY | {"group": "auto"})
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    for dataset, structure in (("Harvard_PET", a), ("Harvard_CT", b)):
        pair = dataclasses.replace(Pair.of_images("x", a, b, None, "b"), dataset=dataset)
        s, f = auto.preprocess(pair, training=True)
        np.testing.assert_array_equal(s[0], color.gray_by_pillow(structure) / np.float32(255))
        totals = []
        for system in (auto, jfusion.create("fccf", **TINY | {"group": auto.group_of(dataset)})):
            system.load_state(auto.state())
            system.eval()
            runtime.seed(0)
            batch = Batch(jt.array(s[None]), jt.array(f[None]), None, ["x"], dataset)
            totals.append(system.losses(batch, system.stages()[0])["total"].item())
        assert totals[0] == totals[1]
    with pytest.raises(UserError, match="name one with --group"):
        auto.fuse(jt.array(s[None]), jt.array(f[None]))


def test_settings_of_older_versions_have_their_present_names():
    config = from_dict(Config, {"group": "adni,pet,gfp,pet", "region": "as_training"})
    assert (config.group, config.region) == ("auto", "training")
    config = from_dict(Config, {"group": "pet", "region": "published"})
    assert (config.group, config.region) == ("pet", "released")
    assert from_dict(Config, to_dict(config)) == config


def test_width_and_policy_are_seen_in_the_tensors():
    system = jfusion.create("fccf", **TINY, reinforce=True, policy_size=8)
    state, names = system.state(), system.WEIGHTS
    expected = {"width": 32, "reinforce": True, "policy_size": 8}
    assert system.infer_settings(state) == expected
    official = {names.official(name): value for name, value in state.items()}
    assert system.infer_settings(official) == expected
    network = {name: value for name, value in state.items() if name.startswith("network.")}
    assert system.infer_settings(network) == {"width": 32}
    assert system.infer_settings({}) == {}


def test_groups_are_drawn_by_epoch_and_a_resumed_run_draws_the_same(tmp_path):
    """Each epoch is of one group, drawn by the seed; resuming follows the same draws."""
    from jfusion.commands.preprocess import Options as Preprocess
    from jfusion.commands.preprocess import preprocess
    from jfusion.train.options import Options
    from jfusion.train.setup import resume, train
    from tests.commands.test_preprocess import make_dataset, random_pair

    for dataset, count in (("Harvard_PET", 2), ("SPECT-MRI", 1)):
        pairs = {f"{dataset}{i}": random_pair(i, (32, 32)) for i in range(count)}
        make_dataset(tmp_path, pairs, "MIF", dataset, "train")
        out = str(tmp_path / "sets" / f"{dataset}.h5")
        preprocess(Preprocess("MIF", dataset, "train", str(tmp_path), out, text="zeros"))
    settings = {"width": 32, "train_timesteps": 3, "batch_size": 1, "epochs": 4}
    options = Options(
        data=str(tmp_path / "sets"), exp=str(tmp_path), images=0, seed=1, schedule="pet,spect"
    )
    whole = train("fccf", settings, options)
    lines = (whole.folder / "log.txt").read_text().splitlines()
    epochs = [line.split("\t")[1].split(" loss")[0].split(" total")[0] for line in lines]
    sizes = {line.split()[1].split("/")[0]: int(line.split("/")[-1]) for line in epochs}
    assert set(sizes.values()) == {1, 2} and len(lines) == sum(sizes.values())
    first = train("fccf", settings, dataclasses.replace(options, max_steps=3))
    again = resume(first.folder, max_steps=len(lines))
    for a, b in zip(*(r.latest()["model"].values() for r in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="no training set for 'adni' among Harvard_PET, SPECT-MRI"):
        train("fccf", settings, dataclasses.replace(options, schedule="pet,adni"))


def test_the_command_line_from_pairs_to_images(tmp_path, monkeypatch):
    from jfusion.cli import main
    from tests.commands.test_preprocess import make_dataset, random_pair

    monkeypatch.chdir(tmp_path)
    pairs = {f"s{i}": random_pair(i, (40, 48)) for i in range(3)}
    make_dataset(tmp_path, pairs, "MIF", "Harvard_PET", "train")
    data = ["--root", ".", "--task", "MIF", "--dataset", "Harvard_PET", "--text", "zeros"]
    assert main(["preprocess", *data, "--out", "x.h5"]) == 0
    small = "--data x.h5 --width 32 --train-timesteps 3 --batch-size 2 --crop 32 32 --max-steps 2"
    assert main(["train", "fccf", *small.split()]) == 0
    assert main(["test", "fccf", "--weights", "exp", "--data", "x.h5", "--out", "out"]) == 0
    (written,) = tmp_path.glob("out/*_fccf_*/Harvard_PET/Color/s1.png")
    rgb = image.read_rgb(written)
    assert rgb.shape == (40, 48, 3) and color.is_color(rgb)
    a, b = (str(tmp_path / f"Image/MIF/Harvard_PET/{x}/s1.png") for x in ("MRI", "T"))
    fuse = ["fuse", "--weights", "exp", "--a", a, "--b", b, "--task", "MIF"]
    assert main([*fuse, "--out", "f", "--group", "auto"]) == 2
    for group in ([], ["--group", "pet"]):  # that of training, and named
        assert main([*fuse, "--out", "f", *group]) == 0
        np.testing.assert_array_equal(image.read_rgb(tmp_path / "f/s1.png"), rgb)
        (tmp_path / "f/s1.png").unlink()
    assert main([*fuse, "--out", "g", "--group", "ct", "--pseudo-color", "a"]) == 0
    assert color.is_color(image.read_rgb(tmp_path / "g/s1.png"))
