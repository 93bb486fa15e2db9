"""LFDT-Fusion against the authors' numbers (tests/golden/lfdt/README.md has the tolerances)."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jfusion
from jfusion.checkpoint import weights
from jfusion.data import augment
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.inference import fuse_pair
from jfusion.layers.losses import ssim_map
from jfusion.ops import activation
from jfusion.ops.conv import conv, conv1x1
from jfusion.ops.depthwise import pixel_shuffle
from jfusion.ops.resize import bilinear
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.lfdt import color
from jfusion.systems.lfdt import config as lfdt_config
from jfusion.systems.lfdt import system as module
from jfusion.systems.lfdt.denoiser import sinusoidal_embedding, time_embedding
from jfusion.train.optimizer import Adam
from tests.commands.test_preprocess import make_dataset, random_pair
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "lfdt"
CONFIGS = json.loads((FOLDER / "configs.json").read_text())
UNUSED = "num_batches_tracked"


def manifest(name):
    return json.loads((FOLDER / CONFIGS[name]["manifest"]).read_text())


@pytest.fixture(scope="module")
def make(recipe):
    """make("small", tame=True, sampler="Heun") -> the system with the golden weights."""

    def make(name, tame=False, **values):
        c = CONFIGS[name]
        settings = {"task": c["fusion_task"], "strategy": c["Fusion"]["mode"]}
        settings |= {"width": c["Unet"]["LDM_ch"], "blocks": tuple(c["Fusion"]["num_blocks"])}
        system = jfusion.create("lfdt", **{**settings, **values})
        state = recipe.state(manifest(name), salt="golden")
        for key, gain in CONFIGS["_gains"].items() if tame else ():
            state[key] = (state[key] * np.float32(gain)).astype(np.float32)
        weights.load_weights(system, state, "golden", consume=True)
        system.eval()
        return system

    return make


@pytest.fixture(scope="module")
def default(make):
    return make("default")


@pytest.fixture(scope="module", params=["raw", "tame"])
def small(request, make):
    return request.param, make("small", request.param == "tame")


def arrays(golden, name):
    return golden(f"lfdt/{name}.npz")


def close(found, expected, tolerance, name=""):
    """The largest difference, in the array's largest value."""
    found = found.numpy() if hasattr(found, "numpy") else found
    assert found.shape == expected.shape, name
    scale = max(abs(expected).max(), 1e-12)
    assert abs(found - expected).max() <= tolerance * scale, name


@pytest.mark.parametrize("name", ["default", "mef", "small"])
def test_official_names_map_one_to_one(make, name):
    system = make(name)
    expected = {k: v for k, v in manifest(name).items() if not k.endswith(UNUSED)}
    own = system.state_dict()
    assert {system.WEIGHTS.official(k): v.shape for k, v in own.items()} == expected
    assert all(system.WEIGHTS.ours(system.WEIGHTS.official(k)) == k for k in own)
    trained = sum(int(np.prod(v.shape)) for k, v in own.items() if "running_" not in k)
    assert trained == CONFIGS[name]["parameters"]


