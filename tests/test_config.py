"""Configurations from dictionaries, files and options."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

import jfusion
from jfusion import config
from jfusion.commands.preprocess import Options
from jfusion.config import SystemConfig, setting
from jfusion.errors import UserError
from jfusion.systems import registry


@dataclass(frozen=True)
class Example(SystemConfig):
    """A setting of every kind."""

    RENAMED = {"speed": "rate", "gone": lambda value: {}}

    sampler: Literal["ddim", "ddpm"] = setting("ddim", "how it samples")
    strategy: Literal["MAX", "MEAN"] | None = setting(None, "a choice (default: the task's)")
    levels: Literal[3, 4] = setting(3, "a number of a few")
    blocks: tuple[int, int, int, int] = setting((4, 4, 4, 4), "a tuple of four")
    grid: tuple[int, int] | None = setting(None, "a size", ("HEIGHT", "WIDTH"))
    rate: float = setting(0.5, "a number")
    title: str = setting("", "a text (empty: none)")
    name: str | None = setting(None, "a text, none: nothing")
    crop: tuple[int, int] | None = setting((8, 8), "a size of its own; none: whole images", least=1)
    learned: bool | None = setting(None, "a switch (default: by name)")
    window: tuple[float, float] = setting((0.0, 1.0), "two numbers, default: all", ("LOW", "HIGH"))


def from_options(*words):
    """The settings that a command line gives, checked."""
    parser = argparse.ArgumentParser()
    config.add_options(parser, Example)
    return config.from_dict(Example, config.parsed(parser.parse_args(words), Example))


# ---- values ------------------------------------------------------------------------------------


def test_a_typo_names_the_nearest_setting():
    with pytest.raises(UserError, match="'hiden_dim'; did you mean 'hidden_dim'"):
        jfusion.create("film", hiden_dim=3)
    with pytest.raises(UserError, match="unknown system 'flim'; did you mean 'film'"):
        jfusion.create("flim")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epochs": "many"}, "epochs must be a whole number, not 'many'"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"token_size": [3]}, "token_size must be two whole numbers"),
        ({"token_size": 3}, "token_size must be two whole numbers"),
        ({"stretch": "yes"}, "normalize must be bool"),
        ({"learning_rate": None}, "learning_rate must be a number"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"epochs": float("inf")}, "epochs must be a whole number, not inf"),
        ({"learning_rate": 10**400}, "learning_rate must be a number"),
        ({"token_size": "64"}, "token_size must be two whole numbers, not '64'"),
    ],
)
def test_wrong_types_are_named(values, text):
    with pytest.raises(UserError, match=text):
        config.from_dict(registry.config_class("film"), values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sampler": "dimm"}, "Example: sampler must be ddim or ddpm, not 'dimm'; did you mean"),
        ({"sampler": "x"}, "sampler must be ddim or ddpm, not 'x'$"),
        ({"sampler": None}, "sampler must be ddim or ddpm, not None"),
        ({"strategy": "min"}, "strategy must be MAX or MEAN, not 'min'"),
        ({"strategy": "mean"}, "did you mean 'MEAN'"),
        ({"levels": 5}, "levels must be 3 or 4, not 5"),
        ({"blocks": (1, 2)}, "blocks must be four whole numbers"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"title": None}, "title must be str, not None"),
    ],
)
def test_a_choice_is_checked_in_a_dictionary_and_in_python(values, text):
    with pytest.raises(UserError, match=text):
        Example(**values)
    with pytest.raises(UserError, match=text.removeprefix("Example: ")):
        config.from_dict(Example, values)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("film", {"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ("film", {"hidden_dim": -8}, "hidden_dim must be 1 or more, not -8"),
        ("film", {"image2text_dim": 0}, "image2text_dim must be 1 or more, not 0"),
        ("film", {"text_dim": 0}, "text_dim must be 1 or more, not 0"),
        ("film", {"token_size": (16, 0)}, "token_size must be 1 or more, not 0"),
        ("film", {"decay_every": 0}, "decay_every must be 1 or more, not 0"),
        ("film", {"epochs": -1}, "epochs must be 1 or more, not -1"),
        ("film", {"learning_rate": -1}, "learning_rate must be above 0, not -1.0"),
        ("film", {"learning_rate": float("inf")}, "learning_rate must be a finite number, not inf"),
        ("film", {"decay": "nan"}, "decay must be a finite number, not nan"),
        ("film", {"crop": (-1, 8)}, "crop must be 1 or more, not -1"),
        ("average", {"crop": (0, 0)}, "crop must be 1 or more, not 0"),
        ("average", {"weight": float("nan")}, "weight must be a finite number, not nan"),
        ("cddfuse", {"phase2_epochs": 0}, "phase2_epochs must be 1 or more, not 0"),
        ("sfdfuse", {"drop_path": 1}, "drop_path must be below 1, not 1.0"),
        ("ddfm", {"image_size": 0}, "image_size must be 1 or more, not 0"),
        ("ddfm", {"num_heads": 0}, "num_heads must be 1 or more, not 0"),
        ("ddfm", {"num_head_channels": -2}, "num_head_channels must be -1 or more, not -2"),
        ("lfdt", {"blocks": (1, 1, 0, 1)}, "blocks must be 1 or more, not 0"),
        ("lfdt", {"ffn_factor": 0}, "ffn_factor must be above 0, not 0.0"),
        ("fccf", {"dropout": -0.1}, "dropout must be 0 or more, not -0.1"),
        ("laplacian", {"levels": 0}, "levels must be 1 or more, not 0"),
    ],
)
def test_numbers_have_bounds(name, values, text):
    with pytest.raises(UserError, match=f"^{name}: {text}$"):
        registry.config_class(name)(**values)


@pytest.mark.parametrize("name", ["num_head_channels", "num_heads_upsample"])
def test_heads_are_counted_or_left_to_another_setting(name):
    with pytest.raises(UserError, match="must be 1 or more, or -1"):
        registry.config_class("ddfm")(**{name: 0})


def test_a_configuration_made_in_python_is_what_a_file_gives():
    assert Example(blocks=[1, 2, 3, 4], rate=1) == Example(blocks=(1, 2, 3, 4), rate=1.0)
    assert config.from_dict(Example, {"levels": "4", "strategy": "none"}).levels == 4
    assert Example(grid="16x24").grid == (16, 24)


@pytest.mark.parametrize("name", list(registry.SYSTEMS))
def test_every_systems_settings_are_checked_in_python_too(name):
    cls = registry.config_class(name)
    assert cls is registry.config_class(name) and cls() == cls()
    assert all(f.metadata.get("help") for f in dataclasses.fields(cls))
    with pytest.raises(UserError, match="drop_last must be bool, not 'often'"):
        cls(drop_last="often")


def test_settings_of_older_versions_are_read():
    assert config.from_dict(Example, {"speed": 2, "gone": "x"}) == Example(rate=2.0)


def test_optional_values():
    assert config.from_dict(Options, {"out": "none"}).out is None
    assert config.from_dict(Options, {"out": "x.h5"}).out == "x.h5"


# ---- files -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":"http://x/y"} // c', {"a": "http://x/y"}),
        ('{"a": 1, // one\n "b": "// no comment"} // the end', {"a": 1, "b": "// no comment"}),
        (r'{"a": "\"//\\"} // c', {"a": '"//\\'}),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
    ],
)
def test_comments_in_json_end_where_strings_begin(tmp_path, text, value):
    (tmp_path / "x.json").write_text(text)
    assert config.read(tmp_path / "x.json") == value


@pytest.mark.parametrize(("text", "name"), [("1: 2", "1"), ("null: 2", "None")])
def test_the_names_in_a_file_are_texts(tmp_path, text, name):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=f"the name of a setting must be a text, not {name}$"):
        config.read(tmp_path / "x.yaml")


# ---- options -----------------------------------------------------------------------------------


def test_options_become_values():
    wanted = Example(sampler="ddpm", blocks=(1, 2, 3, 4), grid=(6, 8), rate=2.0, augment=True)
    words = "--sampler ddpm --blocks 1 2 3 4 --grid 6 8 --rate 2 --augment"
    assert from_options(*words.split()) == wanted
    assert from_options("--no-crop", "--no-learned") == Example(crop=None, learned=False)
    assert from_options() == Example() != from_options("--learned")
    with pytest.raises(UserError, match="--sampler must be ddim or ddpm, not 'dpm'"):
        from_options("--sampler", "dpm")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--crop", "0", "8"), "^--crop must be 1 or more, not 0$"),
        (("--rate", "inf"), "^--rate must be a finite number, not inf$"),
        (("--name", ""), "^--name must not be empty$"),
    ],
)
def test_a_value_that_makes_no_sense_names_its_option(words, text):
    with pytest.raises(UserError, match=text):
        from_options(*words)


def test_an_empty_text_is_given_where_it_means_something():
    assert from_options("--title", "").title == ""
    parser = argparse.ArgumentParser()
    config.add_options(parser, registry.config_class("ddfm"))
    namespace = parser.parse_args(["--channel-mult", ""])
    assert config.parsed(namespace, registry.config_class("ddfm")) == {"channel_mult": ""}


def test_help_fits_the_setting_and_names_a_default_once():
    parser = argparse.ArgumentParser()
    config.add_options(parser, Example)
    text = " ".join(parser.format_help().split())
    for part in (
        "--sampler {ddim,ddpm} how it samples (default: ddim)",
        "--strategy {MAX,MEAN} a choice (default: the task's) --levels",
        "--blocks N N N N a tuple of four (default: 4x4x4x4)",
        "--grid HEIGHT WIDTH a size (default: none)",
        "--window LOW HIGH two numbers, default: all",
        "--name X a text, none: nothing (default: none)",
        "leave out the incomplete batch at the end of an epoch (default: yes)",
    ):
        assert part in text


def test_no_configuration_imports_jittor():
    code = "import sys\nfrom jfusion.systems import registry\n"
    code += "for name in registry.SYSTEMS: registry.config_class(name)(), registry.title(name)\n"
    code += "print('jittor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
