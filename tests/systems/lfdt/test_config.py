"""LFDT-Fusion's settings, the authors' JSON files among them."""

from __future__ import annotations

import json

import pytest

from jfusion import config
from jfusion.errors import UserError
from jfusion.systems.lfdt.config import Config

TRAIN = {
    "name": "fusion",
    "gpu_ids": [2, 3],
    "path": {"resume_state": None},
    "datasets": {"centered": True, "train": {"crop_size": 128, "batch_size": 2}},
    "model": {
        "fusion_task": "VI-NIR",
        "Unet": {"in_ch": 1, "out_ch": 1, "LDM_embed_dim": 8, "LDM_ch": 32, "ch_mult": [1, 2, 4]},
        "Fusion": {
            "sample_selected": "Heun",
            "model_selected": "DFT",
            "mode": "MEAN",
            "inference_steps": 4,
            "num_train_timesteps": 500,
            "channel_emdin": 8,
            "num_blocks": [2, 1, 1, 2],
            "heads": [1, 2, 4, 8],
            "feat_channels": [32, 64, 128, 256],
        },
    },
    "train": {
        "n_epoch": 7,
        "scheduler": {"periods": [15, 15, 15, 16], "eta_mins": [0.0003, 1e-5, 1e-5, 1e-5]},
        "optimizer": {"type": "AdamW", "lr": 2e-4, "weight_decay": 1e-3},
    },
}


def test_the_authors_files_are_read(tmp_path):
    lines = json.dumps(TRAIN, indent=1).splitlines()
    (tmp_path / "train.json").write_text("\n".join(f"{x} // a remark, with {{" for x in lines))
    values = Config.from_official(config.read(tmp_path / "train.json"), "train.json")
    assert "weights" not in values
    assert config.from_dict(Config, values) == Config(
        crop=(128, 128),
        task="VI-NIR",
        strategy="MEAN",
        sampler="Heun",
        inference_steps=4,
        train_timesteps=500,
        width=32,
        blocks=(2, 1, 1, 2),
        epochs=7,
        batch_size=2,
        learning_rate=2e-4,
        weight_decay=1e-3,
    )


def test_a_test_file_names_its_weights():
    values = {**TRAIN, "path": {"resume_state": "./check/NIR/NIR.pth"}}
    assert Config.from_official(values, "x")["weights"] == "./check/NIR/NIR.pth"


@pytest.mark.parametrize(
    "part, key, value, words",
    [
        ("Fusion", "heads", [1, 1, 1, 1], "heads"),
        ("Fusion", "feat_channels", [48], "feat_channels"),
        ("Unet", "ch_mult", [1, 2], "ch_mult"),
    ],
)
def test_a_network_that_is_not_the_published_one_is_refused(part, key, value, words):
    model = {**TRAIN["model"], part: {**TRAIN["model"][part], key: value}}
    with pytest.raises(UserError, match=rf"x\.json: {words}"):
        Config.from_official({**TRAIN, "model": model}, "x.json")


@pytest.mark.parametrize(
    "task, kind, target, order, expansion",
    [
        ("VI-IR", "IVF", "MAX", "ba", 4.0),
        ("VI-NIR", "NIR", "MEAN", "ba", 4.0),
        ("MEF", "MEF", "MEAN", "ab", 2.66),
        ("MFF", "MFF", "MAX", "ba", 4.0),
        ("PET-MRI", "MIF", "MAX", "ba", 4.0),
        ("PIF", "PIF", "MAX", "ba", 4.0),
    ],
)
def test_what_a_task_decides(task, kind, target, order, expansion):
    for name in (task, kind):
        c = Config(task=name)
        assert (c.kind, c.target, c.order, c.ffn_expansion) == (kind, target, order, expansion)
    assert Config(task=task, input_order="ab").order == "ab"


def test_four_levels_are_read_from_the_authors_file():
    model = {**TRAIN["model"], "Unet": {**TRAIN["model"]["Unet"], "ch_mult": [1, 2, 4, 8]}}
    settings = Config.from_official({**TRAIN, "model": model}, "x.json")
    made = config.from_dict(Config, {k: v for k, v in settings.items() if k != "weights"})
    assert made.multipliers == (1, 2, 4, 8) and made.multiple == 16 and made.smallest_side == 49
    assert (Config().multipliers, Config().multiple, Config().smallest_side) == ((1, 2, 4), 8, 25)


@pytest.mark.parametrize("levels", ["1,2", "1,2,4,8,16", "1,2,x", "1,0,2", ""])
def test_other_levels_are_refused(levels):
    with pytest.raises(UserError, match="channel_mult"):
        Config(channel_mult=levels)


def test_settings_of_older_versions_are_read():
    old = {"keep_scaled_state": False, "deis_rescale": "off", "save": "linear"}
    made = config.from_dict(Config, old)
    assert (made.sigma_state, made.deis_rescale, made.output_range) == ("paper", "paper", "full")
    old = {"keep_scaled_state": True, "deis_rescale": "batch", "save": "reference"}
    assert config.from_dict(Config, old) == Config()
    assert config.from_dict(Config, {"deis_rescale": "image"}).deis_rescale == "image"


def test_the_data_set_decides_the_task():
    assert Config.for_dataset({"task": "MEF"}) == {"task": "MEF"}
    assert Config.for_dataset({"task": "VI-NIR", "dataset": "x"}) == {"task": "VI-NIR"}
    assert Config.for_dataset({"task": "other"}) == Config.for_dataset({}) == {}
