"""The published parts of Diff-FCCF's reinforcement learning, against the authors' numbers."""

from __future__ import annotations

import json

import numpy as np

from jfusion.runtime import jt
from jfusion.systems.fccf import policy
from tests.systems.fccf import released_parts
from tests.systems.fccf.golden import FOLDER, arrays, close, probe


def filled(recipe, module, shapes, name=lambda key: key):
    """The module with the golden parameters of the authors' names."""
    own = module.state_dict()
    assert {name(key) for key in shapes} == set(own)
    for key, shape in shapes.items():
        own[name(key)].update(jt.array(recipe.weight(key, shape, "golden")))
    return module


def test_one_hypergraph_convolution(golden, recipe):
    z = arrays(golden, "policy")
    shapes = json.loads((FOLDER / "manifest_policy_parts.json").read_text())["hypergraph_3_5"]
    layer = filled(recipe, policy.HypergraphConv(3, 5), shapes)
    close(layer(jt.array(z["hg_x"]), z["hg_labels"]), z["hg_y"], 1e-5)


def test_the_policy_network(golden, recipe):
    z = arrays(golden, "policy")
    shapes = json.loads((FOLDER / "manifest_policy.json").read_text())
    net = filled(recipe, policy.Policy(), shapes, policy.OFFICIAL.ours)
    assert sum(int(np.prod(s)) for s in shapes.values()) == 67_207_086
    state = jt.array(z["state_u8"].astype(np.float32) / 255)
    with jt.no_grad():
        features = net.features(state, z["state_labels"]).numpy()
        action = net(state, z["state_labels"]).numpy()
    close(features[:, :, ::8, ::8], z["features"], 1e-5)
    close(action[:, :, ::8, ::8], z["action"], 1e-5)
    close(probe(action, 512), z["action_probe"], 1e-5)
    new = np.clip(z["state_u8"].astype(np.float32) / 255 + action, 0, 1)
    close(new[:, :, ::8, ::8], z["new_state"], 1e-5)


def test_the_graph_of_the_policy_alone(golden, recipe):
    z = arrays(golden, "policy")
    shapes = json.loads((FOLDER / "manifest_policy_parts.json").read_text())["hyperedge_gcn"]
    net = policy.Policy(16)
    own = net.state_dict()
    for key, shape in shapes.items():
        own[policy.OFFICIAL.ours(f"gcn.{key}")].update(
            jt.array(recipe.weight(key, shape, "golden"))
        )
    close(net.features(jt.array(z["gcn_x"]), z["gcn_labels"]), z["gcn_y"], 1e-5)


def test_the_boundary_follows_the_trend(golden):
    z, boundary = arrays(golden, "policy"), policy.AdaptiveBoundary()
    found = np.array([boundary.update(float(v)) for v in z["boundary_in"]])
    close(found, z["boundary_out"], 1e-5)


def test_the_reward_of_balanced_terms(golden):
    z, balance = arrays(golden, "policy"), released_parts.Balance()
    keys = [str(k) for k in z["reward_keys"]]
    for i, row in enumerate(z["reward_losses"]):
        trends = tuple(z["reward_trends"][i]) if i else ()
        found = balance.reward(dict(zip(keys, row, strict=True)), float(row.sum()), trends)
        np.testing.assert_allclose(found, z["reward"][i], rtol=1e-5)
        running = [balance.running[k] for k in keys]
        np.testing.assert_allclose(running, z["reward_ref_after"][i], rtol=1e-5)
