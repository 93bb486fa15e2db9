"""Makes the runs in this folder with the code of commit cf2d833; README.md has the commands."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jfusion.fuse import fuse_pair, load_system
from jfusion.systems.names import SYSTEMS, config_class

from jfusion import checkpoint
from jfusion.data.h5 import PairFile
from jfusion.runtime import jt
from jfusion.train.loop import resume, train
from jfusion.train.options import Options

SIZE, PERIOD = (32, 40), 31
FILM = {"text_dim": 8, "hidden_dim": 16, "image2text_dim": 4, "token_size": (6, 8)}
UNET = {"num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "batch_size": 1}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # folder: (system, settings, options of the run)
    "film": ("film", {**FILM, "batch_size": 1, "stretch": False}, {"crop": (24, 32)}),
    "cddfuse": ("cddfuse", {"batch_size": 1, "phase1_epochs": 1}, {}),
    "diffusion": ("diffusion", {**UNET, "attention_resolutions": "32"}, {"crop": (16, 24)}),
    "lfdt": ("lfdt", {"width": 16, "blocks": (1, 1, 1, 1), "batch_size": 1}, {"crop": (32, 32)}),
    "fccf": ("fccf", {"width": 32, "timesteps": 3, "batch_size": 1}, {}),
}


def main(target: Path) -> None:
    """Writes everything but README.md."""
    for dataset in ("PET", "GFP"):
        write_pairs(target / "data" / f"{dataset}_train.h5", dataset)
    for folder, (system, settings, values) in RUNS.items():
        print(folder)
        make_run(target, folder, system, settings, values)
    defaults = {name: _plain(config_class(name)()) for name in (*SYSTEMS, "diffusion")}
    text = json.dumps(defaults, indent=1)
    (target / "configs.json").write_text(text + "\n")


def write_pairs(path: Path, dataset: str) -> None:
    """Two pairs, b in color, with paragraph features of width 8."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(dataset.encode()))
    with h5py.File(path, "w") as file:
        attributes = {"schema": 2, "task": "MIF", "dataset": dataset, "split": "train"}
        file.attrs.update(attributes | {"chroma": "b", "encoder": "tiny", "encoder_hash": "0"})
        for name in ("p", "q"):
            rgb = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            gray = rng.integers(0, 256, SIZE).astype(np.float32) / 255
            luma = (rgb @ np.array([0.299, 0.587, 0.114])).round().astype(np.float32) / 255
            for group, value in (
                ("imageA", gray[None]),
                ("imageB", luma[None]),
                ("text", rng.integers(-8, 9, (1, 3, 8)).astype(np.float32) / 8),
                ("rgbB", rgb),
            ):
                file.create_dataset(f"{group}/{name}", data=value, compression="gzip")


def make_run(
    target: Path, folder: str, system: str, settings: dict[str, Any], values: dict[str, Any]
) -> None:
    """A run of one epoch, whose checkpoint is kept, and what two further steps and fusing give.

    The checkpoint's arrays are replaced by short patterns, so that it is small when compressed.
    """
    source = target / "data" if system == "fccf" else target / "data" / "PET_train.h5"
    with tempfile.TemporaryDirectory() as temporary:
        options = Options(data=str(source), exp=temporary, seed=5, pictures=0, **values)
        run = train(system, settings, Options(**{**vars(options), "max_steps": 2}))
        run.record["options"].update(data=f"/data/{source.name}", exp="exp", max_steps=None)
        content = patterned({**run.latest(), **run.record})
        (run.folder / "config.json").write_text(json.dumps(run.record, indent=2) + "\n")
        (path,) = run.checkpoints()
        checkpoint.save(path, content)
        out = target / folder
        shutil.rmtree(out, ignore_errors=True)
        (out / "model").mkdir(parents=True)
        for name in ("config.json", "metrics.csv", "log.txt"):
            shutil.copy(run.folder / name, out / name)
        packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
        (out / "model" / f"{path.name}.xz").write_bytes(packed)
        expected: dict[str, Any] = {}
        if system != "diffusion":
            expected |= fused(path, None, {})
        else:  # its own noise schedule, in two steps
            expected |= fused(path, "ddfm", {"timestep_respacing": "2"})
        after = resume(run.folder, data=str(source), max_steps=4)
        with (after.folder / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) > 2]
        for key in rows[0]:
            expected[f"log/{key}"] = np.array([float(row[key] or "nan") for row in rows])
        np.savez_compressed(out / "expected.npz", **expected)


def fused(path: Path, system: str | None, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """The fused image of the first pair, as numbers and as it is written."""
    made = load_system(path, system, settings)
    pair = PairFile(path_of_pairs()).read("p")
    text = jt.array(pair.text[None]) if made.USES_TEXT else None
    own = made.of(pair.dataset)
    a, b = (jt.array(x[None]) for x in own.planes(pair))
    with jt.no_grad():
        values = own.fuse(a, b, text).numpy()
    return {"fused": values, "image": fuse_pair(made, pair)[0].shown}


def path_of_pairs() -> Path:
    """The pairs that are fused."""
    return Path(sys.argv[1]) / "data" / "PET_train.h5"


def patterned(content: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with each array replaced by a short pattern of about its mean and deviation."""
    model = {name: pattern(name, value) for name, value in content["model"].items()}
    optimizer = {}
    for group, state in content["optimizer"].items():
        optimizer[group] = {
            name: _moment(name, value) if isinstance(value, np.ndarray) else value
            for name, value in state.items()
        }
    return {**content, "model": model, "optimizer": optimizer}


def pattern(name: str, value: np.ndarray) -> np.ndarray:
    """Values that repeat; those of a vector around its mean, those of a matrix around 0."""
    wave = _wave(name, value.shape)
    if value.ndim < 2:
        return (np.round(value.mean(), 2) + 0.05 * wave).astype(np.float32)
    return (max(float(np.round(value.std(), 3)), 0.01) * wave).astype(np.float32)


def _moment(name: str, value: np.ndarray) -> np.ndarray:
    wave = _wave(name, value.shape) * 1e-3
    return (wave if name.startswith("mean.") else wave * wave + 1e-7).astype(np.float32)


def _wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return np.resize(rng.integers(-16, 17, PERIOD) / 9.5, shape)  # about 1 in deviation


def _plain(config: Any) -> dict[str, Any]:
    from jfusion.config import to_dict

    return to_dict(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
