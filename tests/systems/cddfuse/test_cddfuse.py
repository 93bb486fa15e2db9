"""CDDFuse against the authors' numbers (tests/golden/cddfuse/README.md has the tolerances)."""

from __future__ import annotations

import numpy as np
import pytest

import jfusion
from jfusion.commands.preprocess import Options, low_contrast, patches, preprocess
from jfusion.data.h5 import Pair, PairFile
from jfusion.errors import UserError
from jfusion.layers import losses
from jfusion.ops.filters import sobel_magnitude, sobel_pair
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.train.optimizer import Adam
from tests.conftest import GOLDEN

FOLDER = GOLDEN / "cddfuse"


@pytest.fixture(scope="module")
def official(scaled_weights):
    return scaled_weights("cddfuse")


def create(official, **settings):
    system = jfusion.create("cddfuse", **settings)
    system.load_official(official)
    return system


@pytest.fixture(scope="module")
def cddfuse(official):
    return create(official)


def arrays(golden, name):
    return golden(f"cddfuse/{name}.npz")


def test_official_names_map_one_to_one(cddfuse, official):
    names = cddfuse.state()
    assert len(names) == len(official) == 158
    assert {cddfuse.WEIGHTS.official(n) for n in names} == set(official)
    assert all(cddfuse.WEIGHTS.ours(cddfuse.WEIGHTS.official(n)) == n for n in names)


def test_the_authors_checkpoint_of_four_networks_is_read(cddfuse, official, tmp_path):
    from jfusion import checkpoint
    from jfusion.inference import load_system

    networks: dict[str, dict[str, np.ndarray]] = {}
    for name, value in official.items():
        network, rest = name.split(".", 1)
        networks.setdefault(network, {})[f"module.{rest}"] = value
    import pickle

    (tmp_path / "CDDFuse_IVF.pkl").write_bytes(pickle.dumps(networks))
    assert len(checkpoint.load(tmp_path / "CDDFuse_IVF.pkl")["model"]) == 158
    found = load_system(tmp_path / "CDDFuse_IVF.pkl", "cddfuse", {}).state()
    for name, value in cddfuse.state().items():
        np.testing.assert_array_equal(found[name], value)


def test_features_logits_and_images_of_both_phases(cddfuse, golden):
    z = arrays(golden, "forward")
    vis, ir = jt.array(z["vis"]), jt.array(z["ir"])

    def check(name, x):
        x = x.numpy()
        expected = z[name]
        if expected.shape != x.shape:
            np.testing.assert_allclose(
                x.mean((2, 3)), z[f"{name}.mean"], atol=1e-5 * abs(expected).max()
            )
            x = x[:, :, z["rows"]][:, :, :, z["cols"]]
        atol = 5e-6 if name.endswith("image") else 3e-5 + 1e-5 * abs(expected).max()
        np.testing.assert_allclose(x, expected, rtol=0, atol=atol, err_msg=name)

    with jt.no_grad():
        bases, details, shared = cddfuse.encoder(jt.concat([vis, ir]))
        check("vis.level1.3", shared[:1])
        for i, name in enumerate(("vis", "ir")):
            check(f"{name}.base", bases[i : i + 1])
            check(f"{name}.detail", details[i : i + 1])
        for i, (name, image) in enumerate((("vis", vis), ("ir", ir))):
            level0 = cddfuse.decoder.features(bases[i : i + 1], details[i : i + 1])
            check(f"p1.{name}.level0", level0)
            logits = cddfuse.decoder.logits(image, level0)
            check(f"p1.{name}.logits", logits)
            check(f"p1.{name}.image", jt.sigmoid(logits))
        base = cddfuse.base_fusion(bases[:1] + bases[1:])
        detail = cddfuse.detail_fusion(details[:1] + details[1:])
        check("p2.base", base)
        check("p2.detail", detail)
        check("p2.fused.image", cddfuse(ir, vis))


@pytest.mark.parametrize("skip", ["sum", "none"])
def test_medical_pairs_add_the_sum_or_nothing(official, golden, skip):
    z = arrays(golden, "forward")
    with jt.no_grad():
        found = create(official, skip=skip)(jt.array(z["ir"]), jt.array(z["vis"])).numpy()
    np.testing.assert_allclose(found, z[f"mif.{skip}.image"], rtol=0, atol=5e-6)


