"""Diff-FCCF's network, block by block, against the authors' numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jfusion.diffusion.unet import timestep_embedding
from jfusion.runtime import jt
from jfusion.systems.fccf import network
from jfusion.systems.fccf.system import FCCF
from tests.systems.fccf.golden import FOLDER, arrays, close, manifest, probe


@pytest.mark.parametrize("name", ["", "_small"])
def test_official_names_map_one_to_one(make, name):
    system = make(name)
    own, names = system.state_dict(), system.WEIGHTS
    assert {names.official(k): v.shape for k, v in own.items()} == manifest(name)
    assert all(names.ours(names.official(k)) == k for k in own)
    buffer = json.loads((FOLDER / "buffers.json").read_text())
    assert all(k.startswith(names.ignored) for k in buffer)


def part(recipe, golden, module, name):
    """A stand-alone module with the golden parameters of `name` by the authors' short names."""
    shapes = json.loads((FOLDER / "manifest_parts.json").read_text())[name]
    prefix = {"graformer": "graformer", "gate": "attention_block.0"}
    official = {
        "resblock": "downBlock.0.0",
        "downsample": "downBlock.0.0",
        "upsample": "upBlock.0.0",
    }
    kind = name.split("_")[0]
    at = {**official, **prefix, "attention": "attention_block.0"}[kind]
    names = module_names(at)
    for key, shape in shapes.items():
        target = module
        *path, leaf = names(key).split(".")
        for step in path:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        getattr(target, leaf).update(jt.array(recipe.weight(key, shape, "golden")))
    return module


def module_names(at):
    ours = FCCF.WEIGHTS.ours
    depth = len(ours(f"{at}.conv1.0.weight").split(".")) - 2 if "Block" in at else 2
    depth = {"graformer": 2}.get(at, 3)
    return lambda key: ".".join(ours(f"{at}.{key}").split(".")[depth:])


def test_blocks(golden, recipe):
    z = arrays(golden, "blocks")
    for width in (64, 32, 7):
        close(timestep_embedding(z["time_t"], width), z[f"time_embedding_{width}"], 1e-5)
    x, temb = jt.array(z["x"]), network.silu(jt.array(z["temb"]))
    for name, out in (("resblock_32_64", 64), ("resblock_32_32", 32)):
        block = part(recipe, golden, network.ResBlock(32, out, 48, 0.0), name)
        close(block(x, temb), z[f"{name}_y"], 1e-5, name)
        close(block(0.01 * x, temb), z[f"{name}_y_small"], 1e-5, name)
    close(part(recipe, golden, network.Gate(32), "attention_32")(x), z["attention_32_y"], 1e-5)
    close(
        part(recipe, golden, network.Downsample(32), "downsample_32")(x, None),
        z["downsample_32_y"],
        1e-5,
    )
    close(
        part(recipe, golden, network.Upsample(32), "upsample_32")(x, None), z["upsample_32_y"], 1e-5
    )


def as_grid(tokens, h=3, w=5):
    """(N, h w, C) -> (N, C, h, w)."""
    return jt.array(np.ascontiguousarray(np.moveaxis(tokens, 2, 1)).reshape(len(tokens), -1, h, w))


def as_tokens(x):
    x = x.numpy()
    return np.moveaxis(x.reshape(*x.shape[:2], -1), 1, 2)