def autoencoder(width, levels):
    """Names and shapes of the authors' autoencoder, for any number of levels, from its description."""
    m, depth, found = (1, *levels), len(levels), {}

    def res(at, a, b):
        found[f"{at}.block1.proj.weight"] = [b, a, 3, 3]
        found[f"{at}.block2.proj.weight"] = [b, b, 3, 3]
        if a != b:
            found[f"{at}.res_conv.weight"] = [b, a, 1, 1]

    def attention(at, w):
        found[f"{at}.fn.norm.g"] = found[f"{at}.fn.fn.to_out.1.g"] = [1, w, 1, 1]
        found[f"{at}.fn.fn.to_qkv.weight"] = [384, w, 1, 1]
        found[f"{at}.fn.fn.to_out.0.weight"] = [w, 128, 1, 1]
        found[f"{at}.fn.fn.to_out.0.bias"] = [w]

    def conv(at, a, b, size, bias):
        found[f"{at}.weight"] = [b, a, size, size]
        if bias:
            found[f"{at}.bias"] = [b]

    for s in (1, 2):
        conv(f"LDM_Enc.init_conv{s}", 1, width, 3, False)
        for i in range(depth):
            at, a, b, last = (
                f"LDM_Enc.encoder{s}.{i}",
                width * m[i],
                width * m[i + 1],
                i == depth - 1,
            )
            res(f"{at}.0", a, a)
            res(f"{at}.1", a, a)
            if last:
                attention(f"{at}.2", a)
            conv(f"{at}.3", a, b, 3 if last else 4, not last)
        res(f"LDM_Enc.latent_conv{s}", width * m[-1], 8)
    for k, factor in enumerate((1, 1, 1, m[1], m[1], m[2], m[2], m[3], m[3])):
        conv(f"LDM_Enc.conv_fuse.{k}.0", 2 * width * factor, width * factor, 3, True)
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"LDM_Enc.conv_fuse.{k}.1.{name}"] = [width * factor]
    for j in range(depth):
        at, a, b = f"LDM_Dec.decoder.{j}", width * m[depth - j], width * m[depth - j - 1]
        res(f"{at}.0", a + b, a)
        res(f"{at}.1", a + b, a)
        if j == 0:
            attention(f"{at}.2", a)
        last = j == depth - 1
        conv(f"{at}.3" if last else f"{at}.3.1", a, b, 3, not last)
    res("LDM_Dec.post_latent_conv", 8, width * m[-1])
    conv("LDM_Dec.final_conv", width, 1, 3, True)
    return found


def test_three_and_four_levels_have_the_authors_names():
    published = {
        k: v for k, v in manifest("default").items() if k.startswith("LDM") and UNUSED not in k
    }
    assert autoencoder(64, (1, 2, 4)) == published
    for levels in ((1, 2, 4), (1, 2, 4, 8), (2, 3, 3, 5)):
        values = {**lfdt_config.TINY, "channel_mult": ",".join(map(str, levels))}
        system = jfusion.create("lfdt", **values)
        own = {system.WEIGHTS.official(k): v.shape for k, v in system.state_dict().items()}
        expected = autoencoder(16, levels)
        assert {k: v for k, v in own.items() if k.startswith("LDM")} == expected
        assert all(
            system.WEIGHTS.ours(system.WEIGHTS.official(k)) == k for k in system.state_dict()
        )
        inferred = module.LFDT.infer_settings({k: np.zeros(v) for k, v in own.items()})
        assert (inferred["width"], inferred["channel_mult"]) == (16, values["channel_mult"])
        unused = {k for k in system.state_dict() if k not in system.trainable()}
        unused = {k for k in unused if "running_" not in k}
        reached = len(levels) == 4
        assert all(k.startswith(("encoder.skips.7.", "encoder.skips.8.")) for k in unused)
        assert bool(unused) != reached


def test_four_levels_fuse_and_are_trained():
    values = {**lfdt_config.TINY, "channel_mult": "1,2,4,8", "task": "MEF"}
    system, rng = jfusion.create("lfdt", **values), np.random.default_rng(0)
    state = {
        system.WEIGHTS.official(k): rng.standard_normal(v.shape).astype(np.float32) * 0.02
        for k, v in system.state_dict().items()
    }
    weights.load_weights(system, dict(state), "x")
    for name, value in system.state().items():
        np.testing.assert_array_equal(value, state[system.WEIGHTS.official(name)])
    a, b = (jt.array(x) for x in rng.random((2, 1, 1, 64, 80)).astype(np.float32))
    output = system(2 * a - 1, 2 * b - 1)
    assert output.latent.shape == [1, 16, 8, 10] and output.fused.shape == [1, 1, 64, 80]
    (stage,) = system.stages()
    total = system.losses(Batch(a, b, None, ["x"]), stage)["total"]
    (config,) = system.optimizers(stage)
    before = {name: p.numpy() for name, p in config.parameters.items()}
    Adam(config.parameters, decoupled=True).step(total, 1e-3)
    moved = {name for name, p in config.parameters.items() if (p.numpy() != before[name]).any()}
    assert any(name.startswith("encoder.skips.8.") for name in moved)
    system.eval()
    odd = [x[:, :, :49, :53] for x in (a, b)]
    assert system.fuse(*odd).shape == [1, 1, 49, 53]
    with pytest.raises(UserError, match="49 pixels"):
        system.fuse(*(x[:, :, :48] for x in odd))
    with pytest.raises(UserError, match="multiples of 16"):
        system.losses(Batch(*(x[:, :, :56, :56] for x in (a, b)), None, ["x"]), stage)


