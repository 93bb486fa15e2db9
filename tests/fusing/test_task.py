"""Which task images are of, where nobody says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jfusion.data import image
from jfusion.errors import UserError
from jfusion.fusing import task


def scene(channels=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = image.resample(rng.integers(0, 256, (6, 8, 3), np.uint8), 60, 80)
    return pixels if channels == 3 else np.repeat(pixels[..., :1], 3, 2)


def test_one_gray_and_one_in_color_are_infrared_and_visible():
    assert task.guess(scene(1), scene(3, 1))[::2] == ("IVF", False)
    assert task.guess(scene(3, 1), scene(1))[::2] == ("IVF", True)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_images_of_one_camera_are_exposures_or_focuses(channels):
    rgb = scene(channels)
    assert task.guess(rgb, rgb // 2).task == "MEF"
    blurred = image.resample(image.resample(rgb, 20, 27), 60, 80)
    assert task.guess(rgb, blurred).task == "MFF"


def test_other_gray_images_are_infrared_and_visible():
    assert task.guess(scene(1), scene(1, 1)).task == "IVF"


def test_a_jpeg_of_a_gray_image_is_gray():
    noise = np.random.default_rng(0).integers(0, 3, (60, 80, 3), np.uint8)
    assert task.guess(np.minimum(scene(1), 250) + noise, scene(3, 1)).task == "IVF"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("RoadScene/IR", "RoadScene/VI", ("IVF", False)),
        ("vi", "ir", ("IVF", True)),
        ("MRI", "PET", ("MIF", False)),
        ("over", "under", ("MEF", False)),
        ("far", "near", ("MFF", True)),
        ("nir", "rgb", ("NIR", False)),
        ("ir", "ir", None),
        ("left", "right", None),
    ],
)
def test_the_names_of_folders_say_it(a, b, expected):
    found = task.by_names((Path(a, "1.png"), Path(b, "1.png")), 1)
    assert (found and found[::2]) == expected


def test_options_say_it():
    assert task.by_option("ir", "vi") == "IVF" and task.by_option("mri", "b") == "MIF"
    assert task.by_option("a", "b") is None and task.by_option("", "") is None
    with pytest.raises(UserError, match="--ir is of IVF and --pet of MIF"):
        task.by_option("ir", "pet")
