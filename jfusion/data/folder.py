"""Training data at a path: one H5 file, a folder of them, or a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jfusion.data import image
from jfusion.data.h5 import Pair, PairFile
from jfusion.data.names import list_files
from jfusion.errors import UserError, missing


class ImageFolder:
    """The images directly in a folder, sorted by name, for models of single images.

    It has the attributes and methods of a `PairFile`; a pair's a and b are the same RGB image
    (3, H, W) float32 in [0, 1]. Raises UserError when the folder holds no image.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.dataset = self.path.resolve().name
        self.attributes: dict[str, Any] = {"dataset": self.dataset}
        self._files = list_files(self.path, image.is_image_name, "image")
        self.names = sorted(self._files, key=str.encode)
        self._reader = image.Reader()
        self._reader.prepare(self._files.values(), "images")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        return self.read(self.names[index])

    @property
    def size(self) -> int:
        """The bytes of the images' files."""
        return sum(file.stat().st_size for file in self._files.values())

    def read(self, name: str) -> Pair:
        """The image called `name`. Raises UserError when it cannot be read."""
        rgb = self._reader.rgb(self._files[name], "images").astype(np.float32).transpose(2, 0, 1)
        pixels = np.ascontiguousarray(rgb / np.float32(255))
        return Pair(name, pixels, pixels)


def training_data(path: str | Path) -> list[PairFile | ImageFolder]:
    """The training sets at `path`: one H5 file, those of a folder of H5 files, or a folder of images.

    Of H5 files in a folder, those whose split (or else whose name) contains "train" are used. Raises
    UserError when there is none.
    """
    path = Path(path)
    if not path.exists() and path.suffix != ".h5":
        raise missing("folder", path)
    if not path.is_dir():
        return [PairFile(path)]
    files = [PairFile(p) for p in sorted(path.glob("*.h5"))]
    if not files:
        return [ImageFolder(path)]
    train = [f for f in files if "train" in str(f.attributes.get("split", f.path.stem))]
    if not train:
        raise UserError(f"{path} holds H5 files, and none is a training set")
    return train