def test_the_file_decides_the_widths():
    for name, factor in (("default", 4.0), ("mef", 2.66)):
        state = {k: np.zeros(v) for k, v in manifest(name).items()}
        expected = {"ffn_factor": factor, "width": 64, "channel_mult": "1,2,4"}
        assert module.LFDT.infer_settings(state) == expected
    narrow = module.LFDT(module.Config(width=8, ffn_factor=3.0, blocks=(1, 1, 1, 1)))
    assert module.LFDT.infer_settings(narrow.state_dict())["ffn_factor"] == 3.0


def test_constants_in_the_file_are_ignored(make, recipe):
    system = make("small")
    constants = json.loads((FOLDER / "checkpoint_constants.json").read_text())
    extra = {k: np.array(v, np.float32) for k, v in constants.items()}
    weights.load_weights(system, {**recipe.state(manifest("small"), salt="golden"), **extra}, "x")


def test_single_blocks(default, golden):
    z = arrays(golden, "blocks")
    e, d, m, h = default.encoder, default.decoder, default.denoiser, default.head
    block = m.encoders[1][0]
    level, head = e.source1.levels, h.blocks[1][0]

    def x(name):
        return jt.array(z[f"{name}/x"])

    def transposed(t):
        return block(x("dft_dtb"), time_embedding(z[f"dft_dtb/{t}"], 64))

    with jt.no_grad():
        normal = block.norm1(x("dft_norm"))
        found = {
            **{"resblock_same/y": level[0][0](x("resblock_same"))},
            **{"resblock_proj/y": e.source1.latent(x("resblock_proj"))},
            **{"linattn/y": level[2][2](x("linattn")), "down/y": level[0][3](x("down"))},
            **{"up/y": d.levels[0][3](x("up")), "dft_norm/y": normal},
            **{
                "dft_attn/y": block.attend(x("dft_attn")),
                "dft_ffn/y": block.feed_forward(x("dft_ffn")),
            },
            **{
                "dft_dtb/y_scalar": transposed("t_scalar"),
                "dft_dtb/y_vector": transposed("t_vector"),
            },
            **{"dft_down/y": m.downs[0](x("dft_down"))},
            **{"dft_up/y": pixel_shuffle(conv1x1(x("dft_up"), m.ups[0].weight))},
            **{"head_attn/y": head.attention(x("head_attn")), "head_dtb/y": head(x("head_dtb"))},
            **{"skff/y": h.merges[1](jt.array(z["skff/a"]), jt.array(z["skff/b"]))},
            **{
                "head_tanh/y": jt.tanh(conv(x("head_tanh"), h.ending.weight, h.ending.bias)) / 2
                + 0.5
            },
            **{"resize/x2_align": bilinear(x("resize"), 4, 6, align_corners=True)},
            **{
                "resize/to_5x7": bilinear(x("resize"), 5, 7),
                "resize/to_3x5": bilinear(x("resize"), 3, 5),
            },
            **{"conv_fuse/y_eval": e.skips[0](*x("conv_fuse").chunk(2, 1))},
        }
        temb = activation.silu(sinusoidal_embedding(z["dft_dtb/t_scalar"], 64))
    for name, value in found.items():
        close(value, z[name], 1e-5, name)
    close(temb, z["dft_dtb/t_out_scalar"], 1e-4)
    for key in (k for k in z.files if k.startswith("temb/") and k != "temb/t"):
        close(sinusoidal_embedding(z["temb/t"], int(key[5:])), z[key], 1e-4, key)


