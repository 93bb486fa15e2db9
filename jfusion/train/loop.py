"""The training loop, for every system: stages, optimisers, checkpoints, resuming."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jfusion import config as configs
from jfusion import runtime
from jfusion.checkpoint import load as load_checkpoint
from jfusion.data.folder import ImageFolder, training_data
from jfusion.data.h5 import PairFile, check_encoder, encoder_of
from jfusion.data.loader import ArrayBatch, Batches
from jfusion.errors import UserError
from jfusion.runs import Run
from jfusion.runtime import jt, machine, mpi
from jfusion.systems.base import Batch, Stage, System
from jfusion.systems.registry import config_class, create, system_class
from jfusion.train.optimizer import Adam
from jfusion.train.options import Options
from jfusion.version import __version__


def train(system_name: str, settings: dict[str, Any], options: Options) -> Run:
    """Trains the system called `system_name`, its configuration changed by `settings`, from the start."""
    hint = system_class(system_name).GET_WEIGHTS
    if hint:
        raise UserError(f"{system_name} is not trained: {hint}")
    sets = training_data(options.data)
    data = sets[0]
    options = replace(options, crop=options.crop or system_class(system_name).CROP)
    system = _created(system_name, _with_text_dim(system_name, settings, data), options.seed)
    _check_data(system, sets)
    if options.keep_last is not None and options.keep_last < 1:
        raise UserError(f"--keep-last must be 1 or more, not {options.keep_last}")
    if options.weights:
        content = load_checkpoint(options.weights)
        if system.USES_TEXT:
            check_encoder(data, content, f"checkpoint {options.weights}")
        system.load_any(content["model"], f"checkpoint {options.weights}", options.allow_partial)
    dataset = data.dataset if len(sets) == 1 else Path(options.data).resolve().name
    record = {
        "system": system_name,
        "config": configs.to_dict(system.config),
        "options": {**asdict(options), "data": str(Path(options.data).absolute())},
        "dataset": dataset,
        **encoder_of(data),
        "version": __version__,
        "precision": machine.precision(),
    }
    if mpi.first():
        run = Run.new(Path(options.exp), system_name, dataset, record)
    else:
        run = Run(Path(options.exp), record).muted()
    _Trainer(system, sets, run, options).train()
    return run


TURNS = ("MEF", "IVF", "NIR", "PIF", "MFF", "MIF")  # the order of LFDT-Fusion's script


def train_all(system_name: str, settings: dict[str, Any], options: Options) -> list[Run]:
    """One network after another, for each H5 file of training pairs in the folder `options.data`.

    A file's own task is trained on it. Started again, it goes on where it was.
    """
    folder, files = Path(options.data), []
    for path in sorted(folder.glob("*.h5")):
        attributes = PairFile(path).attributes
        if attributes.get("task") in TURNS and "train" in str(attributes.get("split", "train")):
            files.append((TURNS.index(attributes["task"]), path))
        else:
            print(f"{path.name} is left out: it is not a training set, or does not name its task")
    if not files:
        raise UserError(
            f"--task all: {folder} must be a folder of training sets, made with jfusion preprocess"
        )
    runs = []
    for turn, path in sorted(files):
        print(f"{TURNS[turn]}: {path}")
        own = {**settings, "task": TURNS[turn]}
        before = _run_before(system_name, own, options.exp, path)
        if before is None:
            runs.append(train(system_name, own, replace(options, data=str(path))))
        else:
            runs.append(resume(before, max_steps=options.max_steps))
    return runs


def _run_before(system_name: str, settings: dict[str, Any], exp: str, path: Path) -> Path | None:
    """The newest run of the same system, settings and data."""
    config = configs.to_dict(configs.from_dict(config_class(system_name), settings, system_name))
    wanted = [system_name, config, str(path.absolute())]
    for file in sorted(Path(exp).glob("*/config.json"), reverse=True):
        record = Run.open(file.parent).record
        if [record["system"], record["config"], record["options"]["data"]] == wanted:
            return file.parent
    return None


def resume(folder: str | Path, data: str | None = None, max_steps: int | None = None) -> Run:
    """Goes on with the run in `folder` from its last checkpoint, exactly as it would have gone on.

    data: where the H5 file is now, if it was moved; max_steps: a new end.
    """
    run = Run.open(Path(folder))
    changed = {"data": data or run.record["options"]["data"], "max_steps": max_steps}
    options = configs.from_dict(
        Options, {**run.record["options"], **changed}, f"{folder}/config.json"
    )
    before, now = run.record.get("precision", "float32"), machine.precision()
    if before != now:
        print(f"note: the run was begun in {before} and goes on in {now} ($JFUSION_PRECISION)")
    system = _created(run.record["system"], run.record["config"], options.seed)
    sets = training_data(options.data)
    _check_data(system, sets)
    if system.USES_TEXT:
        check_encoder(sets[0], run.record, f"run {folder}")
    trainer = _Trainer(system, sets, run if mpi.first() else run.muted(), options)
    content = run.latest()
    if content is None and options.weights:
        content = {"model": load_checkpoint(options.weights)["model"]}
    if content is not None:
        trainer.load(content, options.allow_partial and "step" not in content)
    trainer.train()
    return run


class _Trainer:
    """`epoch` counts complete epochs over all stages, `batch` complete batches of the current one."""

    def __init__(
        self, system: System, sets: list[PairFile | ImageFolder], run: Run, options: Options
    ):
        self.system, self.run, self.options = system, run, options
        self.stages = system.stages()
        turns = system.turns([data.dataset for data in sets]) if len(sets) > 1 else [0]
        made = {i: self._batches(sets[i]) for i in turns}
        self.turns = [made[i] for i in turns]
        self.epochs = sum(stage.epochs for stage in self.stages)
        self.steps = options.max_steps or math.inf
        self.steps = min(sum(len(self._turn(e)) for e in range(self.epochs)), self.steps)
        self.epoch = self.batch = self.step = 0
        self.stage, self.optimizers = None, {}
        self.saved: dict[str, Any] = {}

    def _batches(self, data: PairFile | ImageFolder) -> Batches:
        return Batches(
            data,
            self.system.config.batch_size,
            self.options.seed,
            self.options.crop,
            self.system.KEEP_REST,
            self.system.AUGMENT,
            lambda pair: self.system.of(pair.dataset).planes(pair, training=True),
            (mpi.rank(), mpi.count()),
        )

    def _turn(self, epoch: int) -> Batches:
        """The training set of an epoch; it depends on (seed, epoch) alone."""
        if len(self.turns) == 1:
            return self.turns[0]
        drawn = np.random.default_rng([self.options.seed, epoch, 1]).integers(len(self.turns))
        return self.turns[drawn]

    @property
    def per_epoch(self) -> int:
        """Batches of the current epoch."""
        return len(self._turn(self.epoch))

    # ---- the way through a run

    def train(self) -> None:
        """From where it stands to the end; Ctrl-C finishes the step, saves, and says how to go on."""
        self.run.start_log(self.step)
        if mpi.first():
            print(f"run folder: {self.run.folder}")
        try:
            with self._bar() as bar, _interruptible() as interrupted:
                while self.step < self.steps and not mpi.anyone(interrupted):
                    self._enter_stage()
                    self._epoch(bar, interrupted)
                    self.run.save(self.content())
                    self._prune()
        finally:
            self.run.close()
        if mpi.anyone(interrupted):
            if mpi.first():
                print(
                    f"interrupted after step {self.step}; go on with: jfusion train --resume {self.run.folder}"
                )
            raise KeyboardInterrupt

    def _epoch(self, bar: Any, interrupted: list[int]) -> None:
        """The rest of the current epoch."""
        batches = self._turn(self.epoch)
        with contextlib.closing(batches.epoch(self.epoch, self.batch)) as source:
            for arrays in source:
                self._step(arrays, bar)
                if mpi.anyone(interrupted) or self.step >= self.steps:
                    break
        if self.batch == self.per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def _prune(self) -> None:
        """Keeps what --keep-last and --keep-best say; --keep-best alone keeps it and the newest."""
        last, loss = self.options.keep_last, self.options.keep_best
        if last is None and loss is None:
            return
        sizes = [len(self._turn(e)) for e in range(self.epoch)]
        best = self.run.best_epoch(loss, sizes) if loss else None
        self.run.prune(last or 1, best)

    def _step(self, arrays: ArrayBatch, bar: Any) -> None:
        # Everything random in a step depends on (seed, step) alone: that is the whole random state.
        runtime.seed(self.options.seed * 1_000_003 + self.step)
        text = None if arrays.text is None else jt.array(arrays.text)
        batch = Batch(jt.array(arrays.a), jt.array(arrays.b), text, arrays.names)
        system = self.system.of(arrays.dataset)
        losses = system.losses(batch, self.stage)
        parameters = [p for o in self.optimizers.values() for p in o.parameters.values()]
        gradients = map(mpi.mean, jt.grad(losses["total"], parameters))
        values = {name: mpi.mean(value).item() for name, value in losses.items()}
        self._check_finite(values, arrays.names)
        if self.options.keep_best not in (None, *values):
            raise UserError(
                f"--keep-best {self.options.keep_best}: the losses are {', '.join(values)}"
            )
        rates = {}
        for name, optimizer in self.optimizers.items():
            rates[name] = self._rate(name)
            optimizer.apply([next(gradients) for _ in optimizer.parameters], rates[name])
        epoch, number = self.epoch, self.batch
        self.batch, self.step = self.batch + 1, self.step + 1
        if mpi.first():
            self._report(bar, epoch, number, values, rates)
            if number < self.options.pictures:
                self._pictures(system, batch, epoch)

    def _check_finite(self, values: dict[str, float], names: list[str]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"the loss is not finite ({', '.join(f'{n} = {values[n]}' for n in bad)}) in epoch "
                f"{self.epoch + 1} on the samples {', '.join(names)}; the weights before this step are in "
                f"{self.run.save(self.content())}; lower --learning-rate or look at these samples"
            )

    # ---- stages

    def _locate(self) -> tuple[Stage, int]:
        """The stage that the current epoch belongs to, and the epoch at which it began."""
        begin = 0
        for stage in self.stages:
            if self.epoch < begin + stage.epochs:
                return stage, begin
            begin += stage.epochs
        return self.stages[-1], begin - self.stages[-1].epochs

    def _epoch_of_stage(self) -> int:
        return self.epoch - self._locate()[1]

    def _rate(self, group: str) -> float:
        return self.groups[group].rate(self._epoch_of_stage(), self.batch, self.per_epoch)

    def _enter_stage(self) -> None:
        """The optimisers of a stage; a group that an earlier stage had goes on with its own."""
        stage = self._locate()[0]
        if stage is self.stage:
            return
        self.stage = stage
        self.groups = {g.name: g for g in self.system.parameter_groups(stage)}
        before = {name: o.state() for name, o in self.optimizers.items()}
        before = before or self.saved.get("optimizer", {})
        self.optimizers = {
            g.name: Adam(g.parameters, g.betas, g.eps, g.weight_decay, g.clip_norm, g.decoupled)
            for g in self.groups.values()
        }
        for name in before.keys() & self.optimizers.keys():
            self.optimizers[name].load_state(before[name])
        self.saved = {}

    # ---- state

    def content(self) -> dict[str, Any]:
        """The checkpoint of this moment; UserError when a weight is not finite."""
        model = self.system.state()
        for name, value in model.items():
            if not np.isfinite(value).all():
                raise UserError(
                    f"{name} is not finite after step {self.step}; resume from the last checkpoint in "
                    f"{self.run.folder} or start again with a lower --learning-rate"
                )
        return {
            "model": model,
            "optimizer": {name: o.state() for name, o in self.optimizers.items()},
            "scheduler": {name: self._rate(name) for name in self.groups},
            "stage": self.stage.name,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "random": {"seed": self.options.seed, "step": self.step},
            **self.run.record,
        }

    def load(self, content: dict[str, Any], partial: bool = False) -> None:
        """Takes over a checkpoint of this run, or just weights."""
        self.system.load_any(content["model"], f"the checkpoint of {self.run.folder}", partial)
        self.epoch, self.batch, self.step = (content.get(k, 0) for k in ("epoch", "batch", "step"))
        self.saved = content

    # ---- what the user sees

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not mpi.first(),
        )

    def _report(
        self, bar: Any, epoch: int, number: int, values: dict[str, float], rates: dict[str, float]
    ) -> None:
        bar.update()
        bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        left = bar.format_dict
        rate = left["rate"] or (self.step - left["initial"]) / max(left["elapsed"], 1e-9)
        eta = (
            time.strftime("%H:%M:%S", time.gmtime((self.steps - self.step) / rate)) if rate else "?"
        )
        shown = " ".join(f"{k}: {v:.6f}" for k, v in values.items())
        count = len(self._turn(epoch))
        line = f"Epoch {epoch + 1}/{self.epochs} Batch {number}/{count} {shown} ETA: {eta}"
        scalars = {**values, **{f"learning_rate/{k}": v for k, v in rates.items()}}
        self.run.log(self.step, line, scalars)

    def _pictures(self, system: System, batch: Batch, epoch: int) -> None:
        system.eval()
        with jt.no_grad():
            fused = system.preview(batch).numpy()
        system.train()
        a, b = batch.a.numpy(), batch.b.numpy()
        for i, name in enumerate(batch.names):
            h, w = fused.shape[2:]
            self.run.picture(epoch + 1, name, [np.asarray(x[i, 0, :h, :w]) for x in (a, b, fused)])


def _created(name: str, config: dict[str, Any], seed: int) -> System:
    """The system with its first weights, drawn now: Jittor is lazy, and steps seed it anew."""
    mpi.check_gpus()
    runtime.seed(seed)
    system = create(name, **config)
    jt.sync_all()
    return system


def _with_text_dim(
    system_name: str, settings: dict[str, Any], data: PairFile | ImageFolder
) -> dict[str, Any]:
    """The settings with the width of the file's features, unless a width was asked for."""
    known = {f.name for f in fields(config_class(system_name))}
    text = data[0].text
    if "text_dim" not in known or "text_dim" in settings or text is None:
        return settings
    return {**settings, "text_dim": text.shape[-1]}


def _check_data(system: System, sets: list[PairFile | ImageFolder]) -> None:
    """Says before the first step when the data are not what the system reads."""
    data = sets[0]
    if isinstance(data, ImageFolder) and not system.SINGLE_IMAGES:
        raise UserError(
            f"{data.path} is a folder, and {system.NAME} is trained on pairs; make an H5 file of them "
            "with: jfusion preprocess --task ... --dataset ..."
        )
    if not system.USES_TEXT:
        return
    text = data[0].text
    if text is None:
        raise UserError(f"{data.path} holds no paragraph features, which {system.NAME} needs")
    if text.shape[-1] != system.config.text_dim:
        raise UserError(
            f"{data.path} holds features of width {text.shape[-1]}, and {system.NAME} was asked for "
            f"{system.config.text_dim}; set --text-dim {text.shape[-1]} or use the other encoder's features"
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Yields a list that holds the signal after Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""
    received: list[int] = []
    owner = os.getpid()

    def note(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a helper that Jittor has just forked: it must end when told to
            os._exit(128 + number)
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {}
    with contextlib.suppress(ValueError):  # only the main thread may
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
