"""Makes training sets in the layout of VLFDataset/README.md: real pairs, and pairs made from photographs.

ivf  RoadScene's training pairs and frames of M3SVD, as links.
mff  photographs, out of focus by a mask or a depth map: NEAR, FAR, and the photograph as TRUTH.
mef  photographs through camera curves of two gains: OVER, UNDER, and the photograph as TRUTH.

    python tools/make_training_pairs.py ivf --source VLFDataset --video M3SVD --out data
    python tools/make_training_pairs.py mff --photos FOLDER_OR_FILE... --out data

Everything random comes from --seed. A quarter of the samples have the neutral paragraph of their
task, so that a network trained on them also serves pairs without a description; for them use the
features of that paragraph.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage, signal

NEUTRAL = {
    "IVF": (
        "One scene is seen by an infrared camera and by a camera for visible light. The infrared "
        "image shows warm objects such as people, vehicles and buildings as bright shapes, even in "
        "darkness, haze or glare. The visible image shows textures, signs, plants, the road and "
        "the sky in fine detail and with natural brightness."
    ),
    "MFF": (
        "One scene is photographed twice from the same place with a shallow depth of field. In the "
        "first photograph the near objects are sharp and the background is out of focus. In the "
        "second the background is sharp and the near objects are out of focus. Together they show "
        "every part of the scene with crisp edges and fine texture."
    ),
    "MEF": (
        "One scene is photographed twice from the same place with different exposures. In the first "
        "photograph dark parts are well lit and the brightest parts are washed out. In the second "
        "bright parts such as the sky and lamps keep their detail and dark parts are nearly black. "
        "Together they show every part of the scene with good contrast."
    ),
}
# what follows the description of a photograph
ENDINGS = {
    "MFF": (
        "The first photograph is focused on what is near and the rest is blurred; in the second "
        "what is far is sharp and what is near is blurred."
    ),
    "MEF": (
        "The first photograph is exposed long, with washed-out highlights; the second is exposed "
        "briefly, with detail in the highlights and shadows that are nearly black."
    ),
}
FOLDERS = {"IVF": ("IR", "VI"), "MFF": ("NEAR", "FAR"), "MEF": ("OVER", "UNDER")}
HELD_OUT = ("0115_1847", "0114_1611")  # sequences of M3SVD that are only for looking
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
WINDOW = (288, 384)  # the largest part of a photograph that becomes a pair
GAMMA = 2.2
# scikit-image's samples have no paragraph of their own
DESCRIPTIONS = {
    "astronaut": "A smiling woman in an orange space suit in front of a flag and a model shuttle.",
    "brick": "A wall of rough bricks.",
    "camera": "A man in a coat looks into a film camera on a tripod on a lawn.",
    "chelsea": "The face of a tabby cat seen from close by.",
    "coffee": "A cup of coffee with a spoon on a wooden table.",
    "coins": "Rows of old coins on a dark cloth.",
    "grass": "Blades of grass from above.",
    "gravel": "A ground of small stones.",
    "motorcycle_left": "A motorcycle stands in a workshop in front of shelves and tools.",
    "rocket": "A rocket on a lit launch pad at night.",
}


class Tree:
    """A data set <root>/{Image,Text}/<task>/<dataset>, written pair by pair, with its list."""

    def __init__(self, root: Path, task: str, dataset: str):
        self.images, self.texts = root / "Image" / task / dataset, root / "Text" / task / dataset
        self.task, self.names = task, []
        for folder in (self.images, self.texts):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (*(self.images / f for f in (*FOLDERS[task], "TRUTH")), self.texts):
            folder.mkdir(parents=True)

    def link(self, name: str, a: Path, b: Path, text: str) -> None:
        """A pair of existing files."""
        for folder, path in zip(FOLDERS[self.task], (a, b), strict=True):
            (self.images / folder / f"{name}.png").symlink_to(path.resolve())
        self._add(name, text)

    def write(
        self,
        name: str,
        a: np.ndarray,
        b: np.ndarray,
        text: str | None = None,
        truth: np.ndarray | None = None,
    ) -> None:
        """A pair of images of 8 bits; without a text it gets the neutral paragraph."""
        for folder, pixels in zip((*FOLDERS[self.task], "TRUTH"), (a, b, truth), strict=True):
            if pixels is not None:
                path = self.images / folder / f"{name}.png"
                Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=1)
        self._add(name, text or NEUTRAL[self.task])

    def _add(self, name: str, text: str) -> None:
        (self.texts / f"{name}.txt").write_text(text.strip() + "\n", encoding="utf-8")
        self.names.append(name)

    def finish(self) -> None:
        """Writes the list; the data set is complete then."""
        lines = "".join(f"{name}.png\n" for name in sorted(self.names))
        (self.images / "train.txt").write_text(lines, encoding="utf-8")
        truth = self.images / "TRUTH"
        if not any(truth.iterdir()):
            truth.rmdir()
        print(f"{self.images}: {len(self.names)} pairs")


# ---- infrared and visible


def infrared_visible(source: Path, video: Path, tree: Tree, rng: np.random.Generator) -> None:
    """RoadScene's training pairs and M3SVD's frames, and mirrored copies with the neutral paragraph.

    A third as many copies as pairs, so that a quarter of the samples has no text of its own; they are
    mirrored, since a neutral paragraph names no side. Sequences of two frames (the nights) come three
    times: the windows of training differ.
    """
    pairs = []
    base = source / "Image/IVF/RoadScene"
    for line in (base / "train.txt").read_text(encoding="utf-8").split():
        name = line.split(".")[0]
        text = (source / f"Text/IVF/RoadScene/{name}.txt").read_text(encoding="utf-8")
        pairs.append((f"road_{name}", base / "IR" / line, base / "VI" / line, text))
    for sequence in sorted(p for p in video.iterdir() if p.is_dir() and p.name not in HELD_OUT):
        text = (sequence / "paragraph.txt").read_text(encoding="utf-8")
        frames = sorted((sequence / "IR").iterdir())
        for repeat in range(1 if len(frames) > 2 else 3):
            for frame in frames:
                name = f"m3svd_{sequence.name}_{frame.stem}_{repeat}"
                pairs.append((name, frame, sequence / "VI" / frame.name, text))
    for pair in pairs:
        tree.link(*pair)
    for i in sorted(rng.permutation(len(pairs))[: len(pairs) // 3]):
        name, a, b, _ = pairs[i]
        tree.write(f"{name}_neutral", *(np.asarray(Image.open(p))[:, ::-1] for p in (a, b)))


# ---- photographs


def photographs(paths: list[Path]) -> list[Path]:
    """The files among `paths` and directly in the folders among them, in the order of names."""
    found = [
        f for p in paths for f in ([p] if p.is_file() else p.iterdir()) if f.suffix in SUFFIXES
    ]
    return sorted(found)


def description(photo: Path) -> str | None:
    """The first sentence of the photograph's paragraph in a VLFDataset tree, or one of ours."""
    if photo.stem in DESCRIPTIONS:
        return DESCRIPTIONS[photo.stem]
    parts = photo.absolute().parts
    if len(parts) > 5 and parts[-5] == "Image":
        text = Path(*parts[:-5], "Text", *parts[-4:-2], f"{photo.stem}.txt")
        if text.is_file():
            return re.split(r"(?<=\.)\s", text.read_text(encoding="utf-8").strip())[0]
    return None