def test_batch_norm_in_training(make, golden):
    z = arrays(golden, "blocks")
    fusion = make("default").encoder.skips[0]
    fusion.train()
    found = fusion(*jt.array(z["conv_fuse/x"]).chunk(2, 1))
    close(found, z["conv_fuse/y_train"], 1e-5)
    for name in ("running_mean", "running_var"):
        close(getattr(fusion.norm, name), z[f"conv_fuse/{name}_after"], 1e-5, name)


@pytest.mark.parametrize("case", ["a", "b"])
def test_encoder(default, golden, case):
    z = arrays(golden, "encoder")
    with jt.no_grad():
        latent, skips = default.encoder(*(jt.array(z[f"{case}/{k}"]) for k in ("vis", "ir")))
    for part, name in zip(latent.chunk(2, 1), ("x1", "x2"), strict=True):
        close(part, z[f"{case}/{name}"], 2e-5, name)
    assert len(skips) == 7
    for k, skip in enumerate(skips):
        skip = skip.numpy()
        close(skip[:, ::8, ::4, ::4], z[f"{case}/h{k}_sub"], 2e-5, f"h{k}")
        scale = z[f"{case}/h{k}_absmean"].max()
        np.testing.assert_allclose(skip.mean((2, 3)), z[f"{case}/h{k}_mean"], atol=2e-5 * scale)


@pytest.mark.parametrize("case", ["a", "b"])
def test_decoder(default, golden, case):
    z, skips = arrays(golden, "decoder"), []
    for k in range(7):
        rng = np.random.RandomState(int(z[f"{case}/h{k}_seed"]))
        drawn = (rng.standard_normal(z[f"{case}/h{k}_shape"]) * 0.3).astype(np.float32)
        np.testing.assert_allclose(
            drawn.sum(dtype=np.float64), z[f"{case}/h{k}_sum"], rtol=1e-4, atol=1e-2
        )
        skips.append(jt.array(drawn))
    with jt.no_grad():
        logits = default.decoder.logits(jt.array(z[f"{case}/z"]), skips)
    close(logits, z[f"{case}/pre_tanh"], 2e-5)
    close(jt.tanh(logits), z[f"{case}/y"], 2e-5)


@pytest.mark.parametrize("name", ["default", "mef"])
def test_denoiser(make, golden, name):
    z, denoiser = arrays(golden, "denoiser"), make(name).denoiser
    x, odd, t = jt.array(z["x"]), jt.array(z["x_odd"]), z["t"]
    with jt.no_grad():
        for k in range(4 if name == "default" else 1):
            e, features = denoiser(x, t[k : k + 1])
            close(e, z[f"{name}/eps{k}"], 2e-5, f"eps{k}")
            for i, feature in enumerate(features if k == 0 else ()):
                if f"{name}/feat{i}" in z.files:
                    close(feature, z[f"{name}/feat{i}"], 2e-5, f"feat{i}")
        e, features = denoiser(odd, t[:1])
        close(e, z[f"{name}/odd_eps"], 2e-5)
        if name == "default":
            for i, feature in enumerate(features):
                close(feature, z[f"default/odd_feat{i}"], 2e-5, f"odd_feat{i}")
            close(denoiser(x, z["t_vec"])[0], z["default/eps_vec"], 2e-5)


@pytest.mark.parametrize("case", ["a", "b"])
def test_fusion_head(default, golden, case):
    z, head = arrays(golden, "fusion_head"), default.head
    features, latent = (
        [jt.array(z[f"{case}/feat{i}"]) for i in range(4)],
        jt.array(z[f"{case}/latent"]),
    )
    with jt.no_grad():
        close(head.merge_latent(*latent.chunk(2, 1)), z[f"{case}/last_fuse"], 2e-5)
        close(head.logits(features, latent), z[f"{case}/logits"], 2e-5)
        close(head(features, latent), z[f"{case}/y"], 2e-5)


