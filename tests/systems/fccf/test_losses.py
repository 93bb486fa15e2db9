"""Diff-FCCF's losses and training steps, against the authors' numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.diffusion.process import q_sample
from jfusion.runtime import jt
from jfusion.systems.fccf import losses, policy
from jfusion.systems.fccf.channels import color_channel, match_statistics
from jfusion.systems.fccf.config import GROUPS, TRAINING_REGIONS
from jfusion.systems.fccf.network import Output
from jfusion.systems.fccf.sampling import noise_schedule
from jfusion.train.optimizer import Adam
from tests.systems.fccf import released_parts
from tests.systems.fccf.golden import CHANNELS, TERMS, arrays, close, probe, sources, sources256


def test_single_terms(golden):
    z = arrays(golden, "losses")
    a, b, classes = z["a"], z["b"], z["a_classes"]
    # the reference's function of this name is the loss: with the sign changed
    for bins, key in ((64, "mutual_information"), (16, "mutual_information_16")):
        np.testing.assert_allclose(-losses.mutual_information(a, b, bins), z[key], rtol=1e-5)
    x = jt.array(b)
    ratio = losses.correlation_ratio(classes, x)
    np.testing.assert_allclose(ratio.item(), z["variance_ratio"], rtol=1e-5)
    close(jt.grad(ratio, x), z["variance_ratio_db"], 1e-4)
    fused = jt.array(b)
    parts = losses.quality(jt.array(a), jt.array(classes), fused)
    for name in ("gradient", "intensity", "ssim"):
        np.testing.assert_allclose(
            parts[name].item(), z[f"quality_{name}"], rtol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(sum(parts.values()).item(), z["quality_total"], rtol=1e-5)
    close(jt.grad(sum(parts.values()), fused), z["quality_dfused"], 1e-3)
    kept = jt.array(z["ref_values"].reshape(2, 1, 1, 1))
    matched = match_statistics(jt.array(b), jt.array(a), kept)
    close(matched, z["normalize_with_ref_distribution"], 1e-5)


def test_terms_that_are_published_and_not_used(golden):
    z = arrays(golden, "losses")
    a, b, classes = z["a"], z["b"], z["a_classes"]
    np.testing.assert_allclose(((a - b) ** 2).mean(), z["mse"], rtol=1e-5)
    np.testing.assert_allclose(released_parts.pearson_loss(a, b), z["correlation"], rtol=1e-5)
    close(released_parts.min_max_normalize(b, z["ref_values"]), z["normalize_with_ref"], 1e-5)
    assert not released_parts.min_max_normalize(
        np.full((1, 1, 2, 2), 0.3, np.float32), np.zeros(1)
    ).any()
    close(released_parts.hessian_determinant(z["field"]), z["hessian_det"], 1e-5)
    np.testing.assert_allclose(policy.composite_loss(b, a, classes), z["composite"], rtol=1e-5)
    other = policy.composite_loss(b, a, classes, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(other, z["composite_123"], rtol=1e-5)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("number", CHANNELS)
def test_the_loss_of_a_channel_and_its_gradients(golden, make, group, number):
    z = arrays(golden, "losses")
    key = f"{group}_{number}"
    system = make(group=group)
    s, f = sources(golden, group)
    channel = color_channel(number, s, f, TRAINING_REGIONS[group])
    noise = jt.array(z["stub_noise_q"].astype(np.float32) / 32)
    predicted = jt.array(z["stub_pred_q"].astype(np.float32) / 32)
    masks = [jt.array(z[f"stub_mask{i}_u8"].astype(np.float32) / 256) for i in (1, 2)]
    field = jt.array((2 * z["stub_dv_u8"].astype(np.float32) + 1) / 256)
    conditions, schedule = (channel.s_condition, channel.f_condition), noise_schedule(system.config)
    noisy = tuple(q_sample(jt.array(x), z["stub_t"], noise, schedule) for x in conditions)
    inputs = np.concatenate([*conditions, *(x.numpy() for x in noisy)], 1)
    close(inputs[:, :, ::4, ::4], z[f"{key}_input"], 1e-5)
    terms = losses.channel_losses(
        channel, Output(predicted, *masks), field, noise, noisy, 128.0, group == "pet"
    )
    np.testing.assert_allclose([terms[n].item() for n in TERMS], z[f"{key}_terms"][:5], rtol=1e-5)
    total = sum({"noise": 10, "quality": 10}.get(n, 1) * v for n, v in terms.items())
    np.testing.assert_allclose(total.item(), z[f"{key}_total"], rtol=1e-5)
    derivatives = jt.grad(total, [predicted, *masks, field])
    for name, d in zip(("pred", "mask1", "mask2", "dv"), derivatives, strict=True):
        d, norm = d.numpy(), z[f"{key}_d_{name}"]
        assert abs(np.linalg.norm(d) - norm) <= 1e-3 * norm + 1e-9, name
        if norm:
            expected = z[f"{key}_d_{name}_probe"]
            assert abs(probe(d, 32) - expected).max() <= 1e-3 * abs(expected).max(), name


def gradients(system, golden, z, key, group, t, noise):
    system.train()
    s, f = sources(golden, group) if key != "d256" else sources256(golden)
    terms = system.losses_of(s, f, t, jt.array(noise.astype(np.float32) / 32), group)
    expected = z[f"{key}_terms"].sum(0)
    np.testing.assert_allclose([terms[n].item() for n in TERMS], expected, rtol=1e-4)
    np.testing.assert_allclose(terms["total"].item(), z[f"{key}_total"], rtol=1e-4)
    own = {system.WEIGHTS.official(k): v for k, v in system.state_dict().items()}
    derivatives = [x.numpy() for x in jt.grad(terms["total"], [own[str(n)] for n in z["names"]])]
    loose = 5e-2 if key == "pet" else 5e-3
    for name, d, norm, sample in zip(
        z["names"], derivatives, z[f"{key}_norms"], z[f"{key}_samples"], strict=True
    ):
        assert abs(np.linalg.norm(d) - norm) <= loose * norm + 1e-3, name
        assert abs(probe(d, 4) - sample).max() <= loose * abs(sample).max() + 1e-3, name
    whole = np.sqrt(sum((x.astype(float) ** 2).sum() for x in derivatives))
    assert abs(whole / z[f"{key}_global_norm"] - 1) < 1e-3


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
    (c,) = system.optimizers(system.stages()[0])
    optimizer = Adam(c.parameters, weight_decay=c.weight_decay, decoupled=c.decoupled)
    s, f = sources(golden, "spect")
    noise = jt.array(z["noise_q"].astype(np.float32) / 32)
    totals = []
    for _ in range(3):
        total = system.losses_of(s, f, z["t"], noise, "spect")["total"]
        totals.append(total.item())
        optimizer.step(total, c.rate(0, 0, 1))
    np.testing.assert_allclose(totals, z["spect_adamw_losses"], rtol=1e-4)
    own = {system.WEIGHTS.official(k): v.numpy() for k, v in system.state_dict().items()}
    for name, sample in zip(z["names"], z["spect_adamw_param_samples"], strict=True):
        assert abs(probe(own[str(name)], 4) - sample).max() <= 1.2e-3, name
