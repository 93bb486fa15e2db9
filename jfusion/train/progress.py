"""What a user sees of a training run: the progress bar, the lines of log.txt, and fused images."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from jfusion.runs import Run
from jfusion.runtime import jt, mpi
from jfusion.systems.base import Batch
from jfusion.systems.network import NetworkSystem


class Progress:
    """A progress bar over the steps of a run, which also writes the run's log.

    epochs: of the whole run. steps: the last step. first: the steps that were done before.
    """

    def __init__(self, run: Run, epochs: int, steps: int, first: int):
        from tqdm import tqdm

        self.run, self.epochs, self.steps = run, epochs, steps
        self.bar = tqdm(
            total=steps,
            initial=first,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not mpi.first(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def report(
        self,
        step: int,
        place: tuple[int, int, int],
        losses: dict[str, float],
        rates: dict[str, float],
    ) -> None:
        """Reports a step that is done: its number from 1, its losses and its learning rates.

        place: the epoch and the batch, from 0, and the number of batches of that epoch.
        """
        epoch, batch, batches = place
        self.bar.update()
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in losses.items()})
        values = " ".join(f"{k}: {v:.6f}" for k, v in losses.items())
        line = f"Epoch {epoch + 1}/{self.epochs} Batch {batch}/{batches} {values} ETA: {self._eta(step)}"
        self.run.log(step, line, {**losses, **{f"learning_rate/{k}": v for k, v in rates.items()}})

    def _eta(self, step: int) -> str:
        """The time that is left, as the bar estimates it."""
        state: dict[str, Any] = self.bar.format_dict
        rate = state["rate"] or (step - state["initial"]) / max(state["elapsed"], 1e-9)
        return time.strftime("%H:%M:%S", time.gmtime((self.steps - step) / rate)) if rate else "?"


def save_images(system: NetworkSystem, batch: Batch, run: Run, epoch: int) -> None:
    """Writes a, b and the system's preview of each pair of the batch into the run folder."""
    system.eval()
    with jt.no_grad():
        fused = system.preview(batch).numpy()
    system.train()
    h, w = fused.shape[2:]
    a, b = batch.a.numpy(), batch.b.numpy()
    for i, name in enumerate(batch.names):
        run.save_images(epoch, name, [np.asarray(x[i, 0, :h, :w]) for x in (a, b, fused)])