def check_run(system, z, key, vis, ir, noise, start=None):
    """One whole fusion against what the reference kept of it."""
    kind = key.rsplit("/", 1)[1]
    calls, network = [], system.denoiser
    execute = type(network).execute

    def watched(self, x, t):
        out = execute(self, x, t)
        calls.append((x.numpy(), float(t[0]), out[0].numpy()))
        return out

    type(network).execute = watched
    try:
        with jt.no_grad():
            found = system(jt.array(vis), jt.array(ir), jt.array(noise), start)
    finally:
        type(network).execute = execute
    inputs, times, outputs = zip(*calls, strict=True)
    np.testing.assert_allclose(times, z[f"{key}/t_called"], rtol=1e-6)
    close(np.stack(inputs)[:, :, ::4, ::2, ::2], z[f"{key}/model_in"], 1e-4, "model_in")
    close(np.stack(outputs)[:, :, ::4, ::2, ::2], z[f"{key}/model_out"], 1e-4, "model_out")
    close(found.denoised, z[f"{key}/latent_result"], 1e-4, "latent_result")
    if f"{key}/head_logits" in z.files:
        logits = system.head.logits(found.features, found.denoised).numpy()
        close(logits[:, :, ::2, ::2], z[f"{key}/head_logits"], 1e-4, "head_logits")
    close(found.fused, z[f"{key}/fused"], 5e-4 if kind == "tame" else 1e-2, "fused")


@pytest.mark.parametrize("sampler", ["DDIM", *module.SAMPLERS])
def test_fusion_with_every_sampler(small, golden, sampler):
    kind, system = small
    z = arrays(golden, "pipeline")
    object.__setattr__(system.config, "sampler", sampler)
    noise = z["noise"] * (z["tame_noise_scale"] if kind == "tame" else 1)
    start = z["ddim_t"] if sampler == "DDIM" else None
    key = f"small/{sampler}/{kind}"
    check_run(system, z, key, z["vis"], z["ir"], noise.astype(np.float32), start)


@pytest.mark.parametrize("case", ["default", "default_odd", "mef"])
@pytest.mark.parametrize("kind", ["raw", "tame"])
def test_fusion_with_the_published_networks(make, golden, case, kind):
    z = arrays(golden, "pipeline")
    system = make(case.split("_")[0], kind == "tame", inference_steps=int(z[f"{case}/steps"]))
    noise = z[f"{case}/noise"] * (z["tame_noise_scale"] if kind == "tame" else 1)
    images = z[f"{case}/vis"], z[f"{case}/ir"]
    check_run(system, z, f"{case}/{kind}", *images, noise.astype(np.float32))


def test_losses_of_the_image(golden):
    z = arrays(golden, "losses")
    a, b, fused = (jt.array(z[k]) for k in "ABF")
    np.testing.assert_allclose(
        ssim_map(a, fused, 11).mean(3).mean().item(), z["ssim_af"], rtol=1e-5
    )
    for case in (k.split("/")[0] for k in z.files if k.endswith("/total")):
        strategy, _, weight, _ = case.split("_")
        task = "MEF" if weight == "20" else "VI-IR"
        holder = module.LFDT.__new__(module.LFDT)
        holder.config = module.Config(task=task, strategy=strategy)
        parts = module.LFDT.image_losses(holder, a, b, fused)
        for ours, theirs in (("ssim", "ssim"), ("gradient", "gradient"), ("intensity", "l1")):
            np.testing.assert_allclose(parts[ours].item(), z[f"{case}/{theirs}"], rtol=1e-5)
        if f"{case}/dtotal_dF" in z.files:
            gradient = jt.grad(sum(parts.values()), fused)
            close(gradient, z[f"{case}/dtotal_dF"], 1e-4, case)