def test_saved_image_and_odd_sizes(cddfuse, golden):
    z = arrays(golden, "forward")
    with jt.no_grad():
        fused = cddfuse.fuse(jt.array(z["ir"]), jt.array(z["vis"])).numpy()
        odd = cddfuse(jt.array(z["odd.ir"]), jt.array(z["odd.vis"])).numpy()
    np.testing.assert_allclose(fused, z["test.minmax"], rtol=0, atol=2e-5)
    saved = cddfuse.postprocess(fused[0], Pair("x", *fused, *fused)).gray.astype(int)
    near = abs(z["test.minmax"][0, 0] * 255 % 1 - 0.5) < 1e-3 * 2
    assert (saved == z["test.uint8"])[~near].all() and abs(saved - z["test.uint8"]).max() <= 1
    np.testing.assert_allclose(odd, z["odd.image"], rtol=0, atol=5e-6)


def test_single_modules(cddfuse, golden):
    z = arrays(golden, "modules")
    x, y, x1 = (jt.array(z[n]) for n in ("x", "y", "x1"))
    encoder, decoder = cddfuse.encoder, cddfuse.decoder
    block, base, node = encoder.blocks[0], encoder.base, encoder.detail.nodes[0]
    half = x[:, :32]
    from jfusion.ops.conv import conv

    with jt.no_grad():
        found = {
            "patch_embed": conv(x1, encoder.patch.weight),
            "norm": block.norm1(x),
            "block": block(x),
            "base.attn": base.attention(x),
            "base.mlp": base.mlp(x),
            "base": base(x),
            "theta": node.phi(half),
            "theta.x8": node.phi(8 * half),
            "detail": encoder.detail(x),
            "head": decoder.head(x),
            "basefuse": cddfuse.base_fusion(x),
            "detailfuse": cddfuse.detail_fusion(x),
            "reduce": decoder.features(x, y),
            "decoder": decoder(x1, x, y),
            "decoder.none": decoder(None, x, y),
        }
        first, second = node(x).chunk(2, 1)
        found |= {"node.z1": first, "node.z2": second}
    for name, value in found.items():
        atol = 5e-5 if name == "detail" else 1e-5
        np.testing.assert_allclose(value.numpy(), z[name], rtol=1e-5, atol=atol, err_msg=name)


