"""Diff-FCCF's reinforcement learning, as we read it: the policy must find what the reward wants."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

import jfusion
from jfusion import runtime
from jfusion.errors import UserError
from jfusion.runtime import jt
from jfusion.systems.base import Batch
from jfusion.systems.fccf import reinforce as module
from jfusion.train.optimizer import Adam

SIZE = 8
TINY = {"width": 32, "train_timesteps": 4, "group": "pet", "reinforce": True, "policy_size": SIZE}


def scene(count=4):
    """Lumas, and chromas that differ from them by more than an action: the reward wants a change."""
    rng = np.random.default_rng(0)
    luma = np.zeros((count, 1, SIZE, SIZE), np.float32)
    luma[..., SIZE // 2 :] = 0.8
    chroma = 0.4 + 0.02 * rng.standard_normal((count, 2, SIZE, SIZE)).astype(np.float32)
    return luma, chroma


def reward(luma, chroma, before):
    """The mean over images and channels of minus the composite loss."""
    each = [
        module.composite_loss(
            chroma[i : i + 1, c : c + 1], luma[i : i + 1], before[i : i + 1, c : c + 1]
        )
        for i in range(len(luma))
        for c in range(2)
    ]
    return -float(np.mean(each))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_policy_improves_the_reward_where_it_can(seed):
    runtime.seed(seed)
    learner, (luma, chroma) = module.Reinforcement(SIZE), scene()
    parameters = dict(learner.policy.state_dict())
    optimizer = Adam(parameters, weight_decay=0.01, clip_norm=1.0, decoupled=True)
    untrained = reward(luma, learner.apply_policy(luma, chroma), chroma)
    best = reward(luma, np.clip(np.repeat(luma, 2, 1), chroma - 0.1, chroma + 0.1), chroma)
    for _ in range(150):
        optimizer.step(learner.losses(luma, chroma)["policy"], 1e-3)
    trained = reward(luma, learner.apply_policy(luma, chroma), chroma)
    assert trained > untrained + 0.4 * (best - untrained), (untrained, trained, best)


def test_exploration_falls_to_stability():
    learner = module.Reinforcement(SIZE)
    seen = []
    for steps in (0, 100, 1000, 100_000):
        memory = learner.memory.numpy()
        memory[0] = steps
        learner.memory.update(jt.array(memory))
        seen.append(learner.sigma)
    assert seen[0] == module.SIGMA_START and seen == sorted(seen, reverse=True)
    assert seen[-1] == module.SIGMA_END


def test_the_boundary_and_the_baseline_are_remembered():
    runtime.seed(0)
    learner, (luma, chroma) = module.Reinforcement(SIZE), scene(1)
    rewards = [learner.losses(luma, chroma)["reward"].item() for _ in range(102)]
    steps, baseline, boundary, held, *distances = learner.memory.numpy()
    assert steps == 102 and held == 100 and min(distances) > 0
    assert min(abs(boundary - v) for v in (0.081, 0.09, 0.099, 0.1, 0.11, 0.121)) < 1e-6
    expected = 0.0
    for value in rewards:
        expected = 0.95 * expected + 0.05 * value
    np.testing.assert_allclose(baseline, expected, rtol=1e-4)


def test_the_gradient_is_reinforce_and_an_entropy_term_would_not_change_it(monkeypatch):
    """d policy / d mean is -advantage (action - mean) / sigma^2, a mean over the actions and pixels."""
    runtime.seed(3)
    learner, (luma, chroma) = module.Reinforcement(SIZE), scene(2)
    learner.losses(luma, chroma)  # a baseline that is not 0
    mean, seen = 0.02 * jt.randn(4, 1, SIZE, SIZE), {}
    mean.start_grad()
    monkeypatch.setattr(learner, "policy", lambda state, labels: mean)
    rewards = module._rewards

    def watch(luma, before, changed, threshold):
        seen["reward"] = rewards(luma, before, changed, threshold)
        seen["action"] = changed - before
        return seen["reward"]

    monkeypatch.setattr(module, "_rewards", watch)
    baseline, sigma = learner.memory.numpy()[1], learner.sigma
    loss = learner.losses(luma, chroma)["policy"]
    entropy = 0.5 * np.log(2 * np.pi * np.e * sigma**2)
    found, with_entropy = (jt.grad(x, mean).numpy() for x in (loss, loss - 0.01 * float(entropy)))
    advantage = (seen["reward"] - baseline).reshape(4, 1, 1, 1)
    expected = -advantage * (seen["action"] - mean.numpy()) / sigma**2 / mean.numel()
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())
    np.testing.assert_array_equal(found, with_entropy)


def test_the_gradient_has_the_same_bits_every_time():
    runtime.seed(0)
    learner, (luma, chroma) = module.Reinforcement(SIZE), scene(1)
    parameters, memory = dict(learner.policy.state_dict()), learner.memory.numpy()
    expected = None
    for _ in range(8):
        runtime.seed(1)
        learner.memory.update(jt.array(memory).stop_grad())
        loss = learner.losses(luma, chroma)["policy"]
        found = [g.numpy() for g in jt.grad(loss, list(parameters.values()))]
        expected = expected or found
        for name, a, b in zip(parameters, found, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_system_with_the_policy_trains_the_same_network_and_adjusts_the_chroma_alone():
    made = []
    for values in ({**TINY, "reinforce": False}, TINY):
        runtime.seed(0)
        system = jfusion.create("fccf", **values)
        jt.sync_all()
        system.train()
        rng = np.random.default_rng(0)
        s, f = (jt.array(rng.random((1, c, 32, 32)).astype(np.float32)) for c in (1, 3))
        runtime.seed(1)
        (stage,) = system.stages()
        losses = system.losses(Batch(s, f, None, ["x"], "Harvard_PET"), stage)
        groups = {g.name: g for g in system.optimizers(stage)}
        gradients = jt.grad(losses["total"], list(groups["network"].parameters.values()))
        made.append((system, groups, losses, [g.numpy() for g in gradients], s, f))
    (plain, _, _, expected, s, f), (system, groups, losses, found, *_) = made
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(abs(b).max(), 1e-3))
    assert set(groups) == {"network", "policy"} and "reward" in losses
    system.eval()
    plain.eval()
    plain.load_state({k: v for k, v in system.state().items() if k.startswith("network")})
    with jt.no_grad():
        before, after = plain.fuse(s, f).numpy(), system.fuse(s, f).numpy()
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert 0 < abs(before - after).max() <= 0.1 + 1e-6


def test_a_run_with_the_policy_resumes_exactly_and_takes_the_authors_weights(tmp_path):
    from jfusion.commands.preprocess import Options as Preprocess
    from jfusion.commands.preprocess import preprocess
    from jfusion.train.options import Options
    from jfusion.train.setup import resume, train
    from tests.commands.test_preprocess import make_dataset, random_pair

    pairs = {f"s{i}": random_pair(i, (32, 32)) for i in range(2)}
    make_dataset(tmp_path, pairs, "MIF", "Harvard_PET", "train")
    out = str(tmp_path / "x.h5")
    preprocess(Preprocess("MIF", "Harvard_PET", "train", str(tmp_path), out, text="zeros"))
    settings = {**TINY, "batch_size": 1}
    options = Options(data=out, exp=str(tmp_path), images=0, max_steps=4)
    whole = train("fccf", settings, options)
    first = train("fccf", settings, dataclasses.replace(options, max_steps=2))
    again = resume(first.folder, max_steps=4)
    models = [run.latest()["model"] for run in (whole, again)]
    assert models[0]["reinforcement.memory"][0] == 4
    for name in models[0]:
        np.testing.assert_array_equal(models[0][name], models[1][name], err_msg=name)
    system = jfusion.create("fccf", **TINY)
    official = {system.WEIGHTS.official(k): v for k, v in models[0].items()}
    assert {k.split(".")[0] for k in official if "reinf" in k or "policy" in k} == {
        "policy",
        "reinforcement_memory",
    }
    published = {k: v for k, v in official.items() if not k.startswith(system.WEIGHTS.optional)}
    system.load_official(published)
    np.testing.assert_array_equal(
        system.state()["network.first.weight"], models[0]["network.first.weight"]
    )


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(UserError, match=r"needs scikit-image; .* 'jfusion\[reinforce\]'"):
        module.superpixels(np.zeros((1, 4, 4)))
