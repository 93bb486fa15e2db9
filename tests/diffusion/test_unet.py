"""The UNet against the reference's arrays (tests/golden/ddfm/README.md has the tolerances)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jfusion.checkpoint import WeightMap
from jfusion.diffusion import unet
from jfusion.diffusion.config import UNetConfig
from jfusion.errors import UserError
from jfusion.ops.group_norm import group_norm
from jfusion.ops.pixel_attention import pixel_attention
from jfusion.runtime import jt, nn
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "ddfm"
NAMES = WeightMap(unet.OFFICIAL)


class Holder(nn.Module):
    """As a system holds the network."""

    def __init__(self, config, num_classes=None):
        self.unet = unet.UNet(config, num_classes)


def settings(name):
    values = json.loads((FOLDER / f"config_{name}.json").read_text())
    values.pop("use_checkpoint", None)
    values["attention_resolutions"] = str(values["attention_resolutions"])
    return {k: v for k, v in values.items() if k in UNetConfig.__dataclass_fields__}


def manifest(name):
    return json.loads((FOLDER / f"manifest_{name}.json").read_text())


def load(network, recipe, name):
    """The golden weights by the authors' names."""
    own = Holder.__new__(Holder)
    nn.Module.__init__(own)
    own.unet = network
    parameters = own.state_dict()
    for key, value in recipe.state(manifest(name), salt="golden").items():
        parameters.pop(NAMES.ours(key)).update(jt.array(value))
    assert not parameters
    return network


@pytest.fixture(scope="module")
def small(recipe):
    return load(unet.UNet(UNetConfig(**settings("small"))), recipe, "small")


def probes(network, x, t, labels=None):
    """Mean, deviation and eight values of each block's output, in order of execution."""
    rows, run = [], unet._run

    def watched(block, x, time):
        out = run(block, x, time)
        rows.append(out)
        return out

    unet._run = watched
    try:
        with jt.no_grad():
            out = network(jt.array(x), t, labels)
    finally:
        unet._run = run
    values = []
    for row in rows:
        flat = row.numpy().reshape(-1)
        at = np.linspace(0, flat.size - 1, 8).astype(np.int64)
        values.append([flat.mean(), flat.std(), *flat[at]])
    return out.numpy(), np.array(values)


@pytest.mark.parametrize("kind", ["", "_ns"])
def test_outputs_and_every_block(small, golden, kind):
    z = golden("ddfm/unet.npz")
    out, rows = probes(small, z[f"x{kind}"], z[f"t{kind}"])
    expected = z["probe_ns" if kind else "probe_batch"]
    for name, row, expected_row in zip(z["probe_names"], rows, expected[: len(rows)], strict=False):
        np.testing.assert_allclose(row, expected_row, rtol=0, atol=5e-5, err_msg=str(name))
    np.testing.assert_allclose(out, z[f"out{kind}"], rtol=0, atol=5e-5)
    assert len(expected) - len(rows) <= 1  # the last one is the output


def test_time_embedding(small, golden):
    z = golden("ddfm/unet.npz")
    for t, width, name in (
        ("temb_t", 32, "temb_sin"),
        ("temb_tf", 32, "temb_sin_float"),
        ("temb_t", 33, "temb_sin_odd"),
    ):
        found = unet.timestep_embedding(z[t], width)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, z[name], rtol=0, atol=5e-5, err_msg=name)
    np.testing.assert_allclose(small.embed(z["temb_t"]).numpy(), z["temb_out"], rtol=0, atol=5e-5)


def part(network, name):
    """The part of the network that the authors' name means."""
    kind, i, *j = name.split(".")
    blocks = {"input_blocks": network.down, "output_blocks": network.up}[kind]
    return blocks[int(i)][int(j[0]) if j else 0]


def test_single_blocks(small, golden):
    z = golden("ddfm/unet.npz")
    time = unet.silu(jt.array(z["res_emb"]).reshape(1, -1))
    close = {"rtol": 0, "atol": 2e-5}
    with jt.no_grad():
        block, x = part(small, str(z["res_name"])), jt.array(z["res_x"])
        h = unet._conv(block.norm1(x, silu=True), block.conv1)
        np.testing.assert_allclose(h.numpy(), z["res_in"], **close)
        made = block.time(time)
        np.testing.assert_allclose(made.numpy().ravel(), z["res_emb_out"].ravel(), **close)
        np.testing.assert_allclose(block.norm2(h).numpy(), z["res_norm2"], **close)
        mod = jt.array(z["res_mod"])
        np.testing.assert_allclose(
            block.modulated(h, made).numpy(), unet.silu(mod).numpy(), **close
        )
        h = unet._conv(unet.silu(mod), block.conv2)
        np.testing.assert_allclose(h.numpy(), z["res_h"], **close)
        np.testing.assert_allclose(unet._conv(x, block.skip).numpy(), z["res_skip"], **close)
        np.testing.assert_allclose(block(x, time).numpy(), z["res_out"], **close)

        block, x = part(small, str(z["att_name"])), jt.array(z["att_x"])
        np.testing.assert_allclose(block.norm(x).numpy(), z["att_norm"].reshape(x.shape), **close)
        qkv = block.qkv(block.norm(x))
        np.testing.assert_allclose(qkv.numpy(), z["att_qkv"].reshape(qkv.shape), **close)
        h = pixel_attention(qkv, block.heads, block.heads_first)
        np.testing.assert_allclose(h.numpy(), z["att_h"].reshape(x.shape), **close)
        np.testing.assert_allclose(
            block.project(h).numpy(), z["att_proj"].reshape(x.shape), **close
        )
        np.testing.assert_allclose(block(x, time).numpy(), z["att_out"].reshape(x.shape), **close)

        for way in ("down", "up"):
            found = part(small, str(z[f"{way}_name"]))(jt.array(z[f"{way}_x"]), time)
            np.testing.assert_allclose(found.numpy(), z[f"{way}_out"], **close)


