"""From a checkpoint to a system with its weights, and from a pair to its fused images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import checkpoint
from jfusion.config import renamed
from jfusion.data.h5 import Pair
from jfusion.errors import UserError, printable
from jfusion.files import check_path
from jfusion.runs import Run, runs_in
from jfusion.systems import registry
from jfusion.systems.base import System

if TYPE_CHECKING:
    from jfusion.systems.base import FusedImage

RUNS = "exp"  # the folder of runs that is searched when no weights are named


# ---- a system with its weights -----------------------------------------------------------------


def load_system(
    weights: str | Path | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> System:
    """A system with its weights, ready to fuse.

    weights: a checkpoint (ours or the authors'), a run folder, or a folder of runs, whose newest run
    (of the system `name`) is meant; None: the folder `exp`. name: the system, which a checkpoint of ours
    brings along; without either it is `registry.DEFAULT`. A system without parameters needs its name
    only. settings: change the configuration; attributes: those of the H5 file to fuse, for settings
    that the data decide, unless the tensors or the caller do. partial: loads the tensors that fit, and
    prints which do not. Raises UserError if anything does not fit.
    """
    path = find_checkpoint(weights, name)
    return from_checkpoint(path, read_checkpoint(path), name, settings, partial, attributes)


def read_checkpoint(path: Path | None) -> dict[str, Any]:
    """The content of a checkpoint; for None (a system without parameters), an empty one."""
    return {"model": {}} if path is None else checkpoint.load(path)


def from_checkpoint(
    path: Path | None,
    content: dict[str, Any],
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> System:
    """As `load_system`, from a checkpoint that was read already; its model is removed from `content`."""
    recorded, kind = content.get("system"), resolve_system(content, name)
    if recorded and resolve_system(content) != kind:
        raise UserError(f"checkpoint {path} is of {recorded}, not of {kind}")
    model = content.pop("model")
    trained = content.get("config", {}) if recorded else {}  # another tool's is not a configuration
    system = registry.create(kind, **_settings(kind, trained, model, settings or {}, attributes))
    if system.needs_weights:
        from jfusion.checkpoint.weights import load_weights

        load_weights(system, model, f"checkpoint {path}", partial, consume=True)
    elif path is not None:
        raise UserError(f"{kind} has no parameters to load from {path}; leave out --weights")
    if hasattr(system, "eval"):  # a network; others have no mode of training
        system.eval()
    return system


def _settings(
    name: str,
    trained: Mapping[str, Any],
    model: Mapping[str, np.ndarray],
    asked: Mapping[str, Any],
    attributes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings of a system; each source overrides those before it.

    They are: the checkpoint's configuration, the data set's attributes, the checkpoint's tensors, and
    the caller.
    """
    config = registry.config_class(name)
    inferred = registry.system_class(name).infer_settings(model)
    return {
        **renamed(config, trained),
        **config.for_dataset(attributes or {}),
        **inferred,
        **renamed(config, asked),
    }


def resolve_system(content: Mapping[str, Any], name: str | None = None) -> str:
    """The system of a checkpoint's (or a run's) record: `name`, or its own, or `registry.DEFAULT`.

    A checkpoint of a system that has another name today is of that one.
    """
    recorded = content.get("system") or registry.DEFAULT
    return name or registry.RENAMED_SYSTEMS.get(recorded, recorded)


def system_of(weights: str | Path | None = None, name: str | None = None) -> str:
    """The system that `load_system` would give for the same arguments, without starting Jittor.

    Where there is nothing to read it is `registry.DEFAULT`; loading says what is wrong.
    """
    if name:
        return name
    path = Path(weights or RUNS)
    try:
        run = _newest_run(path, None)
        return resolve_system(checkpoint.record(path) if run is None else run.record)
    except UserError:
        return registry.DEFAULT


def find_checkpoint(weights: str | Path | None = None, name: str | None = None) -> Path | None:
    """The file itself, or the newest checkpoint of a run folder or of a folder of runs.

    Arguments as in `load_system`. None for a system without parameters, when no weights are named.
    Raises UserError where there is none, which says where the authors' weights of `name` are.
    """
    path = check_path(weights or RUNS, "the checkpoint")
    if path.is_file():
        return path
    try:
        newest = _newest_checkpoint(path, name)
    except UserError as error:
        if name is None and weights is None:
            hint = "or fuse without weights: --system guided"
            raise UserError(f"{error} with --weights, {hint}") from error
        if name is None:
            raise
        if weights is None and not registry.create(name).needs_weights:
            return None
        cls = registry.system_class(name)
        if cls.needs_weights is System.needs_weights:  # a method without networks
            raise UserError(f"{name} has no weights; leave out --weights") from error
        where = cls.WEIGHTS.card.where
        raise UserError(f"{error}; weights: {where}" if where else str(error)) from error
    print(f"checkpoint: {printable(newest, 4000)}")
    return newest


def _newest_checkpoint(path: Path, name: str | None) -> Path:
    run = _newest_run(path, name)
    if run is None:
        state = f"holds no run of {name}" if name else "is not a run folder and holds none"
        state = state if path.exists() else "does not exist"
        raise UserError(f"{path} {state}; name a checkpoint or a run")
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise UserError(f"run folder {run.folder} holds no checkpoint yet")
    return checkpoints[-1]


def _newest_run(path: Path, name: str | None) -> Run | None:
    """The run in the folder `path`, or the newest one (of the system `name`) in a folder of runs."""
    if (path / "config.json").is_file():
        return Run.open(path)
    runs = runs_in(path)
    return next((r for r in runs if name is None or resolve_system(r.record) == name), None)


# ---- fusing ------------------------------------------------------------------------------------


def fuse_pair(
    system: System,
    pair: Pair,
    seed: int | None = None,
    samples: int = 1,
    callback: Callable[[int, Any, Any], None] | None = None,
) -> list[FusedImage]:
    """The fused images of one pair, `samples` of them, in 8 bits: see `fuse_arrays`."""
    fused = fuse_arrays(system, pair, seed, samples, callback)
    return [system.postprocess(x, pair) for x in fused]


def fuse_arrays(
    system: System,
    pair: Pair,
    seed: int | None = None,
    samples: int = 1,
    callback: Callable[[int, Any, Any], None] | None = None,
) -> np.ndarray:
    """What a system makes of one pair, `samples` times: (samples, C, H, W) float32 in [0, 1].

    seed fixes what is random; callback: as in `System.fuse`. Raises UserError when the system reads
    text and the pair has none.
    """
    a, b = (np.repeat(x[None], samples, 0) for x in system.preprocess(pair))
    text = None
    if system.reads_text:
        if pair.text is None:
            raise UserError(
                f"sample {pair.name!r} has no paragraph features, which {system.name} needs"
            )
        text = np.repeat(pair.text[None], samples, 0)
    return system.fuse(a, b, text, seed=seed, callback=callback)


def step_callback(
    system: System, pair: Pair, stack: ExitStack, record: str | None, folder: Path
) -> Callable[[int, Any, Any], None] | None:
    """What is called after each step of a pair's sampling: a progress bar and, if `record` names a
    format, the recording in `folder`. None for a system that does not sample. `stack` closes both."""
    if not _samples(system):
        return None
    from jfusion.report.steps import Recording, StepBar

    parts = [stack.enter_context(StepBar(pair.name))]
    if record:
        size = pair.a.shape[1:]
        recording = Recording(folder, pair.name, record, lambda x: system.preview_step(x, size))
        parts.append(stack.enter_context(recording))

    def callback(*step: Any) -> None:
        for part in parts:
            part(*step)

    return callback


def check_sampling_options(system: System, samples: int, record: str | None) -> None:
    """Raises UserError when the system cannot give several samples or be recorded."""
    from jfusion.report.steps import FORMATS

    if samples < 1:
        raise UserError(f"--samples must be 1 or more, not {samples}")
    if (samples > 1 or record) and not _samples(system):
        raise UserError(
            f"--samples and --record are for systems that sample, and {system.name} does not"
        )
    if record and record not in FORMATS:
        raise UserError(f"--record must be one of {', '.join(FORMATS)}, not {record!r}")


def _samples(system: System) -> bool:
    """Whether the result takes many steps; asking does not start Jittor for a system without it."""
    network = sys.modules.get("jfusion.systems.network")
    return network is not None and isinstance(system, network.SamplingSystem)


def warn_if_misaligned(pair: Pair) -> None:
    """Prints a note when the two images of a pair seem to be shifted against each other."""
    from tqdm import tqdm

    from jfusion.data.alignment import find_shift

    shift = find_shift(pair.a[0], pair.b[0])
    if shift.suspicious:
        tqdm.write(
            f"note: {pair.name} looks misaligned: {shift} (jfusion align, docs/alignment.md)"
        )