def test_losses_and_their_gradients(golden):
    z = arrays(golden, "losses")
    vis, ir, gen = (jt.array(z[n]) for n in ("vis", "ir", "gen"))
    ssim = losses.kornia_ssim_loss(vis, gen)
    grad_l1 = losses.spatial_gradient_loss(vis, gen)
    total, intensity, gradient = losses.fusion_loss(vis, ir, gen, 10.0)
    negative = 1 - vis
    opposed = losses.kornia_ssim_loss(vis, negative)
    scalars = {
        "ssim": ssim,
        "ssim.neg": opposed,
        "grad_l1": grad_l1,
        "fusion.total": total,
        "fusion.in": intensity,
        "fusion.grad_term": gradient,
        "mse": losses.mean_squared_error(vis, gen),
        "rec": 5 * ssim + losses.mean_squared_error(vis, gen),
        "cc": losses.correlation(jt.array(z["P"]), jt.array(z["Q"])),
    }
    for name, value in scalars.items():
        np.testing.assert_allclose(value.item(), z[name], rtol=0, atol=1e-6, err_msg=name)
    maps = jt.clamp(1 - losses.reflected_ssim_map(vis, gen), 0, 1) / 2
    np.testing.assert_allclose(maps.numpy(), z["ssim.lossmap"], atol=3e-4)
    np.testing.assert_allclose(sobel_pair(vis).numpy(), z["spatial_gradient"], atol=1e-6)
    np.testing.assert_allclose(sobel_magnitude(vis).numpy(), z["sobel"], atol=1e-5)
    changed = jt.array(z["cc2.P"])
    gradients = {
        "ssim.grad": jt.grad(ssim, gen),
        "ssim.neg.grad": jt.grad(opposed, negative),
        "grad_l1.grad": jt.grad(grad_l1, gen),
        "fusion.dgen": jt.grad(total, gen),
        "cc2.grad": jt.grad(losses.correlation(changed, jt.array(z["Q"])), changed),
    }
    for name, value in gradients.items():
        np.testing.assert_allclose(value.numpy(), z[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_constant_channel_has_no_gradient(golden):
    """The reference's is NaN there."""
    z = arrays(golden, "losses")
    p = jt.array(z["P"])
    found = jt.grad(losses.correlation(p, jt.array(z["Q"])), p).numpy()
    assert np.isfinite(found).all() and not found[z["cc.grad_nan_channels"].astype(bool)].any()


def batch(z):
    return Batch(jt.array(z["ir"]), jt.array(z["vis"]), None, ["x", "y"])


PARTS = {
    "p1": {
        "reconstruction_b": "rec_vis",
        "reconstruction_a": "rec_ir",
        "gradient": "grad",
        "decomposition": "decomp",
    },
    "p2": {"intensity": "fusion_in", "gradient": "fusion_grad", "decomposition": "decomp"},
}


@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_losses_and_every_gradient_of_both_phases(cddfuse, golden, phase):
    z = arrays(golden, "gradients")
    stage = cddfuse.stages()[phase == "p2"]
    found = cddfuse.losses(batch(z), stage)
    np.testing.assert_allclose(found["total"].item(), z[f"{phase}.loss"], rtol=1e-5)
    for ours, theirs in PARTS[phase].items():
        np.testing.assert_allclose(
            found[ours].item(), z[f"{phase}.{theirs}"], rtol=1e-5, err_msg=ours
        )
    parameters = {k: p for o in cddfuse.optimizers(stage) for k, p in o.parameters.items()}
    gradients = dict(
        zip(parameters, jt.grad(found["total"], list(parameters.values())), strict=True)
    )
    names = [str(n) for n in z[f"{phase}.names"]]
    assert {cddfuse.WEIGHTS.official(n) for n in parameters} == set(names)
    for i, name in enumerate(names):
        g = gradients[cddfuse.WEIGHTS.ours(name)].numpy()
        norm = z[f"{phase}.norm"][i]
        np.testing.assert_allclose(
            np.linalg.norm(g.astype(np.float64)), norm, rtol=1e-3, err_msg=name
        )
        samples = g.reshape(-1)[z[f"{phase}.idx"][i]]
        atol = 1e-2 * norm / g.size**0.5
        np.testing.assert_allclose(samples, z[f"{phase}.val"][i], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("phase", ["p1", "p2"])
def test_five_updates_follow_the_reference(official, golden, phase):
    z, system = arrays(golden, "train"), create(official)
    stage = system.stages()[phase == "p2"]
    optimizers = [Adam(o.parameters, clip_norm=o.clip_norm) for o in system.optimizers(stage)]
    names, places = [str(n) for n in z[f"{phase}.names"]], z[f"{phase}.idx"]

    def compare(key, most, all_):
        state = {system.WEIGHTS.official(k): v for k, v in system.state().items()}
        found = np.array([state[n].reshape(-1)[i] for n, i in zip(names, places, strict=True)])
        error = abs(found - z[key]) / 1e-4
        assert np.mean(error < most) >= 0.99 and error.max() < all_, (key, error.max())

    for step in range(6):
        found = system.losses(batch(z), stage)
        tolerance = 1e-5 if step < 2 else 1e-3
        np.testing.assert_allclose(found["total"].item(), z[f"{phase}.loss"][step], rtol=tolerance)
        if step == 5:
            break
        parameters = [p for o in optimizers for p in o.parameters.values()]
        gradients = iter(jt.grad(found["total"], parameters))
        for i, optimizer in enumerate(optimizers):
            own = [next(gradients) for _ in optimizer.parameters]
            norm = np.sqrt(sum(float((g * g).sum().item()) for g in own))
            expected = z[f"{phase}.clip_norm"][step][i]
            np.testing.assert_allclose(norm, expected, rtol=1e-3 if step == 0 else 5e-2)
            optimizer.apply(own, 1e-4)
        if step == 0:
            compare(f"{phase}.param_after1", 0.02, 2)
    compare(f"{phase}.param_after5", 0.5, 10)


def test_learning_rates_are_those_of_the_published_schedule(cddfuse, golden):
    expected = arrays(golden, "train")["lr"]
    stages = cddfuse.stages()
    assert [s.epochs for s in stages] == [40, 80]
    for epoch in range(120):
        stage, before = (stages[0], 0) if epoch < 40 else (stages[1], 40)
        rates = [g.learning_rate(epoch - before) for g in cddfuse.optimizers(stage)]
        np.testing.assert_allclose(rates, expected[epoch][: len(rates)], rtol=1e-12)


def test_patches_are_those_of_the_authors_script(golden, tmp_path):
    from PIL import Image

    z = arrays(golden, "dataprocessing")
    for folder, image in (("IR", z["ir"]), ("VI", z["vi"])):
        path = tmp_path / "Image/IVF/Set" / folder / "x.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    result = preprocess(
        Options(
            dataset="Set", split="all", root=str(tmp_path), out=str(tmp_path / "x.h5"), patches=128
        )
    )
    file = PairFile(result.path)
    assert result.samples == len(file) == z["kept"].sum()
    np.testing.assert_allclose(file.read("0").b, z["patch_vis0"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(file.read("0").a, z["patch_ir0"], rtol=0, atol=1e-6)
    for i, name in enumerate(file.names):
        pair = file.read(name)
        np.testing.assert_allclose(pair.a.mean(), z["patch_ir_mean"][i], atol=1e-6)
        np.testing.assert_allclose(pair.b.mean(), z["patch_vis_mean"][i], atol=1e-6)
    windows = list(patches(z["ir"], z["ir"], 128, 200))
    assert len(windows) == len(z["corner"])
    for (patch, _), (row, column) in zip(windows, z["corner"], strict=True):
        np.testing.assert_array_equal(patch, z["ir"][row : row + 128, column : column + 128])
    assert not low_contrast(np.zeros((4, 4))) and low_contrast(np.full((4, 4), 9.0))
    with pytest.raises(UserError, match="no patch of 400 pixels"):
        preprocess(
            Options(
                dataset="Set",
                split="all",
                root=str(tmp_path),
                out=str(tmp_path / "y.h5"),
                patches=400,
            )
        )


def test_settings_are_checked():
    with pytest.raises(UserError, match="skip"):
        jfusion.create("cddfuse", skip="infrared")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    from tests.commands.test_preprocess import make_dataset, random_pair

    root = tmp_path_factory.mktemp("pairs")
    make_dataset(root, {f"s{i}": random_pair(i, (40, 56 if i else 30)) for i in range(3)})
    options = Options(
        root=str(root), dataset="Set", split="test", out=str(root / "p.h5"), patches=16, stride=24
    )
    return preprocess(options).path


@pytest.mark.parametrize("system", ["cddfuse", "sfdfuse"])  # sfdfuse with drop-path, as published
def test_both_phases_train_and_resume_exactly_in_the_middle_of_each(pairs, tmp_path, system):
    from jfusion.train.options import Options as TrainOptions
    from jfusion.train.setup import resume, train

    settings = {"batch_size": 4, "phase1_epochs": 1, "phase2_epochs": 1, "learning_rate": 1e-3}
    count = len(PairFile(pairs))
    per_epoch = -(-count // 4)
    assert per_epoch == 3 and count % 4  # the incomplete batch is kept
    options = {"data": str(pairs), "seed": 5, "images": 0}
    whole = train(system, settings, TrainOptions(**options, exp=str(tmp_path / "whole")))
    assert whole.latest()["step"] == 2 * per_epoch and whole.latest()["stage"] == "fusion"
    run = train(system, settings, TrainOptions(**options, exp=str(tmp_path / "parts"), max_steps=2))
    for end in (3, 4, None):  # inside phase I, at its end, inside phase II
        run = resume(run.folder, max_steps=end)
    for name, value in whole.latest()["model"].items():
        np.testing.assert_array_equal(run.latest()["model"][name], value, err_msg=name)
    optimizer = run.latest()["optimizer"]
    assert {n: o["steps"] for n, o in optimizer.items()} == {
        **{"encoder": 6, "decoder": 6},  # they continue from phase I
        **{"base_fusion": 3, "detail_fusion": 3},
    }
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    assert "reconstruction_a" in rows[0] and "intensity" in rows[0] and len(rows) == 7
    assert all(row.count(",") == rows[0].count(",") for row in rows)
