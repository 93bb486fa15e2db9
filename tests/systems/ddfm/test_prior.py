"""The training of DDFM's network, and the checkpoints of the system "diffusion" that it once was."""

from __future__ import annotations

import numpy as np
import pytest

import jfusion
from jfusion.config import from_dict
from jfusion.errors import UserError
from jfusion.inference import from_checkpoint
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.ddfm.config import TINY, Config

# A checkpoint's configuration as commit cf2d833 wrote it.
OLD = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "learn_sigma": False,
    "class_cond": False,
    "attention_resolutions": "8",
    "num_heads": 4,
    "num_head_channels": 32,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": True,
    "dropout": 0.0,
    "resblock_updown": True,
    "use_fp16": False,
    "use_new_attention_order": False,
    "steps": 1000,
    "noise_schedule": "linear",
    "model_var_type": "fixed_small",
    "epochs": 200,
    "batch_size": 8,
    "learning_rate": 0.0002,
}
# What that commit's ddfm fused with the weights of `drawn`, every eighth pixel.
FUSED = {
    "released": [
        [0.49100, 0.66980, 0.25256, 0.66692],
        [0.54246, 0.48937, 0.02409, 0.50797],
        [0.64841, 0.62793, 0.85940, 0.17821],
    ],
    "paper": [
        [0.48048, 0.55085, 0.34131, 0.62915],
        [0.40803, 0.60971, 0.14649, 0.49829],
        [0.85662, 0.42478, 0.86905, 0.25251],
    ],
}


def drawn(system):
    """Weights by name, from a fixed seed."""
    rng, shapes = np.random.default_rng(0), {k: v.shape for k, v in system.state_dict().items()}
    return {k: (0.1 * rng.standard_normal(shapes[k])).astype(np.float32) for k in sorted(shapes)}


@pytest.fixture(scope="module")
def tiny():
    return jfusion.create("ddfm", **TINY)


def batch(channels=1, size=(17, 22), count=2):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, count, channels, *size), np.float32)
    b = a if channels == 3 else b
    return Batch(jt.array(a), jt.array(b), None, ["x"] * count)


@pytest.mark.parametrize("roles", ["released", "paper"])
def test_an_old_checkpoint_of_diffusion_fuses_as_before(roles):
    model = drawn(jfusion.create("ddfm", **{**OLD, "timestep_respacing": "5"}))
    asked = {"timestep_respacing": "5"}
    if roles == "paper":
        asked |= {"sampler": "ddpm", "swap": True, "textbook": True, "faithful": False}
    content = {"system": "diffusion", "config": OLD, "model": model}
    system = from_checkpoint(None, content, settings=asked)
    pair = np.random.default_rng(1).random((2, 1, 1, 24, 30)).astype(np.float32)
    fused = system.fuse(*map(jt.array, pair)).numpy()
    np.testing.assert_allclose(fused[0, 0, ::8, ::8], FUSED[roles], rtol=0, atol=2e-3)


def test_settings_of_older_versions_are_read():
    old = {"swap": True, "textbook": True, "faithful": True, "class_cond": False}
    made = from_dict(Config, old)
    assert (made.source_roles, made.estimate, made.border) == ("paper", "paper", "released")
    assert from_dict(Config, dict.fromkeys(old, False)) == Config()
    with pytest.raises(UserError, match="class_cond"):
        from_dict(Config, {"class_cond": True})


def test_a_variant_decides_what_the_user_does_not():
    official, small = Config(), Config(variant="small", num_channels=64)
    assert (official.num_channels, official.learn_sigma, official.multipliers[-1]) == (256, True, 4)
    assert (small.num_channels, small.learn_sigma, small.multipliers) == (64, False, (1, 2, 3))
    assert small.model_var_type == "fixed_small" and official.model_var_type == "learned_range"
    old, present = from_dict(Config, OLD), {**OLD, "train_timesteps": OLD["steps"]}
    for key in ("class_cond", "steps"):
        del present[key]
    assert all(getattr(old, key) == value for key, value in present.items())


def test_a_network_with_a_learned_variance_is_not_trained():
    with pytest.raises(UserError, match="--variant small"):
        Config().check_training()
    with pytest.raises(UserError, match="--variant small"):
        Config(variant="small", model_mean_type="start_x").check_training()
    Config(variant="small").check_training()


def test_both_images_of_a_pair_are_learned_and_single_images_once(tiny, monkeypatch):
    seen, execute = [], type(tiny.unet).execute

    def watched(self, x, t):
        seen.append((x.shape, t.shape))
        return execute(self, x, t)

    monkeypatch.setattr(type(tiny.unet), "execute", watched)
    (stage,) = tiny.stages()
    for channels in (1, 3):
        losses = tiny.losses(batch(channels), stage)
        assert set(losses) == {"total"} and 0.5 < losses["total"].item() < 1.5
    assert seen == [([4, 3, 16, 22], (4,)), ([2, 3, 16, 22], (2,))]
    with pytest.raises(UserError, match="too small"):
        tiny.losses(batch(size=(1, 22)), stage)


def test_its_optimizer_has_every_parameter(tiny):
    (adam,) = tiny.optimizers(*tiny.stages())
    assert adam.name == "unet" and adam.parameters.keys() == tiny.state_dict().keys()
    assert adam.rate(0, 0, 5) == adam.rate(100, 3, 5) == 2e-4


def test_the_preview_is_one_estimate_of_each_first_image(tiny):
    with jt.no_grad():
        shown = tiny.preview(batch()).numpy()
    assert shown.shape == (2, 3, 16, 22) and shown.min() >= 0 and shown.max() <= 1
