"""Demo pairs made from the photographs in scikit-image's wheel; the photographs are the truth.

Multi-focus: a photograph is blurred where it is far (near focus) or near (far focus), by its
disparity map where it has one, otherwise by an assumed depth: the lower in the image, the nearer.
Multi-exposure: it is over- and under-exposed by 1.5 stops through a camera's response curve.
Infrared and visible, simulated: at night, next to a smooth gray image of how warm its colors are. Medical,
simulated: the Shepp-Logan phantom, next to spots of color as a tracer would make them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.data import color, image
from jfusion.data.layout import TASKS
from jfusion.errors import UserError
from jfusion.files import write_text

WIDTH = 320
STOPS = 1.5

# name, split, and what the photograph shows
PHOTOGRAPHS = {
    "astronaut": (
        "train",
        "A smiling astronaut in an orange suit stands before a flag and a model rocket.",
    ),
    "chelsea": (
        "train",
        "A ginger cat with green eyes looks past the camera; its whiskers stand out.",
    ),
    "coffee": (
        "train",
        "An espresso in a white cup with a spoon on its saucer, on a wooden table.",
    ),
    "rocket": (
        "train",
        "A rocket on its pad under a blue sky, with floodlights and service towers.",
    ),
    "retina": ("train", "The back of an eye: a bright optic disc, from which red vessels spread."),
    "hubble_deep_field": (
        "train",
        "Galaxies of many shapes and colors scattered over a black sky.",
    ),
    "motorcycle": (
        "test",
        "A motorcycle in a workshop, with shelves and a bench full of tools behind.",
    ),
    "immunohistochemistry": ("test", "A stained tissue section: brown cells among blue nuclei."),
}
ENDINGS = {
    "MFF": "One photograph has the near parts in focus, the other the far parts.",
    "MEF": "One photograph is over-exposed and keeps the shadows, the other is under-exposed and keeps "
    "the bright parts.",
    "IVF": "The infrared image shows what is warm, the visible image the same scene at night.",
    "MIF": "One image shows the structure of a head, the other where a tracer gathers.",
}
PHANTOM = {"phantom": ("test", "A slice of a simulated head.")}
NIGHT = 3.0  # stops of the visible image in the dark


def make(root: Path, task: str, dataset: str = "Demo") -> None:
    """Writes the pairs of `task`, the truth (folder TRUTH), the lists and the paragraphs below `root`.

    task: one of `ENDINGS`; UserError for any other, and without scikit-image.
    """
    if task not in ENDINGS:
        raise UserError(f"demo pairs exist for {', '.join(ENDINGS)}, not for {task!r}")
    folders = TASKS[task]
    base = root / "Image" / task / dataset
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name, (split, text) in (PHANTOM if task == "MIF" else PHOTOGRAPHS).items():
        sharp, depth = _photograph(name)
        first, second = _pair(task, sharp, depth)
        files = ((folders.folder_a, first), (folders.folder_b, second), ("TRUTH", sharp))
        for folder, pixels in files:
            image.write(base / folder / f"{name}.png", pixels)
        write_text(
            root / "Text" / task / dataset / f"{name}.txt",
            f"{text} {ENDINGS[task]}\n",
            "the paragraph",
        )
        lists[split].append(f"{name}.png\n")
    for split, lines in lists.items():
        write_text(base / f"{split}.txt", "".join(lines), "the list")


def pair(task: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The two images of one photograph, (H, 320, 3) or (H, 320) uint8, without any file.

    task: one of `ENDINGS`; name: one of `PHOTOGRAPHS`, or "phantom" for MIF. Raises UserError without
    scikit-image.
    """
    return _pair(task, *_photograph(name))


