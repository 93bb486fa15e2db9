"""From a checkpoint to a system with its weights, and from a pair to its fused images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion import checkpoint
from jfusion import weights as shipped
from jfusion.config import renamed, setting
from jfusion.data.h5 import Pair
from jfusion.data.image import resample
from jfusion.errors import UserError, did_you_mean, printable
from jfusion.files import check_path
from jfusion.runs import Run, runs_in
from jfusion.systems import registry
from jfusion.systems.base import System

if TYPE_CHECKING:
    from jfusion.data.alignment import Shift
    from jfusion.systems.base import FusedImage

CHECKED_SIDE = 1280  # pixels of the longer side at which the alignment is checked, at most


# ---- a system with its weights -----------------------------------------------------------------


def allow_partial_setting() -> bool:
    """The option `allow_partial` of every command that loads a checkpoint."""
    return setting(False, "load the tensors of the checkpoint that fit, and print what was skipped")


def load_system(
    weights: str | Path | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    partial: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> System:
    """A system with its weights, ready to fuse.

    weights: the name of weights that come with jfusion, a checkpoint (ours or the authors'), a run
    folder, or a folder of runs, whose newest run (of the system `name`) is meant. name: the system, which
    a checkpoint of ours brings along; without either it is `registry.DEFAULT`. A system without
    parameters needs its name only, and so does one whose weights come with jfusion. settings: change the
    configuration; attributes: those of the H5 file to fuse, for settings that the data decide, unless the
    tensors or the caller do. partial: loads the tensors that fit, and prints which do not. Raises UserError
    if anything does not fit.
    """
    path, content = open_checkpoint(weights, name)
    return from_checkpoint(path, content, name, settings, partial, attributes)


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
    if system.reads_text:
        system.neutral_text = shipped.neutral_text(path)
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


def chosen(
    weights: str | Path | None, name: str | None, task: str
) -> tuple[str | Path | None, str | None]:
    """The weights and the system that a command uses: those that were named, else those of the task.

    A system with networks that was named without weights gets the weights of it that come with jfusion,
    those for the task first. Where neither was named, both are the default of the task
    (`jfusion.weights.default_for`): a name of weights, or of a system that needs none.
    """
    if weights is not None:
        return weights, name
    if name is not None:
        own = shipped.names(task, name) or shipped.names(system=name)
        return (own[0] if own else None), name
    default = shipped.default_for(task)
    return (default, None) if default in shipped.names() else (None, default)


def note_other_task(path: Path | None, task: str) -> None:
    """Prints a note where the weights come with jfusion and were trained for other tasks than `task`."""
    card = shipped.card_of(path)
    if card is not None and task not in card["tasks"]:
        tasks, others = ", ".join(card["tasks"]), ", ".join(shipped.names(task)) or "none"
        print(
            f"note: {card['name']} was trained for {tasks}, not for {task}; weights for {task}: {others}"
        )


def note_neutral_text() -> None:
    """Prints that the paragraph of the weights stands for those that were not given."""
    print("note: the weights bring a paragraph that fits every pair; --text describes yours")


def system_of(weights: str | Path | None = None, name: str | None = None, task: str = "IVF") -> str:
    """The system that a command uses for the same arguments, without starting Jittor.

    Where there is nothing to read it is `registry.DEFAULT`; loading says what is wrong.
    """
    if name:
        return name
    try:
        weights, name = chosen(weights, None, task)
        if name or weights is None:
            return name or registry.DEFAULT
        if str(weights) in shipped.names():
            return str(shipped.card(str(weights))["system"])
        run = _newest_run(Path(weights), None)
        return resolve_system(checkpoint.record(weights) if run is None else run.record)
    except UserError:
        return registry.DEFAULT


def find_checkpoint(weights: str | Path | None = None, name: str | None = None) -> Path | None:
    """The file that `weights` means: weights of jfusion's by name, the file itself, or the newest
    checkpoint of a run folder or of a folder of runs that can be read.

    Arguments as in `load_system`. None for a system without parameters, when no weights are named.
    Raises UserError where there is none, which says where the authors' weights of `name` are.
    """
    return _find(weights, name)[0]


def open_checkpoint(
    weights: str | Path | None = None, name: str | None = None
) -> tuple[Path | None, dict[str, Any]]:
    """The file that `find_checkpoint` finds, and its content: an empty one for a system without parameters."""
    path, content = _find(weights, name)
    if path is None:
        return None, {"model": {}}
    return path, checkpoint.load(path) if content is None else content


def _find(
    weights: str | Path | None, name: str | None
) -> tuple[Path | None, dict[str, Any] | None]:
    """See `find_checkpoint`; with the content where the file had to be read to be found."""
    if weights is None:
        return _without_weights(name), None
    path = check_path(shipped.resolve(weights), "the checkpoint")
    if path.is_file():
        return path, None
    try:
        newest, content = _newest_checkpoint(path, name)
    except UserError as error:
        if name and registry.system_class(name).needs_weights is System.needs_weights:
            raise UserError(f"{name} has no weights; leave out --weights") from error
        near = did_you_mean(str(weights), shipped.names()) if not path.exists() else ""
        raise UserError(f"{error}{near}{_where_to_get(name)}") from error
    print(f"checkpoint: {printable(newest, 4000)}")
    return newest, content


def _without_weights(name: str | None) -> Path | None:
    """None for a system without parameters, or the weights of it that come with jfusion."""
    own = shipped.names(system=name) if name else []
    if own:
        return shipped.find(own[0])
    if name and not registry.create(name).needs_weights:
        return None
    what = f"no weights of {name} come" if name else "no default weights come"
    raise UserError(
        f"{what} with jfusion; name a checkpoint or a run with --weights (exp: the newest run)"
        f"{_where_to_get(name)}"
    )


def _where_to_get(name: str | None) -> str:
    """The end of an error about weights that are not there: where the authors' of a system are."""
    where = registry.system_class(name).WEIGHTS.card.where if name else ""
    return f"; weights: {where}" if where else ""


def _newest_checkpoint(path: Path, name: str | None) -> tuple[Path, dict[str, Any]]:
    run = _newest_run(path, name)
    if run is None:
        state = f"holds no run of {name}" if name else "is not a run folder and holds none"
        state = state if path.exists() else "does not exist"
        raise UserError(f"{path} {state}; name a checkpoint or a run")
    found = run.newest()
    if found is None:
        raise UserError(f"run folder {run.folder} holds no checkpoint yet")
    return found


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
    a, b = (x[None] for x in system.preprocess(pair))
    if samples > 1:
        a, b = (np.repeat(x, samples, 0) for x in (a, b))
    text = None
    if system.reads_text:
        text = system.neutral_text if pair.text is None else pair.text
        if text is None:
            raise UserError(
                f"sample {pair.name!r} has no paragraph features, which {system.name} needs"
            )
        text = np.repeat(text[None], samples, 0)
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


def misalignment(pair: Pair) -> Shift | None:
    """The shift by which the two images of a pair seem to be misaligned; None where they do not."""
    from jfusion.data.alignment import find_shift

    a, b = pair.a[0], pair.b[0]
    step = -(-max(a.shape) // CHECKED_SIDE)
    if step > 1:  # a large image is checked at a fraction of its size
        a, b = (resample(x, x.shape[0] // step, x.shape[1] // step) for x in (a, b))
    shift = find_shift(a, b)
    shift = shift._replace(rows=shift.rows * step, columns=shift.columns * step)
    return shift if shift.suspicious else None


def warn_if_misaligned(pair: Pair) -> None:
    """Prints a note when the two images of a pair seem to be shifted against each other."""
    shift = misalignment(pair)
    if shift is not None:
        from tqdm import tqdm

        tqdm.write(
            f"note: {pair.name} looks misaligned: {shift} (jfusion align, docs/alignment.md)"
        )
