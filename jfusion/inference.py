"""Loading a system with its weights, and fusing with it: one pair, or folders of images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import checkpoint
from jfusion.config import setting, to_dict
from jfusion.data import image
from jfusion.data.alignment import find_shift
from jfusion.data.h5 import Pair
from jfusion.data.layout import SUFFIXES, task
from jfusion.errors import UserError
from jfusion.report.steps import FORMATS, Recording, StepBar
from jfusion.runs import Run
from jfusion.systems.registry import create, system_class
from jfusion.text.features import read_features

if TYPE_CHECKING:
    from jfusion.systems.base import Picture, System


@dataclass(frozen=True)
class Options:
    """What `jfusion fuse` is asked for."""

    a: str | None = setting(None, "images A (infrared, MRI, ...): a file, or a folder")
    b: str | None = setting(None, "images B (visible, PET, ...): a file, or a folder, same names")
    weights: str = setting(
        "exp", "a checkpoint (ours or the authors'), a run folder, or a folder of runs: the newest"
    )
    out: str = setting("fused", "folder for the fused images")
    text: str | None = setting(
        None, "folder of paragraph features, <name>.npy, for a system that reads them"
    )
    task: str = setting("IVF", "IVF, MIF, MEF, MFF, NIR or PIF: decides whose colour is kept")
    seed: int | None = setting(None, "fixes what is random (default: the paper's)")
    rainbow: str = setting(
        "none", "a or b: give this gray image the colours of OpenCV's JET table first"
    )
    background: str = setting("jet", "with --rainbow, what 0 becomes: jet (dark blue) or black")
    preflight: bool = setting(
        True, "look whether the two images lie a few pixels apart, and say so"
    )
    samples: int = setting(1, "results per pair, of a system that samples")
    record: str | None = setting(None, "gif, webp or png: also keep a picture of every step")
    allow_partial: bool = setting(
        False, "take the tensors of the checkpoint that fit, and print what was skipped"
    )


# ---- a system with its weights -----------------------------------------------------------------


def load_system(
    weights: str | Path, name: str | None, settings: dict[str, Any], partial: bool = False
) -> System:
    """The system of a checkpoint with its weights.

    A checkpoint of ours brings its system and configuration; the authors' need `name` (default
    film). `settings` change the configuration. Raises UserError if anything does not fit.
    """
    path = find_checkpoint(weights, name)
    return build(path, checkpoint.load(path), name, settings, partial)


def build(
    path: Path,
    content: dict[str, Any],
    name: str | None,
    settings: dict[str, Any],
    partial: bool,
) -> System:
    """`load_system` for a checkpoint that is read already; its model is taken out of `content`."""
    own, kind = content.get("system"), kind_of(content, name)
    cls = system_class(kind)
    if own and own != kind and own not in cls.TAKES:
        raise UserError(f"checkpoint {path} is of {own}, not of {kind}")
    trained = content.get("config", {})
    if own != kind:  # of another system it takes what both know
        known = {f.name for f in fields(cls.Config)}
        trained = {k: v for k, v in trained.items() if k in known}
    system = create(kind, **{**trained, **cls.settings_of(content["model"]), **settings})
    system.load_any(content.pop("model"), f"checkpoint {path}", partial, take=True)
    system.eval()
    return system


def kind_of(content: dict[str, Any], name: str | None) -> str:
    """The system that a checkpoint's content is for: the one asked for, its own, or film."""
    return name or content.get("system") or "film"


def with_names(content: dict[str, Any], name: str, names: str, where: str | Path) -> dict[str, Any]:
    """A checkpoint's content with its model by our names or the authors', after a strict check.

    names: "ours", "official", or a file name: official for `.pth`, otherwise ours.
    """
    system = build(Path(where), content, name, {}, partial=False)
    model = system.state()
    if names == "official" or (names != "ours" and Path(names).suffix == ".pth"):
        model = {system.OFFICIAL.official(k): v for k, v in model.items()}
    record = {k: v for k, v in content.items() if k != "hash"}
    return {"system": name, "config": to_dict(system.config), **record, "model": model}


def find_checkpoint(weights: str | Path, name: str | None = None) -> Path:
    """The file itself, or the newest checkpoint of a run folder or of a folder of runs."""
    path = Path(weights)
    if path.is_dir() or not path.exists():
        try:
            path = _newest_checkpoint(path)
        except UserError as error:
            hint = system_class(name).GET_WEIGHTS if name else ""
            raise UserError(f"{error}; {hint}" if hint else str(error)) from error
        print(f"checkpoint: {path}")
    return path


def _newest_checkpoint(folder: Path) -> Path:
    """The last checkpoint of a run folder, or of the newest run in a folder of runs."""
    runs = [folder] if (folder / "config.json").is_file() else []
    runs = runs or sorted(p.parent for p in folder.glob("*/config.json"))
    if not runs:
        state = "is not a run folder and holds none" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {state}; name a checkpoint or a run")
    found = Run.open(runs[-1]).checkpoints()
    if not found:
        raise UserError(f"run folder {runs[-1]} holds no checkpoint yet")
    return found[-1]


