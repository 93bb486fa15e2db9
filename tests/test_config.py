"""Configurations from dictionaries, files and options."""

from __future__ import annotations

import dataclasses

import pytest

import jfusion
from jfusion import config
from jfusion.commands.preprocess import Options
from jfusion.errors import UserError
from jfusion.systems import registry


@pytest.mark.parametrize("name", list(registry.SYSTEMS))
def test_settings_are_read_without_importing_the_system(name):
    light, full = registry.config_class(name), registry.system_class(name).Config
    described = [
        [(f.name, f.default, str(f.type)) for f in dataclasses.fields(c)] for c in (light, full)
    ]
    assert described[0] == described[1]
    assert all(f.metadata.get("help") for f in dataclasses.fields(light))


def test_a_typo_names_the_nearest_setting():
    with pytest.raises(UserError, match="'hiden_dim'; did you mean 'hidden_dim'"):
        jfusion.create("film", hiden_dim=3)
    with pytest.raises(UserError, match="unknown system 'flim'; did you mean 'film'"):
        jfusion.create("flim")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epochs": "many"}, "epochs must be int, not 'many'"),
        ({"epochs": 1.5}, "epochs must be int"),
        ({"token_size": [3]}, "token_size must be intxint"),
        ({"token_size": 3}, "token_size must be intxint"),
        ({"stretch": "yes"}, "stretch must be bool"),
        ({"learning_rate": None}, "learning_rate must be float"),
    ],
)
def test_wrong_types_are_named(values, text):
    with pytest.raises(UserError, match=text):
        config.from_dict(registry.config_class("film"), values)


def test_files_and_dictionaries_round_trip(tmp_path):
    cls = registry.config_class("film")
    wanted = cls(token_size=(6, 8), learning_rate=1e-3, epochs=3, hidden_dim=16)
    assert config.from_dict(cls, config.to_dict(wanted)) == wanted
    (tmp_path / "x.yaml").write_text(
        "token_size: [6, 8]\nlearning_rate: 0.001\nepochs: 3\nhidden_dim: 16\n"
    )
    assert config.from_dict(cls, config.read(tmp_path / "x.yaml")) == wanted
    (tmp_path / "x.json").write_text("{broken")
    with pytest.raises(UserError, match=r"x\.json is not valid"):
        config.read(tmp_path / "x.json")


def test_optional_values():
    assert config.from_dict(Options, {"out": "none"}).out is None
    assert config.from_dict(Options, {"out": "x.h5"}).out == "x.h5"
