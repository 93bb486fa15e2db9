"""Validation during training: the paper's metrics on pairs that are not trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jfusion import inference, metrics
from jfusion.data.folder import ImageFolder
from jfusion.data.h5 import PairFile
from jfusion.errors import UserError, counted
from jfusion.metrics.table import means
from jfusion.papers import compare
from jfusion.systems.network import NetworkSystem
from jfusion.train.options import Options

SHOWN = 2  # pairs of the validation whose fused images are kept in pic_fusion/
FEWEST_SCENES = 10  # names that say fewer scenes than this are taken to say none


@dataclass(frozen=True)
class Validation:
    """Pairs that are fused and evaluated now and then.

    data: the files that hold them. preset: an evaluator of `metrics.PRESETS`; columns: its metrics.
    """

    data: Sequence[PairFile]
    preset: str
    columns: Sequence[str]

    @classmethod
    def of(cls, system: NetworkSystem, data: Sequence[PairFile], best: str) -> Validation | None:
        """The validation of a system by its paper's metrics; None without data.

        best: a metric that is added to them, where it is one.
        """
        if not data:
            return None
        preset = compare.preset_of(system.name)
        columns = metrics.columns(metrics.preset(preset).paper, preset)
        if best in metrics.METRICS and best not in columns:
            columns.append(best)
        return cls(data, preset, columns)

    def evaluate(
        self, system: NetworkSystem, show: Callable[[str, np.ndarray], None]
    ) -> dict[str, float]:
        """The mean of each metric over all pairs; the system is left in the mode for training.

        show: called with the names of the first pairs and with a, b and the fused image side by side, in
        color, (H, 3 W, 3) uint8.
        """
        from tqdm import tqdm

        rows, pairs = [], [(file, name) for file in self.data for name in file.names]
        system.eval()
        for file, name in tqdm(pairs, desc="validation", unit="pair", position=2, leave=False):
            pair = file.read(name)
            (fused,) = inference.fuse_pair(system, pair, seed=0)
            h, w = fused.gray.shape  # smaller than the pair where the released code drops a border
            a, b = (np.round(x[0, :h, :w] * 255).astype(np.uint8) for x in (pair.a, pair.b))
            rows.append(metrics.evaluate(fused.gray, a, b, self.preset, self.columns))
            if len(rows) <= SHOWN:
                sources = [
                    gray if rgb is None else rgb[:h, :w]
                    for gray, rgb in ((a, pair.rgb_a), (b, pair.rgb_b))
                ]
                show(name, np.concatenate([_rgb(x) for x in (*sources, fused.image)], axis=1))
        system.train()
        return means(rows)[0]


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def split(
    sets: Sequence[PairFile | ImageFolder], options: Options
) -> tuple[list[PairFile | ImageFolder], list[PairFile]]:
    """The training sets without the pairs of the validation, and those pairs.

    They are the file --val, or the share --val-split of each set. Raises UserError where both are
    given, where a set is a folder of images, or where a part would be empty.
    """
    if options.val is not None and options.val_split:
        raise UserError("--val and --val-split exclude each other: give one of them")
    if options.val is not None:
        return list(sets), [PairFile(options.val)]
    if not options.val_split:
        return list(sets), []
    training, held_out = [], []
    for data in sets:
        if not isinstance(data, PairFile):
            raise UserError(f"--val-split: {data.path} is a folder of images, which have no pairs")
        names = chosen(data.names, options.val_split, options.seed)
        if not 0 < len(names) < len(data.names):
            raise UserError(
                f"--val-split {options.val_split:g}: {data.path} has too few scenes "
                f"({counted(len(data.names), 'pair')}); name a file with --val"
            )
        training.append(data.subset(name for name in data.names if name not in names))
        held_out.append(data.subset(name for name in data.names if name in names))
    return training, held_out


def chosen(names: Sequence[str], share: float, seed: int) -> set[str]:
    """About a share of the names, drawn by the seed; all pairs of a scene are in it, or none.

    The scene is the name without a last number: 00001_07 and 00001_08 are of one. Where that leaves
    fewer than ten scenes (FLIR_04514), every pair is a scene of its own.
    """
    scenes: dict[str, list[str]] = {}
    for name in names:
        scenes.setdefault(re.sub(r"(?<=.)[_-]\d+$", "", name), []).append(name)
    if len(scenes) < FEWEST_SCENES:
        scenes = {name: [name] for name in names}
    groups = [scenes[scene] for scene in sorted(scenes)]
    taken: set[str] = set()
    for i in np.random.default_rng([seed, len(names)]).permutation(len(groups)):
        if len(taken) >= max(1, round(share * len(names))):
            break
        taken.update(groups[i])
    return taken