def test_the_graph_layer_and_its_gradients(golden, recipe):
    z = arrays(golden, "cheb")
    x = as_grid(z["x"])
    eye = np.eye(15, dtype=np.float32).reshape(15, 1, 3, 5)
    np.testing.assert_array_equal(
        network.neighbor_sum(jt.array(eye)).numpy().reshape(15, 15), z["adj"]
    )
    np.testing.assert_array_equal(
        network.laplacian(jt.array(eye)).numpy().reshape(15, 15), z["lap"]
    )
    for order in (1, 2, 3, 5):
        layer = network.GraphLayer(24, 16, order)
        for k, matrix in enumerate(layer.chebyshev):
            matrix.weight.update(jt.array(recipe.weight(f"Theta.{k}", (24, 24), "golden")))
        close(as_tokens(layer.convolve(x)), z[f"chebgc_K{order}_y"], 1e-5)
    weight = recipe.weight("weight", (24, 6), "golden")
    mixed = network.conv1x1(x, jt.array(np.ascontiguousarray(weight.T)[:, :, None, None]))
    close(as_tokens(network.normalized_adjacency(mixed)), z["graph_convolution_y"], 1e-5)
    for key, name in (("graph_attention", "attend"), ("feed_forward", "feed_forward")):
        layer = network.GraphLayer(24, 16)
        if key == "graph_attention":
            for i, matrix in enumerate(layer.attention):
                matrix.weight.update(
                    jt.array(recipe.weight(f"linears.{i}.weight", (24, 6), "golden"))
                )
        else:
            for own, theirs in ((layer.expand, "linear1"), (layer.project, "linear2")):
                own.weight.update(
                    jt.array(recipe.weight(f"{theirs}.weight", own.weight.shape, "golden"))
                )
                own.bias.update(jt.array(recipe.weight(f"{theirs}.bias", own.bias.shape, "golden")))
        close(as_tokens(getattr(layer, name)(x)), z[f"{key}_y"], 1e-5, key)
    layer = part(recipe, golden, network.GraphLayer(24, 16), "graformer")
    y = layer(x)
    close(as_tokens(y), z["graformer_y"], 1e-5)
    close(as_tokens(layer(0.01 * x)), z["graformer_y_small"], 1e-5)
    own = {FCCF.WEIGHTS.official(f"network.graph.{k}"): v for k, v in layer.state_dict().items()}
    gradients = jt.grad((y * as_grid(z["graformer_w"])).sum(), [x, *own.values()])
    close(as_tokens(gradients[0]), z["graformer_dx"], 1e-4)
    for name, gradient in zip(own, gradients[1:], strict=True):
        close(gradient, z[name.replace("graformer.", "graformer_grad.")], 1e-4, name)


def test_positions_and_the_order_of_tokens(golden, make):
    z = arrays(golden, "cheb")
    close(network.positional_encoding(16, 3, 3), z["pos_16x3"], 1e-6)
    code = network.positional_encoding(512, 32, 32)
    close(probe(code, 256), z["pos_512x32_probe_values"], 1e-6)
    tokens = network.transpose_token_order(jt.array(z["scramble_in"]))
    np.testing.assert_array_equal(as_tokens(tokens), z["scramble_out"])


@pytest.mark.parametrize("case", ["s", "d64", "d256"])
def test_the_whole_network(golden, make, case):
    z = arrays(golden, "unet")
    system = make("_small" if case == "s" else "")
    stride = int(z[f"{case}_stride"])
    with jt.no_grad():
        output = system(jt.array(z[f"{case}_x_q"].astype(np.float32) / 32), z[f"{case}_t"])
    for name in ("noise", "mask1", "mask2"):
        x = getattr(output, name).numpy()
        close(x[:, :, ::stride, ::stride], z[f"{case}_{name}"], 1e-4, name)
        edges = np.stack([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], 1)
        close(edges, z[f"{case}_{name}_edges"], 1e-4, name)
    close(output.field.numpy()[:, ::8, ::8], z[f"{case}_dvfield"], 1e-4)


def test_every_block_on_the_way(golden, make, monkeypatch):
    z = arrays(golden, "unet")
    expected = dict(zip(map(str, z["s_probe_names"]), z["s_probe_values"], strict=True))
    net, seen = make().network, {}

    def watch(owner, name, call):
        def watched(*inputs):
            seen[name] = output = call(*inputs)
            return output

        monkeypatch.setattr(owner, "execute", watched, raising=False)

    lists = {"downBlock": net.down, "upBlock": net.noise_up, "fusionBlock": net.mask_up}
    lists |= {"attention_block": net.noise_gates, "attention_block_1": net.mask_gates}
    for name, blocks in {**lists, "middleBlock": net.middle}.items():
        for i, block in enumerate(blocks):
            watch(block, f"{name}.{i}", block.execute)
    watch(net.graph, "graformer", net.graph.execute)
    t = z["s_t"]
    x = jt.array(z["s_x_q"].astype(np.float32) / 32)
    seen["inBlock"] = net.first(x)
    seen["time_embed"] = net.embed(t)
    seen["sinusoid"] = jt.array(timestep_embedding(t, 32))
    net(x, t)
    checked = 0
    for name, values in expected.items():
        if name in seen:
            x = seen[name]
            x = as_tokens(x) if name == "graformer" and x.ndim == 4 else x.numpy()
            close(probe(x, 64), values, 1e-4, name)
            checked += 1
    assert checked >= 40, sorted(set(expected) - set(seen))