def test_both_orders_of_the_heads(golden):
    z = golden("ddfm/unet.npz")
    qkv, heads = jt.array(z["order_qkv"]).unsqueeze(-1), int(z["order_heads"])
    for name, first in (("legacy", True), ("new", False)):
        found = pixel_attention(qkv, heads, first).numpy()[..., 0]
        np.testing.assert_allclose(found, z[f"order_{name}"], rtol=0, atol=2e-5)


def test_the_other_branches(recipe, golden):
    z = golden("ddfm/unet_alt.npz")
    network = load(unet.UNet(UNetConfig(**settings("alt")), 1000), recipe, "alt")
    out, rows = probes(network, z["x"], z["t"], z["y"])
    for name, row, expected_row in zip(z["probe_names"], rows, z["probe"], strict=False):
        np.testing.assert_allclose(row, expected_row, rtol=0, atol=5e-5, err_msg=str(name))
    np.testing.assert_allclose(out, z["out"], rtol=0, atol=5e-5)


def test_the_official_model_has_the_published_names(monkeypatch):
    """Without allocating its 2.2 GB: nothing of it is ever computed."""
    own = {k: tuple(v.shape) for k, v in Holder(UNetConfig()).state_dict().items()}
    official = {NAMES.official(k): v for k, v in own.items()}
    assert official == {k: tuple(v) for k, v in manifest("256_uncond").items()}
    assert all(NAMES.ours(NAMES.official(k)) == k for k in own)
    assert sum(int(np.prod(v)) for v in own.values()) == 552_814_086


@pytest.mark.parametrize("name, num_classes", [("small", None), ("alt", 1000)])
def test_names_map_one_to_one(name, num_classes):
    own = Holder(UNetConfig(**settings(name)), num_classes).state_dict()
    assert {NAMES.official(k): v.shape for k, v in own.items()} == manifest(name)


def test_an_untrained_network_is_zero_and_learns(recipe):
    config = UNetConfig(
        image_size=16, num_channels=32, num_res_blocks=1, channel_mult="1,2",
        attention_resolutions="8", num_head_channels=32, learn_sigma=False, dropout=0.5,
    )  # fmt: skip
    network, x = unet.UNet(config), jt.array(np.ones((2, 3, 8, 8), np.float32))
    out = network(x, np.array([3.0, 7.0]))
    assert not out.numpy().any()
    gradient = jt.grad(((out - 1) ** 2).sum(), network.conv.weight)
    assert abs(gradient.numpy()).max() > 0


def test_half_precision_holds_half_and_is_near(recipe, golden):
    z = golden("ddfm/unet.npz")
    network = load(unet.UNet(UNetConfig(**settings("small"))), recipe, "small")
    network.convert_to_fp16()
    kinds = {k: str(v.dtype) for k, v in network.state_dict().items()}
    assert kinds["down.1.0.conv1.weight"] == "float16" and kinds["down.0.0.bias"] == "float16"
    assert kinds["down.1.0.time.weight"] == kinds["conv.weight"] == "float32"
    assert kinds["down.1.0.norm1.weight"] == kinds["time.0.weight"] == "float32"
    with jt.no_grad():
        out = network(jt.array(z["x_ns"]), z["t_ns"]).numpy()
    assert 0 < abs(out - z["out_ns"]).max() < 2e-2


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"num_channels": 40}, "multiple of 32"),
        ({"image_size": 100}, "channel_mult"),
        ({"channel_mult": "1,x"}, "whole numbers"),
        ({"attention_resolutions": "0"}, "positive"),
    ],
)
def test_impossible_networks_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        UNetConfig(**wrong)


def test_sides_and_labels_are_checked(small):
    with pytest.raises(UserError, match="multiples of 8"):
        small(jt.zeros((1, 3, 12, 16)), np.zeros(1))
    with pytest.raises(UserError, match="num_classes"):
        small(jt.zeros((1, 3, 16, 16)), np.zeros(1), np.zeros(1, int))


def test_group_norm_of_the_blocks_has_silu_and_sample_weights():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 32, 3, 5)).astype(np.float32)
    w, b = rng.standard_normal((2, 2, 32)).astype(np.float32)
    out = group_norm(jt.array(x), 32, jt.array(w), jt.array(b), silu=True).numpy()
    one = [
        group_norm(jt.array(x[i : i + 1]), 32, jt.array(w[i]), jt.array(b[i])).numpy()
        for i in range(2)
    ]
    y = np.concatenate(one).astype(np.float64)
    np.testing.assert_allclose(out, y / (1 + np.exp(-y)), atol=2e-6)