def gradient_check(system, z, key, vis, ir, noise, start=None):
    system.train()
    found = system.losses_of(jt.array(vis), jt.array(ir), noise=jt.array(noise), start=start)
    for ours, theirs in (
        ("total", "loss"),
        ("gradient", "loss_gradient"),
        ("intensity", "loss_l1"),
        ("ssim", "loss_SSIM"),
        ("dif", "dif_loss"),
    ):
        np.testing.assert_allclose(
            found[ours].item(), z[f"{key}/{theirs}"], rtol=1e-5, err_msg=ours
        )
    names = [str(n) for n in z[f"{key.split('/')[0]}/names"]]
    own = system.state_dict()
    chosen = [n for n in names if n.startswith(("LDM", "model", "fusion."))]
    gradients = jt.grad(found["total"], [own[system.WEIGHTS.ours(n)] for n in chosen])
    norms = dict(zip(names, z[f"{key}/norm"], strict=True))
    largest = max(norms.values())
    for name, gradient in zip(chosen, gradients, strict=True):
        if ".conv_fuse." in name and name.endswith(".0.bias"):
            continue
        expected = norms[name]
        own_norm = np.linalg.norm(gradient.numpy().astype(float))
        assert abs(own_norm - expected) <= 5e-3 * expected + 1e-6 * largest, name


@pytest.mark.parametrize("sampler", ["DDIM", *module.SAMPLERS])
def test_losses_and_gradients_through_every_sampler(make, golden, sampler):
    z = arrays(golden, "gradients")
    steps = {"train_timesteps": int(z["small/T"]), "inference_steps": int(z["small/steps"])}
    system = make("small", tame=True, sampler=sampler, **steps)
    start = z["ddim_t"] % 100 if sampler == "DDIM" else None
    gradient_check(
        system, z, f"small/{sampler}", z["small/vis"], z["small/ir"], z["small/noise"], start
    )


def test_losses_and_gradients_of_the_published_network(make, golden):
    z = arrays(golden, "gradients")
    system = make("default", tame=True, inference_steps=int(z["default/steps"]))
    noise = (z["noise"] * z["default/noise_scale"]).astype(np.float32)
    gradient_check(system, z, "default", z["vis"], z["ir"], noise)


def five_updates(make, z):
    """Losses before each of five steps (by the reference's names), and the trained system."""
    settings = {"train_timesteps": int(z["T"]), "inference_steps": int(z["steps"])}
    system = make("small", tame=True, **settings)
    system.train()
    (group,) = system.optimizers(system.stages()[0])
    optimizer = Adam(group.parameters, weight_decay=group.weight_decay, decoupled=group.decoupled)
    a, b = (jt.array(z[k]) for k in ("vis", "ir"))
    names = {"total": "loss", "gradient": "loss_gradient", "intensity": "loss_l1"}
    names |= {"ssim": "loss_SSIM", "dif": "dif_loss"}
    losses = {theirs: [] for theirs in names.values()}
    for step in range(5):
        found = system.losses_of(a, b, noise=jt.array(z["noise"][step]))
        for ours, theirs in names.items():
            losses[theirs].append(found[ours].item())
        optimizer.step(found["total"], float(z["lr"][step]))
    return losses, system


def test_five_updates_follow_the_reference(make, golden):
    z = arrays(golden, "train")
    losses, system = five_updates(make, z)
    for key, found in losses.items():
        np.testing.assert_allclose(found, z[key], rtol=1e-3, err_msg=key)
    np.testing.assert_allclose(losses["loss"][0], z["loss"][0], rtol=1e-5)
    state = {system.WEIGHTS.official(k): v for k, v in system.state().items()}
    for key in (k for k in z.files if k.startswith("after/")):
        found, expected = state[key[6:]].reshape(-1)[:64], z[key]
        # a parameter that is nearly zero may differ by the steps themselves
        assert abs(found - expected).max() <= max(5e-2 * abs(expected).max(), 3e-4), key
    unused = "LDM_Enc.conv_fuse.7.0.bias"
    np.testing.assert_array_equal(state[unused].reshape(-1)[:64], z[f"after/{unused}"])
    system.eval()
    with jt.no_grad():
        close(
            system(jt.array(z["vis"]), jt.array(z["ir"]), noise=jt.array(z["noise"][0])).fused,
            z["test_after"],
            1e-1,
        )


