"""What a user sees of a training run: bars, the lines of log.txt, images, curves, and a summary."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from jfusion.data.h5 import Pair
from jfusion.errors import UserError, counted, printable
from jfusion.report import curves
from jfusion.runs import Run
from jfusion.runtime import jt, mpi
from jfusion.systems.base import Batch, round_to_uint8, with_color_of
from jfusion.systems.network import NetworkSystem

RECENT = 100  # steps whose median time gives the time that is left
OVERALL = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {elapsed} so far{postfix}"
EPOCH = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
PAUSE = 20.0  # seconds from one drawing of the curves to the next, at least


class Progress:
    """A bar over the run and one over the present epoch, which also write the run's log.

    epochs: of the whole run. steps: the last step. first: the steps that were done before.
    """

    def __init__(self, run: Run, epochs: int, steps: int, first: int):
        from tqdm import tqdm

        self.run, self.epochs, self.steps = run, epochs, steps
        common = {"dynamic_ncols": True, "disable": not mpi.first()}
        self.bar = tqdm(total=steps, initial=first, bar_format=OVERALL, position=0, **common)
        self.epoch_bar = tqdm(bar_format=EPOCH, position=1, leave=False, **common)
        self.seconds: deque[float] = deque(maxlen=RECENT)
        self.begun = self.drawn = time.monotonic()
        self.validated = ""
        self.compiling()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.epoch_bar.close()
        self.bar.close()

    def compiling(self) -> None:
        """The next step also compiles kernels: the bar says so, and its time counts for nothing."""
        self.last: float | None = None
        self.bar.set_description_str("compiling kernels (first step)", refresh=False)
        self._show_left()

    def _show_left(self) -> None:
        """Behind the bar: the time that is left, and the metrics of the last validation."""
        self.bar.set_postfix_str(f"left {self._left()}{self.validated}")

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
        now = time.monotonic()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now
        self.bar.update()
        self.bar.set_description_str("training", refresh=False)
        self._show_left()
        self.epoch_bar.total, self.epoch_bar.n = batches, batch + 1
        self.epoch_bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self.epoch_bar.set_postfix({k: f"{v:.4g}" for k, v in losses.items()})
        values = " ".join(f"{k}: {v:.6f}" for k, v in losses.items())
        line = (
            f"Epoch {epoch + 1}/{self.epochs} Batch {batch}/{batches} {values} ETA: {self._left()}"
        )
        self.run.log(step, line, {**losses, **{f"learning_rate/{k}": v for k, v in rates.items()}})

    def report_validation(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Reports the metrics of the validation pairs after so many epochs: in a line of its own, and in
        the bar until the next ones.
        """
        text = " ".join(f"{k}: {v:.4f}" for k, v in values.items())
        self.validated = f"; validation {' '.join(f'{k} {v:.3g}' for k, v in values.items())}"
        self.bar.write(f"validation after epoch {epoch}: {text}")
        self._show_left()
        self.run.log(step, f"Validation {text}", {f"val/{k}": v for k, v in values.items()})

    def _left(self) -> str:
        """The time that the steps to come need, from the median of the recent ones: h:mm:ss, or ?."""
        if not self.seconds:
            return "?"
        return clock((self.steps - self.bar.n) * statistics.median(self.seconds))

    def draw(self, last: bool = False) -> None:
        """Renews curves.png of the run, unless it was drawn a moment ago; at the end, report.html too.

        A figure that cannot be drawn does not end the training: it is named in a note.
        """
        if not mpi.first() or (not last and time.monotonic() - self.drawn < PAUSE):
            return
        try:
            curves.write(self.run.folder / "curves.png", [self.run], strips=False)
            if last:
                curves.write(self.run.folder / "report.html", [self.run])
        except UserError as error:
            self.bar.write(f"note: {printable(error, 4000)}")
        self.drawn = time.monotonic()

    def summary(self, step: int) -> str:
        """What the run has come to, in a few lines: time, losses, checkpoint, curves, the next command."""
        spent = f"{counted(step, 'step')} done, in {clock(time.monotonic() - self.begun)}"
        if self.seconds:
            spent += f" ({statistics.median(self.seconds):.3g} s a step)"
        folder, (*_, checkpoint) = self.run.folder, self.run.checkpoints()
        return "\n".join(
            [
                spent,
                f"loss: {self._losses()}",
                f"checkpoint: {checkpoint}",
                f"curves: {folder / 'curves.png'}, report.html next to it; live: tensorboard "
                f"--logdir {folder.parent} (pip install tensorboard)",
                f"test with: jfusion test --weights {folder}",
            ]
        )

    def _losses(self) -> str:
        """The first and the last value of the total loss, each the mean over up to 100 steps."""
        total = self.run.scalars().get("total", np.array([]))
        total = total[np.isfinite(total)]
        if not len(total):
            return "not logged"
        count = max(1, min(RECENT, len(total) // 2))
        over = "" if count == 1 else f" (means of the first and last {count} steps)"
        return f"{total[:count].mean():.4g} at first, {total[-count:].mean():.4g} at last{over}"


def clock(seconds: float) -> str:
    """A duration as h:mm:ss, of more than a day too."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def save_images(
    system: NetworkSystem, batch: Batch, pairs: Sequence[Pair], run: Run, epoch: int
) -> None:
    """Writes a, b and the system's preview of each pair of the batch into the run folder.

    pairs: those of the batch; where one has color, its sources and the result are shown in it.
    """
    system.eval()
    with jt.no_grad():
        fused = system.preview(batch).numpy()
    system.train()
    h, w = fused.shape[2:]
    a, b = batch.a.numpy(), batch.b.numpy()
    for i, pair in enumerate(pairs):
        grays = [round_to_uint8(x[i, 0, :h, :w]) for x in (a, b, fused)]
        if pair.rgb_a is None and pair.rgb_b is None:
            run.save_images(epoch, pair.name, grays)
            continue
        colors = [None if x is None else x[:h, :w] for x in (pair.rgb_a, pair.rgb_b)]
        colors.append(with_color_of(pair, grays[2]).rgb)
        shown = [
            np.repeat(gray[..., None], 3, 2) if rgb is None else rgb
            for gray, rgb in zip(grays, colors, strict=True)
        ]
        run.save_images(epoch, pair.name, shown)
