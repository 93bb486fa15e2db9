"""`jfusion fuse`, and DDFM with a small diffusion model that is trained here."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import jfusion
from jfusion import checkpoint
from jfusion.cli import main
from jfusion.commands.preprocess import Options as PreprocessOptions
from jfusion.commands.preprocess import preprocess
from jfusion.config import to_dict
from jfusion.data import color, image
from jfusion.data.folder import ImageFolder
from jfusion.errors import UserError
from tests.commands.test_preprocess import make_dataset, random_pair

SMALL = [
    *("--variant", "small", "--channel-mult", "1,2", "--image-size", "16"),
    *("--attention-resolutions", "8", "--batch-size", "4"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Smooth images of two sizes, one of them gray."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(4):
        small = rng.integers(0, 256, (4, 5) if i == 3 else (4, 5, 3), np.uint8)
        Image.fromarray(small).resize((40 + 8 * i, 32), Image.Resampling.BICUBIC).save(
            folder / f"{i}.png"
        )
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    """The folder of runs that holds one trained model."""
    out = tmp_path_factory.mktemp("runs")
    common = ["--data", str(photographs), "--exp", str(out), "--crop", "16", "16"]
    assert (
        main(["train", "ddfm", *common, *SMALL, "--max-steps", "40", "--learning-rate", "2e-3"])
        == 0
    )
    return out


def pair_folders(tmp_path, names=("x",), size=(21, 26)):
    for i, name in enumerate(names):
        for folder, pixels in zip("ab", random_pair(i, size), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return ["--a", str(tmp_path / "a"), "--b", str(tmp_path / "b"), "--out", str(tmp_path / "out")]


def test_a_model_of_images_learns(run):
    log = next(run.glob("*/metrics.csv")).read_text().splitlines()
    column = log[0].split(",").index("total")
    losses = [float(line.split(",")[column]) for line in log[1:]]
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.6 * np.mean(losses[:4])
    assert list(run.glob("*/pic_fusion/ckpt_1/*.png"))


def test_a_resumed_run_continues_exactly(run, photographs, tmp_path):
    common = ["--data", str(photographs), "--exp", str(tmp_path), "--crop", "16", "16"]
    settings = [*SMALL, "--learning-rate", "2e-3"]
    assert main(["train", "ddfm", *common, *settings, "--max-steps", "23"]) == 0
    (folder,) = tmp_path.iterdir()
    assert main(["train", "--resume", str(folder), "--max-steps", "40"]) == 0
    models = [
        checkpoint.load(max(r.glob("model/*.pkl"), key=lambda p: int(p.stem.rsplit("_", 1)[1])))[
            "model"
        ]
        for r in (folder, next(run.iterdir()))
    ]
    for name, value in models[0].items():
        np.testing.assert_array_equal(value, models[1][name], err_msg=name)


def test_fuse_records_every_step_of_every_sample(run, tmp_path, capsys):
    where = pair_folders(tmp_path, ("x", "y"))
    options = ["--inference-steps", "4", "--samples", "2", "--record", "gif", "--seed", "5"]
    assert main(["fuse", "--system", "ddfm", "--weights", str(run), *where, *options]) == 0
    out = tmp_path / "out"
    assert {p.name for p in out.glob("*.png")} == {"x_0.png", "x_1.png", "y_0.png", "y_1.png"}
    fused = image.read_rgb(out / "x_0.png")
    assert fused.shape == (21, 26, 3) and color.is_color(fused)
    for name in ("x", "x_1", "y"):
        assert {p.name for p in (out / "steps" / name).iterdir()} == {
            f"x_{k:04d}.png" for k in range(4)
        }
        assert Image.open(out / f"steps/{name}.gif").n_frames == 4
    alone = [*where[:-1], str(tmp_path / "alone"), *options[:2], "--seed", "6"]
    assert main(["fuse", "--system", "ddfm", "--weights", str(run), *alone]) == 0
    one = image.read_rgb(tmp_path / "alone/x.png").astype(int)
    assert abs(one - image.read_rgb(out / "x_1.png")).max() <= 1  # sample 1 of seed 5
    assert "4 fused" in capsys.readouterr().out


def test_ddfm_is_tested_like_any_system(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, {"one": random_pair(3, (20, 25))}, dataset="RoadScene")
    data = preprocess(
        PreprocessOptions(root=".", dataset="RoadScene", split="test", text="zeros")
    ).path
    arguments = ["test", "ddfm", "--weights", str(run), "--data", str(data), "--out", "out"]
    assert main([*arguments, "--inference-steps", "3", "--record", "webp"]) == 0
    (folder,) = tmp_path.glob("out/*_ddfm_*/RoadScene")
    assert (folder / "Gray/one.png").is_file() and (folder / "steps/one.webp").is_file()
    assert "published" in capsys.readouterr().out


def test_two_files_and_a_trained_film(tmp_path):
    small = {"text_dim": 8, "hidden_dim": 16, "image2text_dim": 4, "token_size": (6, 8)}
    film = jfusion.create("film", **small)
    weights = tmp_path / "film.pkl"
    content = {"model": film.state(), "system": "film", "config": to_dict(film.config)}
    checkpoint.save(weights, content)
    pair_folders(tmp_path)
    files = ["--a", str(tmp_path / "a/x.png"), "--b", str(tmp_path / "b/x.png")]
    (tmp_path / "text").mkdir()
    np.save(tmp_path / "text/x.npy", np.ones((1, 3, small["text_dim"]), np.float32))
    out = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["fuse", *files, *out, "--text", str(tmp_path / "text")]) == 0
    assert image.read_rgb(tmp_path / "out/x.png").shape == (21, 26, 3)


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--weights", "nowhere"], "openai/guided-diffusion"),
        (["--samples", "0"], "--samples"),
        (["--record", "avi"], "gif, webp, png"),
        (["--inference-steps", "2000"], "cannot take 2000"),
        (["--sampler", "dpm"], "ddim or ddpm"),
        (["--task", "IVX"], "IVF"),
    ],
)
def test_mistakes_get_one_line(run, tmp_path, capsys, extra, words):
    where = pair_folders(tmp_path)
    weights = [] if "--weights" in extra else ["--weights", str(run)]
    assert main(["fuse", "--system", "ddfm", *weights, *where, *extra]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_pairs_that_do_not_match_are_named(run, tmp_path, capsys):
    where = pair_folders(tmp_path, ("x", "y"))
    (tmp_path / "b/y.png").unlink()
    assert main(["fuse", "--system", "ddfm", "--weights", str(run), *where]) == 2
    assert "without a partner" in capsys.readouterr().err
    Image.new("L", (5, 7)).save(tmp_path / "b/y.png")
    assert (
        main(["fuse", "--system", "ddfm", "--weights", str(run), *where, "--inference-steps", "1"])
        == 2
    )
    assert "another aspect" in capsys.readouterr().err


def test_what_is_not_trained_or_sampled_says_so(photographs, run, tmp_path, capsys):
    common = ["--data", str(photographs), "--exp", str(tmp_path)]
    assert main(["train", "ddfm", *common, "--learn-sigma", "--variant", "small"]) == 2
    assert "--variant small" in capsys.readouterr().err
    assert main(["train", "cddfuse", *common]) == 2
    assert "is trained on pairs" in capsys.readouterr().err
    assert main(["train", "average", *common]) == 2
    assert "average is not trained" in capsys.readouterr().err


def test_the_checkpoints_own_system_fuses_and_has_its_settings(run, tmp_path, capsys):
    where = pair_folders(tmp_path)
    options = ["--inference-steps", "2", "--samples", "2"]
    assert main(["fuse", "--weights", str(run), *where, *options]) == 0
    assert "2 fused" in capsys.readouterr().out


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("system", ["ddfm", "fccf"])
def test_their_kernels_can_be_compiled_ahead(system, capsys):
    assert main(["doctor", "--warm", system]) == 0
    assert "compiled\n" in capsys.readouterr().out