@pytest.mark.parametrize("batch", [4, 1])
def test_learning_rates_are_those_of_the_published_schedule(golden, batch):
    z = arrays(golden, "train")
    length, size, per_epoch = z[f"lr_bs{batch}_setup"]
    assert size == batch and per_epoch == -(-length // size)
    system = jfusion.create("lfdt", width=16, blocks=(1, 1, 1, 1), batch_size=batch)
    (group,) = system.optimizers(system.stages()[0])
    found = [
        group.rate(i // per_epoch, i % per_epoch, int(per_epoch)) for i in range(60 * per_epoch)
    ]
    np.testing.assert_allclose(found, z[f"lr_bs{batch}"], rtol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"task": "VI-IX"}, "VI-IR"),
        ({"sampler": "ddp-solver+"}, r"ddp-solver\+\+|ddp-solver"),
        ({"sampler": "PNDM", "inference_steps": 3}, "4 steps"),
        ({"strategy": "max"}, "MAX"),
    ],
)
def test_settings_are_checked(wrong, words):
    with pytest.raises(UserError, match=words):
        jfusion.create("lfdt", **wrong)


def test_colors_on_the_doubled_range(golden):
    z = arrays(golden, "color")
    close(color.to_ycrcb(z["rgb"]), z["rgb2ycrcb"], 1e-6)
    made = color.to_ycrcb(z["rgb"])
    close(color.with_chroma(made[:, :1], made[:, 1:]), z["roundtrip"], 1e-6)
    close(color.with_chroma(z["ycrcb"][:, :1], z["ycrcb"][:, 1:]), z["ycrcb2rgb"], 1e-6)


@pytest.mark.parametrize("name", ["rgb", "gray", "narrow"])
def test_images_are_written_as_the_reference_does(golden, name):
    z = arrays(golden, "color")
    holder = module.LFDT.__new__(module.LFDT)
    holder.config = module.Config()
    found = np.moveaxis(holder.to_uint8(z[f"save/{name}_in"][0]), 0, 2)
    expected, exact = z[f"save/{name}_uint8"], z[f"save/{name}_float"]
    near = abs(exact - np.round(exact)) < 1e-4
    assert (np.broadcast_to(found, expected.shape) == expected)[~near].all()
    holder.config = module.Config(output_range="full")
    linear = np.round((np.clip(z[f"save/{name}_in"][0], -1, 1) + 1) * 127.5)
    np.testing.assert_array_equal(holder.to_uint8(z[f"save/{name}_in"][0]), linear)


def test_training_samples_are_those_of_the_reference(golden):
    z = arrays(golden, "data")
    for mode in range(3):
        np.testing.assert_array_equal(augment.flip(z["aug/x"], mode), z[f"aug/flip{mode}"])
    for mode in range(4):
        np.testing.assert_array_equal(augment.rotate90(z["aug/x"], mode), z[f"aug/rot{mode}"])
    holder = module.LFDT.__new__(module.LFDT)
    holder.config = module.Config(task="IVF")
    pair = Pair.of_images("x", z["ir_png"], z["vi_png"], None, "b")
    side = int(z["crop_size"])
    for k, (flipped, rotated, top, left) in enumerate(z["cases"]):
        a, b = (
            augment.rotate90(augment.flip(x, flipped), rotated)[
                :, top : top + side, left : left + side
            ]
            for x in holder.preprocess(pair, training=True)
        )
        close(2 * b - 1, z[f"case{k}/vis"], 2e-6)
        close(2 * a - 1, z[f"case{k}/ir"], 2e-6)