def window_of(photo: Path, rng: np.random.Generator) -> np.ndarray:
    """A random part of the photograph, (H, W, 3) in [0, 1], at a random scale and perhaps mirrored.

    Scales below 1 sharpen: most photographs on disk are not sharp at their last pixel.
    """
    image = Image.open(photo).convert("RGB")
    least = min(1.0, max(192 / min(image.size), 0.5))
    scale = rng.uniform(least, max(least, 0.9))
    size = tuple(max(1, round(n * scale)) for n in image.size)
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255
    sides = zip(pixels.shape[:2], WINDOW, strict=True)
    i, j = (int(rng.integers(0, max(n - w, 0) + 1)) for n, w in sides)
    pixels = pixels[i : i + WINDOW[0], j : j + WINDOW[1]]
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def from_photographs(
    photos: list[Path],
    copies: int,
    tree: Tree,
    rng: np.random.Generator,
    make: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]],
) -> None:
    """`copies` pairs of every photograph; one in four has the neutral paragraph."""
    count = 0
    for photo in photos:
        scene = description(photo)
        for copy in range(copies):
            truth = window_of(photo, rng)
            own = scene is not None and count % 4 != 3
            text = f"{scene} {ENDINGS[tree.task]}" if own else None
            a, b = (_bytes(x) for x in make(truth, rng))
            name = f"{'_'.join(photo.parts[-3:-1])}_{photo.stem}_{copy}"
            tree.write(re.sub(r"[^A-Za-z0-9_-]", "-", name), a, b, text, _bytes(truth))
            count += 1


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


# ---- multi-focus


