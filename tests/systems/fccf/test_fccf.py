"""Diff-FCCF against the authors' numbers (tests/golden/fccf/README.md has the tolerances)."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import jfusion
from jfusion.data import color, image
from jfusion.data.h5 import Pair
from jfusion.diffusion.process import q_sample
from jfusion.diffusion.schedule import named_schedule, rounded
from jfusion.diffusion.unet import timestep_embedding
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.fccf import losses as terms
from jfusion.systems.fccf import network as network
from jfusion.systems.fccf import policy as policy
from jfusion.systems.fccf.config import GROUPS, PUBLISHED, TRAINING
from jfusion.systems.fccf.system import system as module
from jfusion.train.optimizer import Adam
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "fccf"
PLANES = range(3)


def manifest(name):
    return json.loads((FOLDER / f"manifest{name}.json").read_text())


@pytest.fixture(scope="module")
def make(recipe):
    """make("_small", group="ct") -> the system with the golden weights, in evaluation mode."""

    def make(name="_small", **values):
        width = 32 if name == "_small" else 64
        system = jfusion.create("fccf", **{"width": width, "group": "pet", **values})
        system.load_official(recipe.state(manifest(name), salt="golden"))
        system.eval()
        return system

    return make


def arrays(golden, name):
    return golden(f"fccf/{name}.npz")


def close(found, expected, tolerance, name=""):
    """The largest difference, in the array's largest value."""
    found = found.numpy() if hasattr(found, "numpy") else np.asarray(found)
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    scale = max(abs(expected).max(), 1e-12)
    assert abs(found - expected).max() <= tolerance * scale, (
        name,
        abs(found - expected).max() / scale,
    )


def probe(x, count):
    flat = np.asarray(x).ravel()
    return flat[np.linspace(0, flat.size - 1, count).astype(np.int64)]


def sources(golden, group):
    """s (2, 1, 64, 64), f (2, 3, 64, 64) in [-1, 1]."""
    z = arrays(golden, "inputs")
    s, f = z[f"gray_{group}"][:, None], np.moveaxis(z[f"ycrcb_{group}"], 3, 1)
    return tuple((x.astype(np.float32) / np.float32(255) * 2 - 1) for x in (s, f))


# ---- names, schedule, colour, warping -----------------------------------------------------------


@pytest.mark.parametrize("name", ["", "_small"])
def test_official_names_map_one_to_one(make, name):
    system = make(name)
    own = system.state_dict()
    assert {system.OFFICIAL.official(k): v.shape for k, v in own.items()} == manifest(name)
    assert all(system.OFFICIAL.ours(system.OFFICIAL.official(k)) == k for k in own)
    buffer = json.loads((FOLDER / "buffers.json").read_text())
    assert all(k.startswith(system.DEAD) for k in buffer)


@pytest.mark.parametrize(
    "kind, steps", [("cosine", 2000), ("cosine", 9), ("linear", 2000), ("linear", 90)]
)
def test_schedules_are_rounded_as_the_reference_rounds_them(golden, kind, steps):
    z = arrays(golden, "schedule")
    made = named_schedule(kind, steps)
    made = rounded(made) if kind == "cosine" else made
    at = z["index"] if steps == 2000 else slice(None)
    for theirs, ours in {
        "betas": made.betas,
        "alphas": 1 - made.betas,
        "alphas_cumprod": made.alphas_cumprod,
        "alphas_cumprod_prev": made.alphas_cumprod_prev,
        "sqrt_recip_alphas_cumprod": made.sqrt_recip_alphas_cumprod,
        "sqrt_recipm1_alphas_cumprod": made.sqrt_recipm1_alphas_cumprod,
        "posterior_variance": made.posterior_variance,
        "posterior_mean_coef1": made.posterior_mean_coef1,
        "posterior_mean_coef2": made.posterior_mean_coef2,
    }.items():
        close(ours[at], z[f"{kind}{steps}_{theirs}"], 3e-7, theirs)
        assert (ours.dtype == np.float32) == (kind == "cosine"), theirs
    if kind == "cosine":
        close(
            made.posterior_log_variance[at],
            z[f"cosine{steps}_posterior_log_variance_clipped"],
            3e-7,
        )