def _pair(task: str, sharp: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two images of a task that are made from a photograph."""
    if task == "MFF":
        return _focus(sharp, depth)
    if task == "MEF":
        return _exposure(sharp)
    return _night(sharp) if task == "IVF" else _tracer(sharp)


def _photograph(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (H, 320, 3) uint8, and its depth (H, 320) in [0, 1], 1 nearest."""
    try:
        from skimage import data
    except ImportError:
        raise UserError(
            "the demo's photographs come with scikit-image; pip install scikit-image"
        ) from None
    from PIL import Image

    if name == "motorcycle":
        pixels, _, depth = data.stereo_motorcycle()
        depth = _filled(depth)
        depth = (depth - depth.min()) / np.ptp(depth)
    else:
        pixels = _phantom() if name in PHANTOM else getattr(data, name)()
        depth = np.repeat(np.linspace(0, 1, pixels.shape[0])[:, None], pixels.shape[1], 1)
    height = round(pixels.shape[0] * WIDTH / pixels.shape[1])
    small = Image.fromarray(pixels[..., :3]).resize((WIDTH, height), Image.Resampling.LANCZOS)
    return np.asarray(small), image.resize(depth.astype(np.float32), height, WIDTH)


def _filled(disparity: np.ndarray) -> np.ndarray:
    """The disparity with its holes (infinite values) filled from the nearest pixel that has one."""
    from scipy.ndimage import distance_transform_edt, median_filter

    nearest = distance_transform_edt(
        ~np.isfinite(disparity), return_distances=False, return_indices=True
    )
    return median_filter(disparity[tuple(nearest)], 9)


def _focus(sharp: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image in near focus and in far focus: blur grows with the distance from the focus."""
    from scipy.ndimage import gaussian_filter

    levels = [gaussian_filter(sharp.astype(np.float32), (s, s, 0)) for s in (0, 1, 2, 3)]

    def blurred(amount: np.ndarray) -> np.ndarray:
        place = np.clip(amount, 0, 1) * (len(levels) - 1)
        out = np.zeros(sharp.shape, np.float32)
        for i, level in enumerate(levels):
            out += level * np.clip(1 - np.abs(place - i), 0, None)[..., None]
        return np.round(out).astype(np.uint8)

    middle = float(np.median(depth))
    return blurred((middle - depth) * 3), blurred((depth - middle) * 3)


def _exposure(scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scene over- and under-exposed, through a response curve of gamma 2.2."""
    linear = (scene.astype(np.float64) / 255) ** 2.2
    exposed = (np.clip(linear * 2.0**stops, 0, 1) ** (1 / 2.2) for stops in (STOPS, -STOPS))
    over, under = (np.round(x * 255).astype(np.uint8) for x in exposed)
    return over, under


def _night(scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A simulated infrared image, gray and smooth, and the scene in the dark."""
    from scipy.ndimage import gaussian_filter

    rgb = scene.astype(np.float32)
    warm = gaussian_filter(rgb[..., 0] - rgb[..., 2] + 0.3 * rgb.mean(2), 1.5)
    low, high = np.percentile(warm, (1, 99))
    infrared = np.round(255 * np.clip((warm - low) / (high - low), 0, 1)).astype(np.uint8)
    dark = ((scene / 255.0) ** 2.2 * 2.0**-NIGHT) ** (1 / 2.2)
    return np.repeat(infrared[..., None], 3, 2), np.round(dark * 255).astype(np.uint8)


def _tracer(structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The structure as it is, and spots of color inside it."""
    h, w = structure.shape[:2]
    y, x = np.mgrid[:h, :w]
    places = ((0.35, 0.4, 0.06), (0.4, 0.62, 0.05), (0.66, 0.5, 0.09))
    spots = (
        np.exp(-((y / h - r) ** 2 + (x / w - c) ** 2) / (2 * size**2)) for r, c, size in places
    )
    amount = np.clip(sum(spots), 0, 1) * (structure[..., 0] > 0)
    return structure, color.jet(np.round(amount * 255).astype(np.uint8), "black")


def _phantom() -> np.ndarray:
    """The Shepp-Logan phantom, (400, 400, 3) uint8; its soft tissue is spread over the lower grays."""
    from skimage import data

    levels = np.clip(np.asarray(data.shepp_logan_phantom(), np.float64), 0, 1) ** 0.6
    return np.repeat(np.round(levels * 255).astype(np.uint8)[..., None], 3, 2)