def defocus(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(near in focus, far in focus) of a sharp photograph (H, W, 3), blurred in linear light.

    Three in five scenes are objects before a background: a mask with a sharp border, where the
    blurred foreground spreads over the background and the background's blur stays its own. The
    others recede: a smooth depth map, and a blur that grows away from the focused end.
    """
    linear = truth**GAMMA
    pair = _objects(linear, rng) if rng.random() < 0.6 else _receding(linear, rng)
    noise = rng.uniform(0, 0.004)
    return tuple(
        np.clip(x, 0, 1) ** (1 / GAMMA) + noise * rng.standard_normal(x.shape) for x in pair
    )


def _objects(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    field = smooth_noise(x.shape[:2], rng.uniform(20, 60), rng)
    mask = (field > np.quantile(field, rng.uniform(0.35, 0.75))).astype(np.float32)
    mask = ndimage.gaussian_filter(mask, rng.uniform(0.5, 1.0))[..., None]
    radii = rng.uniform(1.5, 6, 2)
    behind = disk_blur(x * (1 - mask), radii[0]) / np.maximum(disk_blur(1 - mask, radii[0]), 1e-3)
    near = mask * x + (1 - mask) * behind
    far = disk_blur(x * mask, radii[1]) + (1 - disk_blur(mask, radii[1])) * x
    return near, far


def _receding(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    h, w = x.shape[:2]
    rows, columns = np.mgrid[0 : 1 : h * 1j, 0 : 1 : w * 1j]
    depth = (1 - rows) + rng.uniform(-0.7, 0.7) * columns  # the ground recedes upward
    depth = depth + rng.uniform(0, 0.6) * smooth_noise((h, w), 50, rng)
    depth = (depth - depth.min()) / np.ptp(depth)
    meet = rng.uniform(0.35, 0.65)  # the depth that both photographs show sharp
    largest = rng.uniform(3, 6)
    levels = np.array([0, 1, 2, 3, 4.5, 6])
    stack = np.stack([disk_blur(x, r) for r in levels])
    return tuple(
        _at_radius(stack, levels, largest * np.clip(distance, 0, 1))
        for distance in ((depth - meet) / (1 - meet), (meet - depth) / meet)
    )


def _at_radius(stack: np.ndarray, levels: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Each pixel from the blurred copies at its own radius, between the two nearest levels."""
    upper = np.clip(np.searchsorted(levels, radius), 1, len(levels) - 1)
    part = ((radius - levels[upper - 1]) / (levels[upper] - levels[upper - 1]))[..., None]
    i, j = np.indices(radius.shape)
    return stack[upper - 1, i, j] * (1 - part) + stack[upper, i, j] * part


def smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise without detail below `scale` pixels, of mean 0 and deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="reflect")
    return (noise - noise.mean()) / noise.std()


def disk_blur(x: np.ndarray, radius: float) -> np.ndarray:
    """An image x (H, W, C) out of focus: the mean over a disk of `radius` pixels with a soft rim."""
    reach = int(np.ceil(radius + 0.5))
    if radius < 0.5:
        return x
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1)
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), "reflect")
    kernel = (disk / disk.sum())[..., None]
    return signal.fftconvolve(padded, kernel, "valid", axes=(0, 1)).astype(np.float32)


# ---- multi-exposure


def expose(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(over, under) of a photograph (H, W, 3): two gains, one camera curve, each its saturation.

    The curve is a power with a shoulder, so highlights end softly or hard; noise of the sensor is
    added in linear light and so shows in the shadows.
    """
    linear = truth**GAMMA
    shoulder, power = rng.uniform(0, 0.8), rng.uniform(1.8, 2.6)
    gains = np.exp2([rng.uniform(1, 3.2), -rng.uniform(1, 3.2)])
    made = []
    for gain in gains:
        x = gain * linear + rng.uniform(0, 0.003) * rng.standard_normal(linear.shape)
        x = np.clip(x, 0, None)
        soft = 1 - np.exp(-x)  # never quite white
        curved = np.clip((1 - shoulder) * x + shoulder * soft, 0, 1) ** (1 / power)
        gray = curved @ np.array([0.299, 0.587, 0.114])
        made.append(gray[..., None] + rng.uniform(0.7, 1.2) * (curved - gray[..., None]))
    return tuple(made)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=["ivf", "mff", "mef"])
    parser.add_argument("--source", type=Path, help="ivf: a VLFDataset folder")
    parser.add_argument("--video", type=Path, help="ivf: M3SVD's folder of sequences")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="folders and files")
    parser.add_argument("--copies", type=int, default=6, help="pairs of each photograph")
    parser.add_argument("--out", type=Path, required=True, help="the VLFDataset folder to write")
    parser.add_argument("--dataset", help="name of the data set (default: Made<TASK>)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    task = options.task.upper()
    if task == "IVF" and not (options.source and options.video):
        parser.error("ivf needs --source and --video")
    photos = photographs(options.photos)
    if task != "IVF" and not photos:
        parser.error(f"{options.task} needs --photos")
    rng = np.random.default_rng(options.seed)
    tree = Tree(options.out, task, options.dataset or f"Made{task}")
    if task == "IVF":
        infrared_visible(options.source, options.video, tree, rng)
    else:
        make = defocus if task == "MFF" else expose
        from_photographs(photos, options.copies, tree, rng, make)
    tree.finish()


if __name__ == "__main__":
    main()
