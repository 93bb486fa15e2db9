"""The training loop of every system: stages of epochs of steps, checkpoints, interruptions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jfusion import runtime
from jfusion.data.loader import DataLoader, NumPyBatch
from jfusion.errors import UserError, counted, printable
from jfusion.runs import Run
from jfusion.runtime import jt, mpi, watch
from jfusion.systems.base import Batch, OptimizerConfig, Stage
from jfusion.systems.network import NetworkSystem
from jfusion.train.optimizer import Adam
from jfusion.train.options import Options
from jfusion.train.progress import Progress, save_images
from jfusion.train.signals import interruptible
from jfusion.train.validation import Validation


class Trainer:
    """Trains a system, and keeps the state of its run.

    Arguments: the system; loader, which gives the batches of an epoch (counted from 0 over all stages);
    the run folder; the options; what it validates with, if it does.

    The state is the weights, the optimizers, and three numbers: `epoch`, the complete epochs over all
    stages; `batch`, the complete batches of the present epoch; `step`, the complete steps. All that is
    random in a step depends on (seed, step), and all that is random in its data on (seed, epoch), so a
    resumed run continues exactly.
    """

    def __init__(
        self,
        system: NetworkSystem,
        loader: Callable[[int], DataLoader],
        run: Run,
        options: Options,
        validation: Validation | None = None,
    ):
        self.system, self.loader, self.run, self.options = system, loader, run, options
        self.validation = validation
        self.stages = system.stages()
        self.epochs = sum(stage.epochs for stage in self.stages)
        steps = sum(len(loader(epoch)) for epoch in range(self.epochs))
        self.steps = min(steps, options.max_steps or math.inf)
        self.epoch = self.batch = self.step = 0
        self.present = 1  # the step under way
        self.stage: Stage | None = None
        self.configs: dict[str, OptimizerConfig] = {}
        self.optimizers: dict[str, Adam] = {}
        self.loaded_optimizers: dict[str, Any] = {}

    def train(self) -> None:
        """Trains to the end. After Ctrl-C it finishes the step, saves, and raises KeyboardInterrupt."""
        self.run.start_log(self.step)
        if mpi.first():
            print(f"run folder: {self.run.folder}")
            print(self._kept())
        with (
            contextlib.closing(self.run),
            Progress(self.run, self.epochs, self.steps, self.step) as progress,
            interruptible(self._answer) as received,
        ):
            stopped = False
            while self.step < self.steps and not stopped and not mpi.anyone(received):
                self._enter_stage(progress)
                self._train_epoch(progress, received)
                if not mpi.anyone(received):
                    self._validate(progress)
                self.run.save(self.content())
                self._prune()
                stopped = mpi.anyone(self._stops_early())
                progress.draw(last=stopped or self.step >= self.steps)
        if mpi.anyone(received):
            if mpi.first():
                print(
                    f"interrupted after step {self.step}; resume with: "
                    f"jfusion train --resume {self.run.folder}"
                )
            raise KeyboardInterrupt
        if mpi.first():
            print(progress.summary(self.step))

    def _answer(self) -> str:
        """The line with which Ctrl-C is answered."""
        return f"finishing step {self.present}, then saving (Ctrl-C again: stop without it)"

    def _kept(self) -> str:
        """The line that says which checkpoints stay."""
        if self.options.keep_last is None:
            return "checkpoints: all are kept"
        return (
            f"checkpoints: the newest {self.options.keep_last} and the best by {self.options.best} are "
            "kept, the others removed (--keep-last none keeps all)"
        )

    def _validate(self, progress: Progress) -> None:
        """Evaluates the validation pairs after every so many epochs, and at the end."""
        due = self.batch == 0 and self.epoch % self.options.val_every == 0
        if self.validation and mpi.first() and (due or self.step >= self.steps):
            epoch = self.epoch + bool(self.batch)  # as the previews of training count it
            values = self.validation.evaluate(
                self.system,
                lambda name, row: self.run.save_row(
                    epoch, f"val_{name}", row, f"validation/{name}"
                ),
            )
            progress.report_validation(self.step, self.epoch, values)

    def _stops_early(self) -> bool:
        """Whether as many validations as --early-stop says have brought nothing better."""
        patience = self.options.early_stop
        best = self._best_epoch() if patience is not None and not self.batch else None
        if best is None:
            return False
        stops = (self.epoch - best) // self.options.val_every >= patience
        if stops and mpi.first():
            print(f"stopped early: {self.options.best} was best after epoch {best}")
        return stops

    def _best_epoch(self) -> int | None:
        sizes = [len(self.loader(epoch)) for epoch in range(self.epoch)]
        return self.run.best_epoch(self.options.best, sizes)

    def _train_epoch(self, progress: Progress, received: list[int]) -> None:
        """Trains the rest of the present epoch, or until it is interrupted or all steps are done."""
        loader = self.loader(self.epoch)
        with contextlib.closing(loader.epoch(self.epoch, self.batch)) as batches:
            for arrays in batches:
                self._train_step(arrays, progress)
                if mpi.anyone(received) or self.step >= self.steps:
                    break
        if self.batch == len(loader):
            self.epoch, self.batch = self.epoch + 1, 0

    def _train_step(self, arrays: NumPyBatch, progress: Progress) -> None:
        """Updates the parameters of every optimizer of the stage once, on one batch."""
        self.present = self.step + 1
        watch.let_first_pass(self._answer())
        runtime.seed(self.options.seed * 1_000_003 + self.step)
        text = None if arrays.text is None else jt.array(arrays.text)
        batch = Batch(jt.array(arrays.a), jt.array(arrays.b), text, arrays.names, arrays.dataset)
        losses = self.system.losses(batch, self.stage)
        parameters = [p for o in self.optimizers.values() for p in o.parameters.values()]
        gradients = map(mpi.mean, jt.grad(losses["total"], parameters))
        values = {name: mpi.mean(value).item() for name, value in losses.items()}
        self._check_losses(values, arrays.names)
        rates = {name: self._rate(name) for name in self.optimizers}
        for name, optimizer in self.optimizers.items():
            optimizer.apply([next(gradients) for _ in optimizer.parameters], rates[name])
        place = self.epoch, self.batch, len(self.loader(self.epoch))
        self.batch, self.step = self.batch + 1, self.step + 1
        if mpi.first():
            progress.report(self.step, place, values, rates)
            if place[1] < self.options.images:
                save_images(self.system, batch, arrays.pairs, self.run, self.epoch + 1)

    def _check_losses(self, values: dict[str, float], samples: list[str]) -> None:
        """Raises UserError when a loss is not finite, or `--keep-best` names none of them."""
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"the loss is not finite ({', '.join(bad)}) in epoch {self.epoch + 1} on the samples "
                f"{', '.join(samples)}; the weights before this step are in "
                f"{self.run.save(self.content())}; lower --learning-rate or look at these samples"
            )
        known = [*(self.validation.columns if self.validation else ()), *values]
        if self.options.best not in known:
            kind = "metrics and losses" if self.validation else "losses"
            raise UserError(f"--keep-best {self.options.best}: the {kind} are {', '.join(known)}")

    def _prune(self) -> None:
        """Removes the checkpoints that neither --keep-last nor --keep-best keeps."""
        if self.options.keep_last is not None and len(self.run.checkpoints()) > 1:
            self.run.prune(self.options.keep_last, self._best_epoch())

    # ---- stages and their optimizers

    def _locate(self) -> tuple[Stage, int]:
        """The stage that the present epoch belongs to, and the epoch at which it began."""
        first = 0
        for stage in self.stages:
            if self.epoch < first + stage.epochs:
                return stage, first
            first += stage.epochs
        return self.stages[-1], first - self.stages[-1].epochs

    def _enter_stage(self, progress: Progress) -> None:
        """Makes the optimizers of a stage that begins; one that an earlier stage had keeps its state."""
        stage = self._locate()[0]
        if stage is self.stage:
            return
        progress.compiling()
        before = {name: o.state() for name, o in self.optimizers.items()} or self.loaded_optimizers
        self.stage, self.loaded_optimizers = stage, {}
        self.configs = {c.name: c for c in self.system.optimizers(stage)}
        self.optimizers = {name: Adam.from_config(c) for name, c in self.configs.items()}
        for name in before.keys() & self.optimizers.keys():
            self.optimizers[name].load_state(before[name])

    def _rate(self, name: str) -> float:
        """The learning rate of an optimizer at the present step."""
        epoch = self.epoch - self._locate()[1]
        return self.configs[name].rate(epoch, self.batch, len(self.loader(self.epoch)))

    # ---- state

    def content(self) -> dict[str, Any]:
        """The checkpoint of the present state. Raises UserError when a weight is not finite."""
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
            "scheduler": {name: self._rate(name) for name in self.configs},
            "stage": self.stage.name,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "random": {"seed": self.options.seed, "step": self.step},
            **self.run.record,
        }

    def load(self, content: dict[str, Any], same_data: bool = True) -> None:
        """Restores the state that `content` saved.

        same_data: whether the data are those that the run began with, so that the steps must agree with
        the epochs. Raises UserError when the counts of the checkpoint cannot be right.
        """
        where = f"the checkpoint of {self.run.folder}"
        counts = {key: content.get(key) for key in ("epoch", "batch", "step")}
        for key, value in counts.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UserError(f"{where}: {key} is not a count: {printable(repr(value))[:60]}")
        epoch, batch, step = counts.values()
        if epoch > self.epochs:
            raise UserError(f"{where}: {epoch} complete epochs of {self.epochs}")
        expected = sum(len(self.loader(i)) for i in range(epoch)) + batch
        if same_data and step != expected:
            raise UserError(
                f"{where} counts {counted(step, 'step')}, and {counted(epoch, 'epoch')} and {batch} batches are {expected}"
            )
        self.system.load_state(content["model"], where)
        self.epoch, self.batch, self.step = epoch, batch, step
        self.loaded_optimizers = content["optimizer"]