def test_noising_and_the_step_back(golden):
    z = arrays(golden, "schedule")
    steps = rounded(named_schedule("cosine", 2000))
    for x, q in (("x1", "q1"), ("x2", "q2")):
        close(q_sample(jt.array(z[x]), z["t"], jt.array(z["noise"]), steps), z[q], 1e-6)
    for i, k in enumerate(z["t"]):
        clean = (
            steps.sqrt_recip_alphas_cumprod[k] * z["x1"][i]
            - steps.sqrt_recipm1_alphas_cumprod[k] * z["noise"][i]
        )
        mean = (
            steps.posterior_mean_coef1[k] * z["x2"][i] + steps.posterior_mean_coef2[k] * z["x1"][i]
        )
        close(mean, z["post_mean"][i], 1e-6)
        assert abs(clean - z["x0"][i]).max() <= 1e-6 * abs(z["x0"]).max()


def test_stages_of_the_conditions(golden, make):
    z = arrays(golden, "schedule")
    one = np.full((1, 1, 8, 8), 1.0, np.float32)
    plane = module.Plane(0, one, 2 * one, one, 2 * one, one, 1.0)
    for steps, stage in ((2000, z["stage2000"]), (9, z["stage_small"])):
        system = make(timesteps=steps)
        for t in range(0, steps, 1 if steps == 9 else 37):
            first, second = (x.numpy().max() for x in system.conditions([plane], t))
            assert (first, second) == {1: (2, 2), 2: (1, 2), 3: (1, 1)}[int(stage[t])], t


def test_values_become_8_bits_as_the_authors_write_them(golden):
    z = arrays(golden, "color")
    cut = module.cut((np.clip(z["tensor2img_in"], -1, 1) + 1) / 2)
    assert abs(cut.astype(int) - z["tensor2img_out"]).max() <= 1
    assert (cut == z["tensor2img_out"]).mean() > 0.99


def test_warping_and_its_gradients(golden):
    z = arrays(golden, "warp")
    x, field = jt.array(z["image"]), jt.array(z["field"])
    out = module.warp(x, field)
    close(out, z["warped"], 1e-5)
    close(module.warp(x, jt.array(z["unit_field"])), z["unit_warped"], 1e-5)
    slopes = jt.grad((out * jt.array(z["w"])).sum(), [x, field])
    close(slopes[0], z["d_image"], 1e-5)
    close(slopes[1], z["d_field"], 1e-4)


# ---- the network --------------------------------------------------------------------------------


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
    ours = module.FCCF.OFFICIAL.ours
    depth = len(ours(f"{at}.conv1.0.weight").split(".")) - 2 if "Block" in at else 2
    depth = {"graformer": 2}.get(at, 3)
    return lambda key: ".".join(ours(f"{at}.{key}").split(".")[depth:])


def test_blocks(golden, recipe):
    z = arrays(golden, "blocks")
    for width in (64, 32, 7):
        close(timestep_embedding(z["time_t"], width), z[f"timestep_embedding_{width}"], 1e-5)
    x, waves = jt.array(z["x"]), network.silu(jt.array(z["temb"]))
    for name, out in (("resblock_32_64", 64), ("resblock_32_32", 32)):
        block = part(recipe, golden, network.ResBlock(32, out, 48, 0.0), name)
        close(block(x, waves), z[f"{name}_y"], 1e-5, name)
        close(block(0.01 * x, waves), z[f"{name}_y_small"], 1e-5, name)
    close(part(recipe, golden, network.Gate(32), "attention_32")(x), z["attention_32_y"], 1e-5)
    close(
        part(recipe, golden, network.Down(32), "downsample_32")(x, None), z["downsample_32_y"], 1e-5
    )
    close(part(recipe, golden, network.Up(32), "upsample_32")(x, None), z["upsample_32_y"], 1e-5)


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
        network.neighbours(jt.array(eye)).numpy().reshape(15, 15), z["adj"]
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
    close(as_tokens(network.smoothed(mixed)), z["graph_convolution_y"], 1e-5)
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
    own = {
        module.FCCF.OFFICIAL.official(f"network.graph.{k}"): v
        for k, v in layer.state_dict().items()
    }
    slopes = jt.grad((y * as_grid(z["graformer_w"])).sum(), [x, *own.values()])
    close(as_tokens(slopes[0]), z["graformer_dx"], 1e-4)
    for name, slope in zip(own, slopes[1:], strict=True):
        close(slope, z[name.replace("graformer.", "graformer_grad.")], 1e-4, name)