# ---- fusing ------------------------------------------------------------------------------------


def fuse_pair(
    system: System,
    pair: Pair,
    seed: int | None = None,
    samples: int = 1,
    callback: Callable | None = None,
) -> list[Picture]:
    """The fused images of one pair, `samples` of them."""
    from jfusion.runtime import jt

    text, system = None, system.of(pair.dataset)
    if system.USES_TEXT:
        if pair.text is None:
            raise UserError(
                f"sample {pair.name!r} has no paragraph features, which {system.NAME} needs"
            )
        text = jt.array(pair.text[None])
    a, b = (jt.array(np.repeat(x[None], samples, 0)) for x in system.planes(pair))
    with jt.no_grad():
        fused = system.fuse(a, b, text, seed=seed, callback=callback).numpy()
    return [system.picture(x, pair) for x in fused]


def watched(
    system: System, pair: Pair, stack: ExitStack, record: str | None, folder: Path
) -> Callable | None:
    """The callback for one pair: a progress bar, and the recording if one is asked for."""
    if not system.STEPWISE:
        return None
    parts = [stack.enter_context(StepBar(pair.name))]
    if record:
        size = pair.a.shape[1:]
        frames = Recording(folder, pair.name, record, lambda x: system.frame(x, size))
        parts.append(stack.enter_context(frames))

    def callback(*step: Any) -> None:
        for part in parts:
            part(*step)

    return callback


def check_watch(system: System, samples: int, record: str | None) -> None:
    """Raises UserError when the system cannot sample or be recorded."""
    if samples < 1:
        raise UserError(f"--samples must be 1 or more, not {samples}")
    if (samples > 1 or record) and not system.STEPWISE:
        raise UserError(
            f"--samples and --record are for systems that sample, and {system.NAME} does not"
        )
    if record and record not in FORMATS:
        raise UserError(f"--record must be one of {', '.join(FORMATS)}, not {record!r}")


def fuse(system_name: str | None, settings: dict[str, Any], options: Options) -> list[Path]:
    """Fuses every pair of images of one name, and returns the written files."""
    from tqdm import tqdm

    task(options.task)
    pairs = find_pairs(options.a, options.b)
    system = load_system(options.weights, system_name, settings, options.allow_partial)
    check_watch(system, options.samples, options.record)
    written, out = [], Path(options.out)
    for name, a, b in tqdm(pairs, desc="fusing", unit="pair", disable=len(pairs) == 1):
        pair = _read(name, a, b, options)
        if options.preflight:
            _look(pair)
        with ExitStack() as stack:
            callback = watched(system, pair, stack, options.record, out / "steps")
            made = fuse_pair(system, pair, options.seed, options.samples, callback)
        for i, picture in enumerate(made):
            path = out / (f"{name}.png" if len(made) == 1 else f"{name}_{i}.png")
            image.write(path, picture.shown)
            written.append(path)
    return written


def _look(pair: Pair) -> None:
    """Says so when the images of a pair do not seem to lie on each other."""
    from tqdm import tqdm

    shift = find_shift(pair.a[0], pair.b[0])
    if shift.suspicious:
        tqdm.write(
            f"note: {pair.name} looks misaligned: {shift} (jfusion align, docs/alignment.md)"
        )


def find_pairs(a: str | None, b: str | None) -> list[tuple[str, Path, Path]]:
    """The name and the files of each pair: two files, or all images of one name in two folders."""
    if not a or not b:
        raise UserError("name the images with --a and --b: two files, or two folders")
    a, b = Path(a), Path(b)
    for path in (a, b):
        if not path.exists():
            raise UserError(f"{path} does not exist")
    if a.is_file() and b.is_file():
        return [(a.stem, a, b)]
    if a.is_file() or b.is_file():
        raise UserError(f"{a} and {b} must both be files or both be folders")
    of_a, of_b = (
        {p.stem: p for p in sorted(f.iterdir()) if p.suffix.lower() in SUFFIXES} for f in (a, b)
    )
    if not of_a:
        raise UserError(f"{a} holds no image ({', '.join(SUFFIXES)})")
    missing = sorted(of_a.keys() ^ of_b.keys())
    if missing:
        raise UserError(
            f"{len(missing)} images of {a} and {b} have no partner of the same name: {', '.join(missing[:5])}"
        )
    return [(name, path, of_b[name]) for name, path in of_a.items()]


def _read(name: str, a: Path, b: Path, options: Options) -> Pair:
    text = read_features(Path(options.text, f"{name}.npy")) if options.text else None
    rgb = image.read_pair(a, b, options.rainbow, options.background)
    return Pair.of_images(name, *rgb, text, task(options.task).chroma)