@pytest.mark.parametrize("route", ["ir", "mef"])
def test_the_test_scripts_images_are_made(make, golden, route, monkeypatch):
    """From the images on the disk to the image on the disk, by the class that `jfusion test` uses."""
    z = arrays(golden, "testscript")
    task = {"ir": "IVF", "mef": "MEF"}[route]
    settings = {"train_timesteps": int(z["T"]), "inference_steps": int(z["steps"])}
    system = make("small", tame=True, **settings, task=task, strategy=None, ffn_factor=4.0)
    images = {"ir": (z["ir"], z["vi"], "b"), "mef": (z["over"], z["vi"], "weighted")}[route]
    pair = Pair.of_images("x", *images[:2], None, images[2])
    monkeypatch.setattr(module.TorchNoise, "normal", lambda self, shape: z["noise"])
    (found,) = fuse_pair(system, pair)
    expected = z[f"{route}_route/png"].astype(int)
    shown = found.image if route == "ir" else found.gray[..., None]
    assert abs(np.broadcast_to(shown, expected.shape) - expected).max() <= 1
    fused = system.fuse(*(jt.array(x[None]) for x in system.preprocess(pair))).numpy()
    place = z[f"{route}_route/fused"][:, :, :40, :52]
    assert abs(2 * fused - 1 - np.clip(place, -1, 1)).max() <= 2e-4 * abs(place).max()


def test_deis_can_normalize_each_image_by_itself(make):
    system = make("small", sampler="Deis", deis_rescale="image", inference_steps=2)
    rng = np.random.default_rng(0)
    a, b, noise = (
        rng.standard_normal(s).astype(np.float32) for s in [(2, 1, 32, 32)] * 2 + [(2, 16, 8, 8)]
    )
    both = system(*map(jt.array, (a, b, noise))).denoised.numpy()
    alone = system(*(jt.array(x[1:]) for x in (a, b, noise))).denoised.numpy()
    close(both[1:], alone, 1e-4)


def test_any_size_is_kept_and_seeded(make):
    system = make("small", tame=True)
    rng = np.random.default_rng(0)
    pair = [jt.array(rng.random((1, 1, 27, 34)).astype(np.float32)) for _ in range(2)]
    first, again, other = (system.fuse(*pair, seed=s).numpy() for s in (None, 0, 1))
    assert first.shape == (1, 1, 27, 34) and first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert abs(first - other).max() > 0
    with pytest.raises(UserError, match="25 pixels"):
        system.fuse(*(x[:, :, :24] for x in pair))
    with pytest.raises(UserError, match="crop"):
        system.losses(Batch(*pair, None, []), system.stages()[0])


def test_training_resumes_exactly_and_the_result_fuses(tmp_path, monkeypatch):
    """The running statistics go with the checkpoint, and the preview images of a run do not change them."""
    from jfusion.cli import main
    from jfusion.train.options import Options as TrainOptions
    from jfusion.train.setup import resume, train

    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, {f"s{i}": random_pair(i, (40, 48)) for i in range(3)})
    arguments = [
        "--root",
        ".",
        "--dataset",
        "Set",
        "--split",
        "test",
        "--text",
        "zeros",
        "--out",
        "x.h5",
    ]
    assert main(["preprocess", *arguments]) == 0
    settings = {**lfdt_config.TINY, "batch_size": 2, "crop": (32, 40)}
    options = {"data": "x.h5", "seed": 3}
    whole = train("lfdt", settings, TrainOptions(**options, images=0, exp="whole", max_steps=3))
    parts = train("lfdt", settings, TrainOptions(**options, images=1, exp="parts", max_steps=1))
    parts = resume(parts.folder, max_steps=3)
    moved = whole.latest()["model"]["encoder.skips.0.norm.running_mean"]
    assert abs(moved).max() > 0
    for name, value in whole.latest()["model"].items():
        np.testing.assert_array_equal(parts.latest()["model"][name], value, err_msg=name)
    assert main(["test", "lfdt", "--weights", "parts", "--data", "x.h5", "--out", "out"]) == 0
    assert len(list((tmp_path / "out").glob("*_lfdt_Set/Set/Gray/*.png"))) == 3