def test_positions_and_the_order_of_tokens(golden, make):
    z = arrays(golden, "cheb")
    close(network.position_code(16, 3, 3), z["pos_16x3"], 1e-6)
    code = network.position_code(512, 32, 32)
    close(probe(code, 256), z["pos_512x32_probe_values"], 1e-6)
    found = network.scrambled(jt.array(z["scramble_in"]))
    np.testing.assert_array_equal(as_tokens(found), z["scramble_out"])


@pytest.mark.parametrize("case", ["s", "d64", "d256"])
def test_the_whole_network(golden, make, case):
    z = arrays(golden, "unet")
    system = make("_small" if case == "s" else "")
    stride = int(z[f"{case}_stride"])
    with jt.no_grad():
        found = system(jt.array(z[f"{case}_x_q"].astype(np.float32) / 32), z[f"{case}_t"])
    for name in ("noise", "mask1", "mask2"):
        x = getattr(found, name).numpy()
        close(x[:, :, ::stride, ::stride], z[f"{case}_{name}"], 1e-4, name)
        edges = np.stack([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], 1)
        close(edges, z[f"{case}_{name}_edges"], 1e-4, name)
    close(found.field.numpy()[:, ::8, ::8], z[f"{case}_dvfield"], 1e-4)


def test_every_block_on_the_way(golden, make, monkeypatch):
    z = arrays(golden, "unet")
    expected = dict(zip(map(str, z["s_probe_names"]), z["s_probe_values"], strict=True))
    net, seen = make().network, {}

    def watch(owner, name, call):
        def watched(*inputs):
            seen[name] = made = call(*inputs)
            return made

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
            found = seen[name]
            found = as_tokens(found) if name == "graformer" and found.ndim == 4 else found.numpy()
            close(probe(found, 64), values, 1e-4, name)
            checked += 1
    assert checked >= 40, sorted(set(expected) - set(seen))


# ---- losses and training ------------------------------------------------------------------------


