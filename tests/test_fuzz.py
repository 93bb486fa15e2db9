"""Damaged files of every kind that is read: what comes out, or one line that names the file.

`python -m tests.test_fuzz KIND SECONDS` (see `KINDS`) tries as many as it can in that time.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from jfusion.data import image
from jfusion.data.h5 import PairFile
from jfusion.data.volume import read_volume
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.text.features import Encoder, read_features
from tests.text.test_features import encoder_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


# ---- whole files, and how each is read


def images() -> dict[str, bytes]:
    files = {}
    for ending in ("png", "jpg", "gif", "bmp", "webp", "ppm", "jp2", "tif"):
        with io.BytesIO() as stream:
            Image.fromarray(PIXELS).save(
                stream, {"jpg": "jpeg", "jp2": "jpeg2000", "tif": "tiff"}.get(ending, ending)
            )
            files[f"x.{ending}"] = stream.getvalue()
    for name, pixels in (("deep", np.uint16), ("float", np.float32)):
        with io.BytesIO() as stream:
            tifffile.imwrite(stream, PIXELS[..., 0].astype(pixels))
            files[f"{name}.tif"] = stream.getvalue()
    return files


def read_image(path: Path) -> None:
    reader = image.Reader("auto", 1)
    reader.prepare([path], "images")
    assert reader.rgb(path, "images").dtype == np.uint8


def pairs() -> dict[str, bytes]:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["dataset"], file.attrs["split"] = "Set", "train"
        for name in ("one", "two"):
            for group in ("imageA", "imageB"):
                file[f"{group}/{name}"] = PIXELS[None, ..., 0].astype(np.float32) / 255
            file[f"text/{name}"] = np.zeros((1, 3, 4), np.float32)
    return {"x.h5": stream.getvalue()}


def read_pairs(path: Path) -> None:
    data = PairFile(path)
    for name in data.names:
        pair = data.read(name)
        assert pair.a.shape == pair.b.shape and np.isfinite(pair.a).all()


def features() -> dict[str, bytes]:
    stream = io.BytesIO()
    np.save(stream, np.zeros((1, 3, 4), np.float32))
    return {"x.npy": stream.getvalue()}


def volumes() -> dict[str, bytes]:
    files, values = {}, np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    with tempfile.TemporaryDirectory() as work:
        for name in ("x.mha", "packed.mha", "x.nii", "x.nii.gz"):
            path = Path(work, name)
            if ".nii" in name:
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
            else:
                SimpleITK.WriteImage(
                    SimpleITK.GetImageFromArray(values), str(path), "packed" in name
                )
            files[name] = path.read_bytes()
    dicom = Path(__file__).parent / "cases/dicom"
    return {**files, **{name: (dicom / name).read_bytes() for name in ("mono1.dcm", "rgb.dcm")}}


def read_one_volume(path: Path) -> None:
    assert np.isfinite(read_volume(path, nan="lowest")).all()


def read_run(path: Path) -> None:
    run = Run.open(path.parent)
    assert isinstance(run.record["system"], str)
    run.latest()


def runs() -> dict[str, bytes]:
    record = {"system": "film", "config": {"epochs": 2}, "options": {"data": "x.h5"}}
    return {"config.json": json.dumps(record).encode()}


def encoders() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as work:
        folder = encoder_folder(Path(work) / "tiny")
        names = ("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors")
        return {name: (folder / name).read_bytes() for name in names}


def read_encoder(path: Path) -> None:
    encoder = Encoder(str(path.parent))
    assert len(encoder.tokens("a red car.")) >= 2


# Each kind: its whole files, and how one of them is read; TOGETHER: in a folder with the others.
KINDS: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path], None]]] = {
    "images": (images, read_image),
    "pairs": (pairs, read_pairs),
    "features": (features, read_features),
    "volumes": (volumes, read_one_volume),
    "runs": (runs, read_run),
    "encoders": (encoders, read_encoder),
}
TOGETHER = ("encoders",)


# ---- damage


def damaged(raw: bytes, rng: np.random.Generator) -> bytes:
    """A file cut at its end, or with a few bytes changed, dropped or inserted."""
    if rng.random() < 0.2:
        return raw[: rng.integers(0, len(raw))]
    broken = bytearray(raw)
    for _ in range(rng.integers(1, 9)):
        place = int(rng.integers(0, max(len(broken), 1)))
        kind, new = rng.integers(0, 3), rng.integers(0, 256, rng.integers(1, 10), dtype=np.uint8)
        if kind == 0:
            broken[place : place + 1] = bytes(new[:1])
        elif kind == 1:
            del broken[place : place + len(new)]
        else:
            broken[place:place] = bytes(new)
    return bytes(broken)


def attack(kind: str, folder: Path, seed: int, whole: dict[str, bytes]) -> bool:
    """Reads one damaged file; returns whether it was refused. Any error but a UserError passes on."""
    rng = np.random.default_rng([seed, len(kind)])
    name = sorted(whole)[rng.integers(len(whole))]
    for each in whole if kind in TOGETHER else ():
        (folder / each).write_bytes(whole[each])
    path = folder / name
    path.write_bytes(damaged(whole[name], rng))
    try:
        KINDS[kind][1](path)
    except UserError as error:
        text = str(error)
        assert text.isprintable() and str(folder) in text, repr(text)
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, tmp_path):
    whole = KINDS[kind][0]()
    refused = [attack(kind, tmp_path, seed, whole) for seed in range(60)]
    assert any(refused)


def main(kind: str, seconds: float) -> None:
    """Damages files for so many seconds; prints the counts and every error that is no UserError."""
    whole, end, seed = KINDS[kind][0](), time.monotonic() + seconds, 1000
    refused = slowest = 0
    with tempfile.TemporaryDirectory() as work:
        while time.monotonic() < end:
            start = time.monotonic()
            try:
                refused += attack(kind, Path(work), seed, whole)
            except Exception as error:
                print(f"{kind}, seed {seed}: {type(error).__name__}: {error}", flush=True)
            slowest, seed = max(slowest, time.monotonic() - start), seed + 1
    print(f"{kind}: {seed - 1000} files, {refused} refused, slowest {slowest:.3f} s")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
