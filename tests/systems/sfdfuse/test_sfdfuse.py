"""SFDFuse against the authors' numbers (tests/golden/sfdfuse/README.md has the tolerances)."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint
from jfusion.checkpoint.weights import load_weights
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.inference import load_system
from jfusion.layers import losses
from jfusion.ops.activation import star_relu
from jfusion.ops.conv import conv1x1
from jfusion.ops.depthwise import pixel_unshuffle
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.sfdfuse.blocks import DropPath
from jfusion.train.optimizer import Adam
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "sfdfuse"


@pytest.fixture(scope="module")
def official(scaled_weights, golden):
    """The golden parameters by the authors' names, the wavelet's constants among them."""
    state = scaled_weights("sfdfuse")
    for name in ("wt_filter", "iwt_filter"):
        state[f"DIDF_Encoder.FreFeature.{name}"] = golden("sfdfuse/modules.npz")[name]
    return state


def create(official, **settings):
    system = jfusion.create("sfdfuse", **{"drop_path": 0.0, **settings})
    system.load_official(official)
    return system


@pytest.fixture(scope="module")
def sfdfuse(official):
    return create(official)


def arrays(golden, name):
    return golden(f"sfdfuse/{name}.npz")


def test_official_names_map_one_to_one_and_dead_ones_are_ignored(sfdfuse, official):
    names = sfdfuse.state()
    assert {sfdfuse.WEIGHTS.official(n) for n in names} == set(official)
    assert all(sfdfuse.WEIGHTS.ours(sfdfuse.WEIGHTS.official(n)) == n for n in names)
    optional = json.loads((FOLDER / "manifest_optional.json").read_text())
    extra = {
        f"DIDF_Decoder_Phase.{n.removeprefix('DIDF_Decoder_Phase.')}": np.zeros(s, np.float32)
        for n, s in optional.items()
    }
    assert all(n.startswith(sfdfuse.WEIGHTS.ignored) for n in extra)
    load_weights(sfdfuse, {**official, **extra}, "x")
    load_weights(sfdfuse, {n: v for n, v in official.items() if "reduce_channel" not in n}, "x")
    with pytest.raises(UserError, match="fusion1"):
        load_weights(sfdfuse, {n: v for n, v in official.items() if "fusion1" not in n}, "x")


def test_the_first_upload_is_identified_by_its_names(scaled_weights, golden, official, tmp_path):
    weights = scaled_weights("sfdfuse", "manifest_first_upload.json")
    weights |= {k: v for k, v in official.items() if "wt_filter" in k}
    file = tmp_path / "first.pth"
    checkpoint.save(file, {"model": weights})
    system = load_system(file, "sfdfuse", {})
    assert {system.WEIGHTS.official(n) for n in system.state()} == set(weights)
    z = arrays(golden, "first_upload")
    vis, ir, x = (jt.array(z[n]) for n in ("vis", "ir", "x"))
    with jt.no_grad():
        bases, details = system.encoder(jt.concat([vis, ir]))
        for kind, maps in (("base", bases.numpy()), ("detail", details.numpy())):
            for i, image in enumerate(("vis", "ir")):
                expected, own = z[f"{image}_{kind}"], maps[i : i + 1]
                scale = abs(expected).max()
                np.testing.assert_allclose(
                    own[:, :, ::5, ::7], expected, rtol=0, atol=1e-4 + 1e-5 * scale
                )
                np.testing.assert_allclose(
                    own.mean((2, 3)), z[f"{image}_{kind}.mean"], atol=1e-5 * scale
                )
        for name, image, i in (("vis", vis, 0), ("ir", ir, 1)):
            found = system.decoder(image, bases[i : i + 1], details[:1]).numpy()
            np.testing.assert_allclose(found, z[f"p1.{name}.image"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(system(ir, vis).numpy(), z["p2.fused.image"], rtol=0, atol=1e-5)
        base, block = system.encoder.base(x), system.encoder.blocks[2](x)
    np.testing.assert_allclose(base.numpy(), z["base"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(block.numpy(), z["convformer"], rtol=0, atol=1e-5)


def test_a_fresh_network_has_the_wavelets_filters(golden):
    fresh = jfusion.create("sfdfuse").state()
    for ours, theirs in (("analysis", "wt_filter"), ("synthesis", "iwt_filter")):
        expected = arrays(golden, "modules")[theirs]
        np.testing.assert_allclose(fresh[f"encoder.wavelet.{ours}"], expected, atol=1e-7)


def test_features_logits_and_images_of_both_phases(sfdfuse, golden):
    z = arrays(golden, "forward")
    vis, ir = jt.array(z["vis"]), jt.array(z["ir"])

    def check(name, x):
        x, expected = x.numpy(), z[name]
        if expected.shape != x.shape:
            np.testing.assert_allclose(
                x.mean((2, 3)), z[f"{name}.mean"], atol=1e-5 * abs(expected).max()
            )
            x = x[:, :, z["rows"]][:, :, :, z["cols"]]
        atol = 1e-5 if name.endswith("image") else 1e-4 + 1e-5 * abs(expected).max()
        np.testing.assert_allclose(x, expected, rtol=0, atol=atol, err_msg=name)

    decoder = sfdfuse.decoder
    with jt.no_grad():
        bases, details = sfdfuse.encoder(jt.concat([vis, ir]))
        for i, name in enumerate(("vis", "ir")):
            check(f"{name}.base", bases[i : i + 1])
            check(f"{name}.detail", details[i : i + 1])
        for name, image, i, j in (("vis", vis, 0, 0), ("ir", ir, 1, 0), ("ir_own", ir, 1, 1)):
            level0 = decoder.merge(bases[i : i + 1], details[j : j + 1])
            if name != "ir_own":
                check(f"p1.{name}.level0", level0)
            logits = decoder.logits(image, level0)
            check(f"p1.{name}.logits", logits)
            check(f"p1.{name}.image", jt.sigmoid(logits))
        check("p2.base", sfdfuse.base_fusion(bases))
        check("p2.detail", sfdfuse.detail_fusion(details))
        check("p2.fused.image", sfdfuse(ir, vis))
        low, high = sfdfuse.encoder.bands(jt.array(np.repeat(z["vis"], 64, 1)))
        assert low.shape == high.shape == [1, 64, 64, 80]


def test_saved_image_and_odd_sizes(official, sfdfuse, golden):
    z, released = arrays(golden, "forward"), create(official, odd_size="released")
    with jt.no_grad():
        fused = sfdfuse.fuse(jt.array(z["ir"]), jt.array(z["vis"])).numpy()
        for name in ("odd", "oddh", "oddw"):
            pair = jt.array(z[f"{name}.ir"]), jt.array(z[f"{name}.vis"])
            np.testing.assert_allclose(
                released(*pair).numpy(), z[f"{name}.image"], rtol=0, atol=1e-5
            )
            assert released.fuse(*pair).shape == list(z[f"{name}.image"].shape)
            assert sfdfuse(*pair).shape == pair[0].shape  # ours keeps the size
    np.testing.assert_allclose(fused, z["test.minmax"], rtol=0, atol=4e-5)
    saved = sfdfuse.postprocess(fused[0], Pair("x", *fused, *fused)).gray.astype(int)
    place = z["test.minmax"][0, 0] * 255
    near = abs(place - np.round(place)) < 1e-3 * 4
    assert (saved == z["test.uint8"])[~near].all() and abs(saved - z["test.uint8"]).max() <= 1


def test_single_modules(sfdfuse, golden):
    z = arrays(golden, "modules")
    x, y, x1 = (jt.array(z[n]) for n in ("x", "y", "x1"))
    e, decoder, merge = sfdfuse.encoder, sfdfuse.decoder, sfdfuse.decoder.merge
    node, mixer = e.detail.nodes[0], e.blocks[2].mixer
    both = jt.concat([x, y], 1)
    with jt.no_grad():
        stacked, blocks = jt.concat([x, y]), pixel_unshuffle(x)
        low, high = (conv1x1(blocks, m.unsqueeze(-1).unsqueeze(-1)) for m in e.wavelet.bands())
        lh, hl, hh = high.chunk(3, 1)
        spatial, channel = merge.spatial_map(both), merge.channel_vector(both)
        first, second = node(x).chunk(2, 1)
        found = {
            **{"norm": e.blocks[0].norm1(x), "ffn": e.blocks[0].feed_forward(x)},
            **{"block": e.blocks[0](x), "base": e.base(x), "theta": node.phi(x[:, :32])},
            **{"theta.x8": node.phi(8 * x[:, :32]), "node.z1": first, "node.z2": second},
            **{"detail": e.detail(x), "head": decoder.head(x), "deconv": node.phi.middle(x)},
            **{"deconv.bias": node.phi.middle.bias(), "sepconv": mixer(x)},
            **{
                "starrelu": star_relu(x, mixer.star_scale, mixer.star_bias),
                "mlphead": e.blocks[2].mlp(x),
            },
            **{"convformer": e.blocks[2](x), "wt.ll": low, "wt.lh": lh, "wt.hl": hl},
            **{"wt.hh": hh, "wt.lo": e.bands(x)[0], "upsample": e.bands(x)[1]},
            **{"cross": e.meet_base.across(stacked), "fib_base": e.meet_base(stacked)},
            **{"fib_detail": e.meet_detail(stacked), "ffn_out": e.meet_base.feed_forward(x)},
            **{"ffn_duals": e.meet_detail.feed_forward(x), "cga.sa": spatial, "cga.ca": channel},
            **{"cga.pa": merge.pixel_gate(both, spatial + channel), "cga": merge(x, y)},
            **{
                "basefuse": sfdfuse.base_fusion(stacked),
                "detailfuse": sfdfuse.detail_fusion(stacked),
            },
            **{"decoder": decoder(x1, x, y)},
        }
        kernels = node.phi.middle.kernels()
    for name, value in found.items():
        atol = 5e-5 if name == "detail" else 1e-5
        np.testing.assert_allclose(value.numpy(), z[name], rtol=1e-5, atol=atol, err_msg=name)
    for name, kernel in zip(("cd", "hd", "vd", "ad"), kernels, strict=False):
        np.testing.assert_allclose(
            kernel.numpy()[:8, :8], z[f"deconv.kernel_{name}"], atol=1e-5, err_msg=name
        )


def use_masks(monkeypatch, masks):
    """Drop-path uses these masks, one call after the other."""
    masks = iter(masks)
    keep = lambda self, samples: jt.array(next(masks).reshape(-1, 1, 1, 1))  # noqa: E731
    monkeypatch.setattr(DropPath, "keep", keep)


def test_drop_path_leaves_samples_out(official, golden, monkeypatch):
    z, system = arrays(golden, "modules"), create(official, drop_path=0.1)
    use_masks(monkeypatch, z["convformer.masks"])
    with jt.no_grad(), system.drop_path:
        found = system.encoder.blocks[2](jt.array(z["x"])).numpy()
    np.testing.assert_allclose(found, z["convformer.masked"], rtol=1e-5, atol=1e-5)


def test_drop_path_keeps_the_mean_and_changes_nothing_outside_of_a_training_step():
    drop_path, x = DropPath(0.1), jt.ones((4000, 1, 1, 1))
    with drop_path:
        dropped = drop_path(x).numpy()
    assert set(np.unique(dropped.round(4))) == {0.0, np.float32(1.1111)}
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    assert drop_path(x) is x


def test_buffers_are_not_trained_and_stay_buffers(sfdfuse):
    buffers = {"encoder.wavelet.analysis", "encoder.wavelet.synthesis", "decoder.reduce.weight"}
    for system in (sfdfuse, jfusion.create("sfdfuse")):  # after loading, and before
        assert set(system.state()) - set(system.trainable()) == buffers


def test_settings_of_older_versions_keep_their_meaning():
    old = {"first_upload": True, "faithful": True, "own_detail": True}
    config = jfusion.create("sfdfuse", **old).config
    assert (config.network, config.odd_size, config.phase1_detail) == (
        "first_upload",
        "released",
        "paper",
    )
    old = dict.fromkeys(old, False)
    assert jfusion.create("sfdfuse", **old).config == jfusion.create("sfdfuse").config


def test_the_ssim_loss_of_newer_kornia(golden):
    z = arrays(golden, "losses")
    vis, gen = (jt.array(z[n]) for n in ("vis", "gen"))
    opposed = 1 - vis
    for x, y, name in ((vis, gen, "ssim"), (vis, opposed, "ssim.neg")):
        loss = losses.halved_ssim_loss(x, y)
        np.testing.assert_allclose(loss.item(), z[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(jt.grad(loss, y).numpy(), z[f"{name}.grad"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        losses.reflected_ssim_map(vis, gen).numpy(), z["ssim.map"], atol=3e-4
    )


def test_the_losses_of_phase_two(sfdfuse, golden):
    z = arrays(golden, "losses")
    vis, ir, gen = (jt.array(z[n]) for n in ("vis", "ir", "gen"))
    parts = sfdfuse.fusion_losses(ir, vis, gen)
    total = parts["intensity"] + 10 * parts["gradient"] + parts["ssim"]
    scalars = {
        "fusion.in": parts["intensity"],
        "fusion.grad_term": parts["gradient"],
        "fusion.ssim": parts["ssim"],
        "fusion.total": total,
    }
    for name, value in scalars.items():
        np.testing.assert_allclose(value.item(), z[name], rtol=0, atol=1e-6, err_msg=name)
    gradient = jt.grad(total, gen).numpy()
    np.testing.assert_allclose(gradient, z["fusion.dgen"], rtol=0, atol=1e-6)


CASES = {
    "p1": {},
    "p2": {},
    "p1own": {"phase1_detail": "paper"},
    "p2mask": {"drop_path": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_every_gradient(official, golden, monkeypatch, case):
    z, system = arrays(golden, "gradients"), create(official, **CASES[case])
    phase = case[:2]
    stage = system.stages()[phase == "p2"]
    parameters = {k: p for o in system.optimizers(stage) for k, p in o.parameters.items()}
    assert {system.WEIGHTS.official(n) for n in parameters} == {str(n) for n in z[f"{phase}.names"]}
    # In phase II one value before a ReLU6 is within rounding of its kink, and on the other side a
    # gradient (of a bias, with masks of a StarReLU's scalar) moves by 5 % of its rms. So the inputs are jittered by rounding, up to seven
    # times, until it falls on the reference's side; the tolerances stay.
    rng = np.random.default_rng(0)
    for attempt in range(8):
        if case == "p2mask":
            vis, ir, decoder = np.split(z["p2mask.masks"], 3)
            use_masks(monkeypatch, [*np.concatenate([ir, vis], 1), *decoder])
        noise = [1 + 1e-7 * attempt * rng.uniform(-1, 1, z[k].shape) for k in ("ir", "vis")]
        pair = [
            jt.array((z[k] * n).astype(np.float32))
            for k, n in zip(("ir", "vis"), noise, strict=True)
        ]
        found = system.losses(Batch(*pair, None, []), stage)
        np.testing.assert_allclose(found["total"].item(), z[f"{case}.loss"], rtol=1e-5)
        values = jt.grad(found["total"], list(parameters.values()))
        gradients = {k: v.numpy() for k, v in zip(parameters, values, strict=True)}
        errors, samples = gradient_errors(system, gradients, z, case, phase)
        if max(errors) < 5e-2 and max(samples, default=0) < 5e-2:
            break
    assert np.mean(np.array(errors) < 2e-3) >= 0.9 and max(errors) < 5e-2
    assert max(samples, default=0) < 5e-2


def gradient_errors(system, gradients, z, case, phase):
    """Relative errors of the norms, and errors of the samples in units of the rms gradient."""
    errors, samples = [], []
    for i, name in enumerate(str(n) for n in z[f"{phase}.names"]):
        g = gradients[system.WEIGHTS.ours(name)].astype(np.float64)
        norm = z[f"{case}.norm"][i]
        errors.append(abs(np.linalg.norm(g) - norm) / norm)
        if case == phase:
            error = abs(g.reshape(-1)[z[f"{phase}.idx"][i]] - z[f"{phase}.val"][i]).max()
            samples.append(error / (norm / g.size**0.5))
    return errors, samples


@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_five_updates_follow_the_reference(official, golden, phase):
    z, system = arrays(golden, "train"), create(official)
    batch = Batch(jt.array(z["ir"]), jt.array(z["vis"]), None, [])
    stage = system.stages()[phase == "p2"]
    optimizers = [Adam(o.parameters, clip_norm=o.clip_norm) for o in system.optimizers(stage)]
    names, places = [str(n) for n in z[f"{phase}.names"]], z[f"{phase}.idx"]
    for step in range(6):
        total = system.losses(batch, stage)["total"]
        tolerance = (1e-5, 1e-4)[step] if step < 2 else 1e-2
        np.testing.assert_allclose(total.item(), z[f"{phase}.loss"][step], rtol=tolerance)
        if step == 5:
            break
        gradients = iter(jt.grad(total, [p for o in optimizers for p in o.parameters.values()]))
        for optimizer in optimizers:
            optimizer.apply([next(gradients) for _ in optimizer.parameters], 1e-4)
    state = {system.WEIGHTS.official(k): v for k, v in system.state().items()}
    found = np.array([state[n].reshape(-1)[i] for n, i in zip(names, places, strict=True)])
    error = abs(found - z[f"{phase}.param_after5"]) / 1e-4
    assert np.mean(error < 2) >= 0.99 and error.max() < 10 and np.median(error) < 0.3
    constants = golden("sfdfuse/modules.npz")["wt_filter"]
    np.testing.assert_array_equal(state["DIDF_Encoder.FreFeature.wt_filter"], constants)


def test_learning_rates_are_those_of_the_published_schedule(sfdfuse, golden):
    expected, stages = arrays(golden, "train")["lr"], sfdfuse.stages()
    assert [s.epochs for s in stages] == [30, 60]
    for epoch in range(90):
        stage, before = (stages[0], 0) if epoch < 30 else (stages[1], 30)
        rates = [g.learning_rate(epoch - before) for g in sfdfuse.optimizers(stage)]
        np.testing.assert_allclose(rates, expected[epoch][: len(rates)], rtol=1e-12)


def test_settings_are_checked():
    with pytest.raises(UserError, match="skip"):
        jfusion.create("sfdfuse", skip="none")