def test_single_terms(golden):
    z = arrays(golden, "losses")
    a, b, classes = z["a"], z["b"], z["a_classes"]
    # the reference's function of this name is the loss: with the sign turned
    for bins, key in ((64, "mutual_information"), (16, "mutual_information_16")):
        np.testing.assert_allclose(-terms.mutual_information(a, b, bins), z[key], rtol=1e-5)
    x = jt.array(b)
    ratio = terms.correlation_ratio(classes, x)
    np.testing.assert_allclose(ratio.item(), z["variance_ratio"], rtol=1e-5)
    close(jt.grad(ratio, x), z["variance_ratio_db"], 1e-4)
    fused = jt.array(b)
    parts = terms.quality(jt.array(a), jt.array(classes), fused)
    for name in ("gradient", "intensity", "ssim"):
        np.testing.assert_allclose(
            parts[name].item(), z[f"quality_{name}"], rtol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(sum(parts.values()).item(), z["quality_total"], rtol=1e-5)
    close(jt.grad(sum(parts.values()), fused), z["quality_dfused"], 1e-3)
    kept = jt.array(z["ref_values"].reshape(2, 1, 1, 1))
    moved = terms.restated(jt.array(b), jt.array(a), kept)
    close(moved, z["normalize_with_ref_distribution"], 1e-5)


def test_terms_that_are_published_and_not_used(golden):
    z = arrays(golden, "losses")
    a, b, classes = z["a"], z["b"], z["a_classes"]
    np.testing.assert_allclose(((a - b) ** 2).mean(), z["mse"], rtol=1e-5)
    np.testing.assert_allclose(terms.pearson_loss(a, b), z["correlation"], rtol=1e-5)
    close(terms.stretched(b, z["ref_values"]), z["normalize_with_ref"], 1e-5)
    assert not terms.stretched(np.full((1, 1, 2, 2), 0.3, np.float32), np.zeros(1)).any()
    close(terms.hessian_determinant(z["field"]), z["hessian_det"], 1e-5)
    np.testing.assert_allclose(policy.composite_loss(b, a, classes), z["composite"], rtol=1e-5)
    other = policy.composite_loss(b, a, classes, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(other, z["composite_123"], rtol=1e-5)


NAMES = ("noise", "mutual_information", "correlation_ratio", "fusion", "quality")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("number", PLANES)
def test_the_loss_of_a_plane_and_its_gradients(golden, make, group, number):
    z = arrays(golden, "losses")
    key = f"{group}_{number}"
    system = make(group=group)
    s, f = sources(golden, group)
    plane = system.plane(number, s, f[:, number : number + 1], TRAINING[group])
    noise = jt.array(z["stub_noise_q"].astype(np.float32) / 32)
    predicted = jt.array(z["stub_pred_q"].astype(np.float32) / 32)
    masks = [jt.array(z[f"stub_mask{i}_u8"].astype(np.float32) / 256) for i in (1, 2)]
    field = jt.array((2 * z["stub_dv_u8"].astype(np.float32) + 1) / 256)
    noisy = system.noisy(plane, noise, z["stub_t"], system.schedule())
    inputs = np.concatenate([plane.structure, plane.function, *(x.numpy() for x in noisy)], 1)
    close(inputs[:, :, ::4, ::4], z[f"{key}_input"], 1e-5)
    found = system.plane_losses(plane, module.Output(predicted, *masks), field, noise, noisy)
    np.testing.assert_allclose([found[n].item() for n in NAMES], z[f"{key}_terms"][:5], rtol=1e-5)
    total = sum({"noise": 10, "quality": 10}.get(n, 1) * v for n, v in found.items())
    np.testing.assert_allclose(total.item(), z[f"{key}_total"], rtol=1e-5)
    slopes = jt.grad(total, [predicted, *masks, field])
    for name, slope in zip(("pred", "mask1", "mask2", "dv"), slopes, strict=True):
        slope, norm = slope.numpy(), z[f"{key}_d_{name}"]
        assert abs(np.linalg.norm(slope) - norm) <= 1e-3 * norm + 1e-9, name
        if norm:
            expected = z[f"{key}_d_{name}_probe"]
            assert abs(probe(slope, 32) - expected).max() <= 1e-3 * abs(expected).max(), name


def gradients(system, golden, z, key, group, t, noise):
    system.train()
    s, f = sources(golden, group) if key != "d256" else sources256(golden)
    found = system.losses_of(s, f, t, jt.array(noise.astype(np.float32) / 32))
    expected = z[f"{key}_terms"].sum(0)
    np.testing.assert_allclose([found[n].item() for n in NAMES], expected, rtol=1e-4)
    np.testing.assert_allclose(found["total"].item(), z[f"{key}_total"], rtol=1e-4)
    own = {system.OFFICIAL.official(k): v for k, v in system.state_dict().items()}
    slopes = [x.numpy() for x in jt.grad(found["total"], [own[str(n)] for n in z["names"]])]
    loose = 5e-2 if key == "pet" else 5e-3
    for name, slope, norm, sample in zip(
        z["names"], slopes, z[f"{key}_norms"], z[f"{key}_samples"], strict=True
    ):
        assert abs(np.linalg.norm(slope) - norm) <= loose * norm + 1e-3, name
        assert abs(probe(slope, 4) - sample).max() <= loose * abs(sample).max() + 1e-3, name
    whole = np.sqrt(sum((x.astype(float) ** 2).sum() for x in slopes))
    assert abs(whole / z[f"{key}_global_norm"] - 1) < 1e-3


def sources256(golden):
    z = arrays(golden, "inputs")
    s, f = z["gray256"][:, None], np.moveaxis(z["ycrcb256"], 3, 1)
    return tuple((x.astype(np.float32) / np.float32(255) * 2 - 1) for x in (s, f))


@pytest.mark.parametrize("group", GROUPS)
def test_the_gradient_of_a_training_step(golden, make, group):
    z = arrays(golden, "gradients")
    gradients(make(group=group, dropout=0.0), golden, z, group, group, z["t"], z["noise_q"])


def test_the_gradient_with_the_published_network(golden, make):
    z = arrays(golden, "gradients")
    gradients(make("", dropout=0.0), golden, z, "d256", "pet", z["d256_t"], z["d256_noise_q"])


def test_three_updates_follow_the_reference(golden, make):
    z = arrays(golden, "gradients")
    system = make(group="spect", dropout=0.0)
    system.train()
    (group,) = system.parameter_groups(system.stages()[0])
    optimizer = Adam(group.parameters, weight_decay=group.weight_decay, decoupled=group.decoupled)
    s, f = sources(golden, "spect")
    noise = jt.array(z["noise_q"].astype(np.float32) / 32)
    losses = []
    for _ in range(3):
        found = system.losses_of(s, f, z["t"], noise)
        losses.append(found["total"].item())
        optimizer.step(found["total"], group.rate(0, 0, 1))
    np.testing.assert_allclose(losses, z["spect_adamw_losses"], rtol=1e-4)
    own = {system.OFFICIAL.official(k): v.numpy() for k, v in system.state_dict().items()}
    for name, sample in zip(z["names"], z["spect_adamw_param_samples"], strict=True):
        assert abs(probe(own[str(name)], 4) - sample).max() <= 1.2e-3, name


# ---- inference ----------------------------------------------------------------------------------


def chains(golden, system, number, group):
    """The plane with the regions of the whole batch, as the fixture has them."""
    s, f = sources(golden, group)
    return system.plane(number, s, f[:, number : number + 1], PUBLISHED[group])


@pytest.mark.parametrize("group", GROUPS)
def test_staged_inference(golden, make, group, monkeypatch):
    z = arrays(golden, "sampling")
    system = make(group=group, timesteps=int(z["T"]))
    start = np.concatenate(list(z["z_q"].astype(np.float32) / 32), 1)
    steps, field, predict = system.schedule(), [], system.predict

    def with_field(planes, x, t):
        """Carries the field that the published sampling carries."""
        found = predict(planes, x, t)
        _, mean = module.posterior(field[-1], found.noise, x[:, 1:2], t, steps)
        field.append(mean)
        return found

    monkeypatch.setattr(system, "predict", with_field)
    for number in PLANES:
        plane, trace, key = chains(golden, system, number, group), [], f"{group}_{number}"
        field[:] = [jt.zeros((2, 2, 64, 64))]

        def watch(k, x, clean, trace=trace):
            v = x.numpy().astype(float)
            # the fused chain first, the field last
            order = (v[:, 2], v[:, 0], v[:, 1], field[-1].numpy().astype(float))
            trace.append([u(c) for c in order for u in (np.mean, lambda c: c.std(ddof=1))])

        with jt.no_grad():
            final = system.sample([plane], jt.array(start), watch).numpy()
        close(final[:, :, ::2, ::2], z[f"{key}_final"], 5e-3, key)
        close(probe(final, 256), z[f"{key}_probe"], 5e-3, key)
        assert abs(np.array(trace) - z[f"{key}_trace"][:, 3:]).max() < 1e-4, key


def test_added_noise(golden, make):
    z = arrays(golden, "sampling")
    system = make(group="pet", timesteps=3, add_noise=True)
    start = np.concatenate(list(z["z_q"].astype(np.float32) / 32), 1)
    maps = iter(z["step_z_q"].astype(np.float32) / 32)
    with jt.no_grad():
        final = system.sample(
            [chains(golden, system, 0, "pet")],
            jt.array(start),
            noise=lambda k: jt.array(next(maps)),
        )
    close(final.numpy()[:, :, ::2, ::2], z["addnoise_T3_pet_0_final"], 5e-3)


def test_single_steps_back(golden, make):
    z = arrays(golden, "sampling")
    system = make(group="spect")
    s, f = (x[:1] for x in sources(golden, "spect"))
    x = np.concatenate(
        [z[f"single_{k}_q"].astype(np.float32) / 32 for k in ("xt1", "xt2", "xt")], 1
    )
    for i in z["single_i"]:
        for number in PLANES:
            own, sign = f[:, number : number + 1], PUBLISHED["spect"][number - 1].sign
            plane = module.Plane(number, s, own, s, own, np.ones_like(s), sign if number else 1.0)
            with jt.no_grad():
                found = system.step_back(
                    [plane], jt.array(x), int(i), system.schedule()
                ).mean.numpy()
                noise = system.predict([plane], jt.array(x), int(i)).noise
                d = jt.array(z["single_dv_q"].astype(np.float32) / 32)
                beside = jt.array(x[:, 1:2])
                field = module.posterior(d, noise, beside, int(i), system.schedule())[1].numpy()
            for name, chain in (("x1", 0), ("x2", 1), ("x", 2)):
                key = f"single_{i}_{number}_{name}"
                close(found[:, chain : chain + 1, ::8, ::8], z[key], 1e-4, key)
            key = f"single_{i}_{number}_dv"
            close(field[:, :, ::8, ::8], z[key], 1e-4, key)


def test_a_picture_is_that_of_the_authors(golden, make, monkeypatch):
    z, sources_of = arrays(golden, "sampling"), arrays(golden, "inputs")
    system = make("", timesteps=6)
    rgb = color.from_ycrcb(sources_of["ycrcb256"][0])
    s, f = (x / 2 + 0.5 for x in sources256(golden))
    maps = iter(list(z["d256_z_q"].astype(np.float32) / 32) * 3)
    monkeypatch.setattr(module.TorchNoise, "normal", lambda self, shape: next(maps).reshape(shape))
    with jt.no_grad():
        fused = system.fuse(jt.array(s), jt.array(f)).numpy()
    for number in PLANES:
        expected = z[f"d256_{number}_final"]
        inside = abs(expected) < 1  # ours is cut to the range
        found = (2 * fused[:, number : number + 1] - 1)[:, :, ::4, ::4]
        assert abs(found - expected)[inside].max() <= 5e-3 * abs(expected).max()
    gray = sources_of["gray256"][0].astype(np.float32)[None] / 255
    shown = system.picture(fused[0], Pair("x", gray, gray, None, None, rgb, "b")).shown
    assert abs(shown[::2, ::2, ::-1].astype(int) - z["d256_fused_bgr"]).max() <= 4


@pytest.mark.parametrize("group", GROUPS)
def test_any_size_and_batch_of_every_group_is_trained_and_fused(make, group):
    """Sides that are no multiples of 8, two images: each with its own region, as if it were alone."""
    system = jfusion.create("fccf", width=32, timesteps=4, group=group)
    rng = np.random.default_rng(0)
    s, f = (rng.random((2, c, 32, 40)).astype(np.float32) for c in (1, 3))
    (stage,) = system.stages()
    losses = system.losses(Batch(jt.array(s), jt.array(f), None, ["x", "y"]), stage)
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
    system = make(timesteps=9, steps=steps, sampler=sampler)
    with jt.no_grad():
        fused = system.fuse(s, f, callback=lambda k, x, clean: seen.append(k)).numpy()
    assert seen == [2, 1, 0] and np.isfinite(fused).all()


def test_a_region_without_pixels_leaves_the_plane(make):
    system = make(group="pet", timesteps=3)
    s, f = (np.full((1, c, 16, 16), v, np.float32) for c, v in ((1, 0.3), (3, 0.1)))
    losses = system.losses_of(s, f, np.zeros((3, 1), int), jt.zeros((3, 1, 1, 16, 16)))
    assert all(np.isfinite(v.item()) for v in losses.values())
    with jt.no_grad():
        fused = system.fuse(jt.array((s + 1) / 2), jt.array((f + 1) / 2)).numpy()
    np.testing.assert_allclose(fused[0, 1:], 0.55, atol=1e-6)
    unguarded = make(group="pet", timesteps=3, region_guard=False)
    with pytest.raises(UserError, match="region-guard"):
        unguarded.fuse(jt.array((s + 1) / 2), jt.array((f + 1) / 2))


def test_the_group_is_that_of_the_data_set():
    auto = jfusion.create("fccf", width=32)
    names = ("Harvard_PET", "SPECT-MRI", "GFP", "HARVARD-CT-MRI", "ADNI_2")
    found = [auto.of(name).group for name in names]
    assert found == ["pet", "spect", "gfp", "ct", "adni"]
    assert auto.of("GFP").network is auto.network
    with pytest.raises(UserError, match="name one with --group"):
        auto.of("spectral").group  # noqa: B018
    assert jfusion.create("fccf", width=32, group="gfp").of("Harvard_PET").group == "gfp"
    several = jfusion.create("fccf", width=32, group="adni,pet,gfp,pet")
    assert several.turns(["GFP", "Harvard_PET", "ADNI"]) == [2, 1, 0, 1]
    assert auto.turns(["GFP", "Other", "ADNI"]) == [0, 2]
    with pytest.raises(UserError, match="no training set for the group adni among GFP"):
        several.turns(["GFP"])
    with pytest.raises(UserError, match="unknown group 'pets'"):
        jfusion.create("fccf", group="ct,pets")


def test_groups_take_turns_and_a_stopped_run_goes_on_with_them(tmp_path, monkeypatch):
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
    settings = {"group": "pet,spect", "width": 32, "timesteps": 3, "batch_size": 1, "epochs": 4}
    options = Options(data=str(tmp_path / "sets"), exp=str(tmp_path), pictures=0, seed=1)
    whole = train("fccf", settings, options)
    lines = (whole.folder / "log.txt").read_text().splitlines()
    epochs = [line.split("\t")[1].split(" loss")[0].split(" total")[0] for line in lines]
    sizes = {line.split()[1].split("/")[0]: int(line.split("/")[-1]) for line in epochs}
    assert set(sizes.values()) == {1, 2} and len(lines) == sum(sizes.values())
    first = train("fccf", settings, dataclasses.replace(options, max_steps=3))
    again = resume(first.folder, max_steps=len(lines))
    for a, b in zip(*(r.latest()["model"].values() for r in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="film is trained on one set at a time"):
        train("film", {}, options)


def test_the_command_line_from_pairs_to_pictures(tmp_path, monkeypatch):
    from jfusion.cli import main
    from tests.commands.test_preprocess import make_dataset, random_pair

    monkeypatch.chdir(tmp_path)
    pairs = {f"s{i}": random_pair(i, (40, 48)) for i in range(3)}
    make_dataset(tmp_path, pairs, "MIF", "Harvard_PET", "train")
    data = ["--root", ".", "--task", "MIF", "--dataset", "Harvard_PET", "--text", "zeros"]
    assert main(["preprocess", *data, "--out", "x.h5"]) == 0
    small = "--data x.h5 --width 32 --timesteps 3 --batch-size 2 --crop 32 32 --max-steps 2"
    assert main(["train", "fccf", *small.split()]) == 0
    assert main(["test", "fccf", "--data", "x.h5", "--out", "out"]) == 0
    rgb = image.read_rgb(tmp_path / "out/Harvard_PET/Color/s1.png")
    assert rgb.shape == (40, 48, 3) and color.is_color(rgb)
    a, b = (str(tmp_path / f"Image/MIF/Harvard_PET/{x}/s1.png") for x in ("MRI", "T"))
    assert (
        main(["fuse", "--system", "fccf", "--a", a, "--b", b, "--task", "MIF", "--out", "f"]) == 2
    )
    named = ["--task", "MIF", "--out", "f", "--group", "pet"]
    assert main(["fuse", "--system", "fccf", "--a", a, "--b", b, *named]) == 0
    np.testing.assert_array_equal(image.read_rgb(tmp_path / "f/s1.png"), rgb)
    coloured = ["--task", "MIF", "--out", "g", "--group", "ct", "--pseudo-color", "a"]
    assert main(["fuse", "--system", "fccf", "--a", a, "--b", b, *coloured]) == 0
    assert color.is_color(image.read_rgb(tmp_path / "g/s1.png"))
