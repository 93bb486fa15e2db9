"""FILM against the numbers of the authors' code (tests/golden/film/README.md has the tolerances)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jfusion
from jfusion import checkpoint
from jfusion.checkpoint.weights import load_weights
from jfusion.config import to_dict
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.layers.losses import fusion_loss, lp_ssim_loss, ssim_map
from jfusion.ops.filters import gaussian_window, sobel_magnitude
from jfusion.ops.resize import nearest_index
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.film.config import TINY
from jfusion.train.optimizer import Adam
from tests.conftest import GOLDEN


def close(ours, golden, tolerance):
    np.testing.assert_allclose(np.asarray(ours), golden, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def official():
    return json.loads((GOLDEN / "film/manifest.json").read_text())


@pytest.fixture(scope="module")
def weights(recipe, official):
    return recipe.state(official, salt="golden")


@pytest.fixture
def film(weights):
    system = jfusion.create("film")
    system.load_official(weights)
    return system


@pytest.fixture(scope="module")
def forward(golden):
    return golden("film/forward.npz")


@pytest.fixture(scope="module")
def block(golden):
    return golden("film/block.npz")


def case(forward, recipe, name):
    if name == "c":
        images = [recipe.image(f"film.c.image{x}", (1, 1, 288, 384), "golden") for x in "AB"]
        text = forward["a.text"][:1]
    else:
        images = [forward[f"{name}.image{x}"] for x in "AB"]
        text = forward[f"{name}.text"]
    return [jt.array(v) for v in (*images, text.astype(np.float32))]


# ---- names -------------------------------------------------------------------------------------


def test_every_official_name_maps_to_one_of_ours_and_back(film, official):
    ours = {name: list(p.shape) for name, p in film.state_dict().items()}
    mapped = {film.WEIGHTS.ours(name): shape for name, shape in official.items()}
    assert mapped == ours
    assert {film.WEIGHTS.official(name): shape for name, shape in ours.items()} == official
    assert sum(int(np.prod(s)) for s in ours.values()) == 2_070_235


def test_wrong_weights_are_refused_with_all_names(film, weights):
    broken = dict(weights)
    broken["conv1.wieght"] = broken.pop("conv1.weight")
    broken["conv2.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        load_weights(film, broken, "the checkpoint")
    text = str(error.value)
    assert "1 missing: conv1.weight (nearest: conv1.wieght)" in text
    assert "1 unexpected: conv1.wieght" in text
    assert "conv2.bias is [3], must be [1]" in text


# ---- forward -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_forward(film, forward, recipe, name):
    a, b, text = case(forward, recipe, name)
    with jt.no_grad():
        out = film(a, b, text).numpy()
    if name == "c":
        projected = film.text_projection(text)
        features = {"A": a, "B": b}
        for i in (1, 2, 3):
            for x in "AB":
                branch = getattr(getattr(film, f"block{i}"), x)
                vector = branch.guidance(branch.tokens(branch.encode(features[x])), projected)
                close(vector.numpy(), forward[f"c.block{i}.{x}.vector"], 3e-7)
                features[x] = branch(features[x], projected)
        close(out[:, :, ::4, ::4], forward["c.out"], 5e-5)
        close(out.mean(), forward["c.out_mean"], 5e-5)
        close(out.std(), forward["c.out_std"], 5e-5)
    else:
        close(out, forward[f"{name}.out"], 5e-5)


@pytest.mark.parametrize("name", ["a", "b"])
def test_forward_stage_by_stage(film, forward, recipe, name):
    a, b, text = case(forward, recipe, name)
    with jt.no_grad():
        text = film.text_projection(text)
        close(text.numpy()[:, ::12], forward[f"{name}.text_process"], 2e-5)
        features = {"A": a, "B": b}
        for i in (1, 2, 3):
            for x in "AB":
                branch, key = getattr(getattr(film, f"block{i}"), x), f"{name}.block{i}.{x}."
                encoded = branch.encode(features[x])
                tokens = branch.tokens(encoded)
                vector = branch.guidance(tokens, text)
                features[x] = branch(features[x], text)
                close(vector.numpy(), forward[key + "vector"], 3e-7)
                close(features[x].numpy()[:, ::2, ::4, ::4], forward[key + "feature"], 1e-4)
                close(features[x].numpy().mean((2, 3)), forward[key + "feature_mean"], 1e-5)
                if name == "a":
                    attended, _ = branch.cross_attention(text, tokens, tokens)
                    close(encoded.numpy()[:, ::4, ::8, ::8], forward[key + "encoded"], 5e-5)
                    close(tokens.numpy()[:, ::1531], forward[key + "tokens"], 5e-5)
                    close(attended.numpy()[:, ::37], forward[key + "attended"], 3e-5)
        decoder = film.decoder
        x = decoder.joint(jt.concat([features["A"], features["B"]], 1))
        stages = {"restormer1": x, "conv1": decoder.reduce(x)}
        stages["restormer2"] = decoder.refine1(stages["conv1"])
        stages["restormer3"] = decoder.refine2(stages["restormer2"])
        for key, value in stages.items():
            close(value.numpy()[:, ::4, ::4, ::4], forward[f"{name}.decoder.{key}"], 2e-4)
            close(value.numpy().mean((2, 3)), forward[f"{name}.decoder.{key}_mean"], 2e-4)
        logits = decoder(features["A"], features["B"])
        close(logits.numpy(), forward[f"{name}.decoder.conv2"], 2e-4)


def test_items_of_a_batch_do_not_see_each_other(film, forward, recipe):
    a, b, text = case(forward, recipe, "a")
    with jt.no_grad():
        single = np.concatenate(
            [film(a[i : i + 1], b[i : i + 1], text[i : i + 1]).numpy() for i in (0, 1)]
        )
    close(single, forward["a.out"], 5e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3), (13, 17)])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_size(film, shape, batch):
    rng = np.random.default_rng(0)
    a, b = (jt.array(rng.random((batch, 1, *shape), np.float32)) for _ in range(2))
    text = jt.array(rng.standard_normal((batch, 4, 768)).astype(np.float32))
    with jt.no_grad():
        fused = film.fuse(a, b, text).numpy()
    assert fused.shape == (batch, 1, *shape)
    assert np.isfinite(fused).all() and fused.min() >= 0 and fused.max() <= 1


def test_text_that_does_not_fit_is_refused(film):
    image = jt.ones((2, 1, 8, 8))
    for text in (None, jt.ones((1, 4, 768)), jt.ones((2, 4, 384))):
        with pytest.raises(UserError, match="paragraph features"):
            film(image, image, text)


def test_token_size_is_a_setting():
    small = jfusion.create("film", token_size=(72, 96))
    image, text = jt.rand(1, 1, 9, 11), jt.rand(1, 3, 768)
    with jt.no_grad():
        assert small(image, image, text).shape == [1, 1, 9, 11]
    with pytest.raises(UserError, match="token_size"):
        jfusion.create("film", token_size=(5, 7))


def test_an_exported_file_is_the_same_network_again(tmp_path):
    film = jfusion.create("film", **TINY)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 9, 11), np.float32)
    text = rng.standard_normal((3, TINY["text_dim"])).astype(np.float32)
    expected = film.fuse(a, b, text)
    model = {film.WEIGHTS.official(name): value for name, value in film.state().items()}
    shapes = {k: v for k, v in TINY.items() if k != "token_size"}
    assert film.infer_settings(model) == film.infer_settings(film.state()) == shapes

    for content in ({"system": "film", "config": to_dict(film.config)}, {}):
        checkpoint.save(tmp_path / "film.pth", {**content, "model": model})
        # without its configuration, the file needs the one setting that no shape depends on
        asked = {} if content else {"token_size": TINY["token_size"]}
        loaded = jfusion.load(tmp_path / "film.pth", "film", **asked)
        assert loaded.config == film.config
        np.testing.assert_array_equal(loaded.fuse(a, b, text), expected)


# ---- pieces ------------------------------------------------------------------------------------


def test_nearest_indices_equal_the_references(golden):
    indices = golden("film/nearest.npz")
    assert len(indices.files) > 20
    for key in indices.files:
        n, m = map(int, key.split("_"))
        np.testing.assert_array_equal(nearest_index(n, m), indices[key], err_msg=key)


@pytest.mark.parametrize("key", ["rest32", "rest64"])
def test_restormer_block(film, block, key):
    module = film.block1.A.encoder if key == "rest32" else film.decoder.joint
    x = jt.array(block[f"{key}.x"])
    with jt.no_grad():
        norm1 = module.norm1(x)
        attention, matrix = module.attention.attend(x, module.norm1)
        norm2 = module.norm2(x + attention)
        feed_forward = module.feed_forward(x + attention, module.norm2)
        out = module(x)
    for name, value in (
        ("norm1", norm1),
        ("attn", attention),
        ("norm2", norm2),
        ("ffn", feed_forward),
        ("out", out),
    ):
        close(value.numpy(), block[f"{key}.{name}"], 2e-5)
    if key == "rest32":
        close(matrix.numpy(), block["rest32.attn_matrix"], 2e-5)


def test_layer_norm_far_from_zero(film, block):
    close(film.block1.A.encoder.norm1(jt.array(block["ln.x"])).numpy(), block["ln.out"], 1e-3)


def test_text_projection(film, block):
    close(
        film.text_projection(jt.array(block["text_process.x"])).numpy(),
        block["text_process.out"],
        2e-5,
    )


def test_cross_attention(film, block):
    attention = film.block1.A.cross_attention
    query, key, value = (jt.array(block[f"cross.{k}"]) for k in ("query", "key", "value"))
    out, weights = attention(query, key, value)
    close(out.numpy(), block["cross.out"], 2e-5)
    close(weights.numpy(), block["cross.weights"], 2e-6)
    mean = out.mean(1, keepdims=True)
    close((mean / jt.abs(mean).sum(-1, keepdims=True)).numpy(), block["cross.vector"], 2e-7)


def test_pooled_cross_attention_is_the_mean_of_the_full_one(film, block):
    attention = film.block1.A.cross_attention
    query, key = (jt.array(block[f"cross.{k}"]) for k in ("query", "key"))
    full, _ = attention(query, key, key)
    close(attention.pooled(query, key).numpy(), full.numpy().mean(1), 1e-6)


def test_guided_block(film, block):
    a, b, text = (jt.array(block[f"cab.{k}"]) for k in ("featureA", "featureB", "text"))
    with jt.no_grad():
        out_a, out_b = film.block2(a, b, text)
    close(out_a.numpy(), block["cab.outA"], 2e-5)
    close(out_b.numpy(), block["cab.outB"], 2e-5)


def test_initialization_follows_pytorch():
    state = jfusion.create("film").state()
    bounds = {
        "text_projection.weight": 768**-0.5,
        "text_projection.bias": 768**-0.5,
        "block1.A.stem.weight": 1 / 3,
        "block1.A.encoder.attention.depthwise.weight": 1 / 3,
        "block2.B.merge.weight": 1 / 8,
        "block2.B.merge.bias": 1 / 8,
        "block3.A.cross_attention.in_proj_weight": (6 / 1024) ** 0.5,
        "block3.A.cross_attention.out_proj.weight": 1 / 16,
    }
    for name, bound in bounds.items():
        top = np.abs(state[name]).max()
        assert 0.9 * bound < top <= bound * 1.000001 or state[name].size < 100, (name, top, bound)
        assert top <= bound * 1.000001
    for name, value in state.items():
        if name.endswith(("in_proj_bias", "out_proj.bias", "norm1.bias", "norm2.bias")):
            assert not value.any(), name
        if name.endswith("slope"):
            assert value == 0.25, name
        if name.endswith(("temperature", "norm1.weight", "norm2.weight")):
            assert (value == 1).all(), name


# ---- losses, gradients, training ---------------------------------------------------------------


@pytest.fixture(scope="module")
def losses(golden):
    return golden("film/losses.npz")


def loss_inputs(losses):
    return [jt.array(losses[k]) for k in ("imageA", "imageB", "fused")]


@pytest.mark.parametrize(
    ("key", "weight"), [("fusion20", 20), ("fusion10", 10), ("fusion20_3ch", 20)]
)
def test_fusion_loss(losses, key, weight):
    a, b, fused = loss_inputs(losses)
    if key.endswith("3ch"):
        a = jt.array(losses["image3"])
    values = fusion_loss(a, b, fused, weight)
    np.testing.assert_allclose([v.item() for v in values], losses[key], rtol=1e-5)
    if f"{key}.dF" in losses:
        close(jt.grad(values[0], fused).numpy(), losses[f"{key}.dF"], 1e-6)


def test_sobel(losses):
    a, _, fused = loss_inputs(losses)
    close(sobel_magnitude(a).numpy(), losses["sobelA"], 1e-5)
    close(sobel_magnitude(fused).numpy(), losses["sobelF"], 1e-5)


@pytest.mark.parametrize("x", ["A", "B"])
def test_lp_ssim_loss(losses, x):
    image, fused = jt.array(losses[f"image{x}"]), jt.array(losses["fused"])
    values = lp_ssim_loss(image, fused, float(losses["weight"]))
    np.testing.assert_allclose([v.item() for v in values], losses[f"lpssim{x}"], rtol=1e-5)
    if f"lpssim{x}.dF" in losses:
        close(jt.grad(values[0], fused).numpy(), losses[f"lpssim{x}.dF"], 5e-5)
    if x == "A":
        ssim = ssim_map(image, fused)
        np.testing.assert_allclose(ssim.mean().item(), losses["lpssimA.ssim"], rtol=1e-5)
        np.testing.assert_allclose(
            ssim.numpy().mean((1, 2, 3)), losses["lpssimA.ssim_per_image"], rtol=1e-5
        )


def test_ssim_window(losses):
    window = gaussian_window(5, 1.5)
    close(np.outer(window, window), losses["window"].reshape(5, 5), 1e-7)


def batch_of(arrays):
    a, b, text = (jt.array(arrays[k].astype(np.float32)) for k in ("imageA", "imageB", "text"))
    return Batch(a, b, text, ["0", "1"])


LOSS_COLUMNS = ("total", "fusion", "intensity", "gradient", "lp_ssim_a", "lp_ssim_b")


def on_the_references_side(check):
    """Runs `check(jitter)` until it passes for one jitter of the input by float32's own rounding.

    One PReLU of block 2 gets -1.8e-7 on this batch, a tenth of what rounding alone moves it by; on
    the other side of zero some gradients differ by 0.3 %. Which side it falls on depends on the
    processor, so a run that lands on the reference's side must reproduce every number.
    """
    for jitter in (0.0, 1e-7, -1e-7, 2e-7, -2e-7, 3e-7):
        try:
            return check(jitter)
        except AssertionError as error:
            failure = error
    raise failure


def jittered(batch, jitter):
    return batch._replace(a=batch.a * (1 + jitter)) if jitter else batch


@pytest.mark.parametrize("setting", ["w0", "w1"])
def test_losses_and_gradients(golden, official, weights, setting):
    g = golden("film/gradients.npz")
    film = jfusion.create("film", ssim_weight=float(setting[1]))
    film.load_official(weights)
    assert [str(n) for n in g["names"]] == list(official)
    own = film.state_dict()
    parameters = [own[film.WEIGHTS.ours(name)] for name in official]

    def check(jitter):
        batch = jittered(batch_of(g), jitter)
        values = film.losses(batch, film.stages()[0])
        assert next(iter(values)) == "total"
        found = [values[k].item() for k in LOSS_COLUMNS]
        np.testing.assert_allclose(found, g[f"{setting}.losses"], rtol=1e-5)
        inputs = [batch.a, batch.b, batch.text]
        gradients = [v.numpy() for v in jt.grad(values["total"], parameters + inputs)]
        for i, name in enumerate(official):
            norm = g[f"{setting}.norm"][i]
            flat = gradients[i].reshape(-1).astype(np.float64)
            samples = flat[np.floor(np.linspace(0, flat.size - 1, 8)).astype(int)]
            assert abs(np.linalg.norm(flat) - norm) <= 1e-3 * norm, name
            expected = g[f"{setting}.samples"][i]
            np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-3 * norm, err_msg=name)
        if setting == "w0":
            close(gradients[-3], g["w0.d_imageA"], 5e-5)
            close(gradients[-2], g["w0.d_imageB"], 5e-5)
            close(gradients[-1][:, :, ::16], g["w0.d_text"], 1e-8)

    on_the_references_side(check)


def test_five_adam_steps(golden, weights, official):
    g = golden("film/train.npz")

    def check(jitter):
        film = jfusion.create("film")
        film.load_official(weights)
        batch, stage = jittered(batch_of(g), jitter), film.stages()[0]
        optimizer = Adam(film.state_dict())
        before, rows = film.state(), []
        for step in range(6):
            values = film.losses(batch, stage)
            rows.append([values[k].item() for k in LOSS_COLUMNS])
            if step == 5:
                break
            optimizer.step(values["total"], learning_rate=1e-4)
            if step in (0, 4):
                after = film.state()
                names = [film.WEIGHTS.ours(name) for name in official]
                delta = [np.linalg.norm((after[n] - before[n]).astype(np.float64)) for n in names]
                tolerance = 1e-2 if step == 0 else 3e-2
                np.testing.assert_allclose(delta, g[f"delta_norm_{step + 1}"], rtol=tolerance)
        rows = np.array(rows)
        close(rows[:, :4], g["losses"][:, :4], 3e-3)
        close(rows[:, 4:], g["losses"][:, 4:], 5e-2)
        with jt.no_grad():
            close(film(batch.a, batch.b, batch.text).numpy(), g["out_after"], 1e-2)

    on_the_references_side(check)


def test_saved_images_equal_the_references(film, forward, recipe, golden):
    saved = golden("film/preprocess.npz")
    for name in "ab":
        a, b, text = case(forward, recipe, name)
        fused = film.fuse(a, b, text).numpy()[0]
        image = film.postprocess(fused, Pair("x", fused, fused)).gray
        difference = np.abs(image.astype(int) - saved[f"post.{name}"].reshape(image.shape))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_softmax_rows_sum_to_one():
    close(
        softmax(jt.array(np.array([[1e4, 0.0], [-3.0, 2.0]], np.float32))).numpy().sum(-1),
        [1, 1],
        1e-6,
    )


def loaded_kernels():
    """The compiled kernels that this process has loaded; another test's process may compile meanwhile."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return {path for path in paths if "/jit/" in path}


def test_a_new_size_compiles_nothing():
    film = jfusion.create("film", text_dim=8, hidden_dim=16, image2text_dim=4, token_size=(6, 8))
    optimizer = Adam(film.state_dict())

    def use(h, w, tokens):
        a, b, text = jt.rand(2, 1, h, w), jt.rand(2, 1, h, w), jt.rand(2, tokens, 8)
        optimizer.step(film.losses(Batch(a, b, text, []), film.stages()[0])["total"], 1e-4)
        with jt.no_grad():
            film.fuse(a[:1], b[:1], text[:1]).sync()

    for _ in range(2):  # the optimizer's second step has a kernel of its own
        use(9, 8, 3)
    before = loaded_kernels()
    use(31, 12, 5)
    use(5, 5, 1)
    assert before and not loaded_kernels() - before
