"""All pairs of two folders, fused by the command `jfusion fuse` in a process of its own, which can be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jfusion.app.methods import Methods
from jfusion.app.work import Wish, without_advice, without_paths
from jfusion.data.layout import find_pairs
from jfusion.errors import UserError

PACE = 0.5  # seconds between two looks at what is done
GRACE = 20.0  # seconds that a stopped process has to end


class FolderJob:
    """Fuses the pairs of two folders into `out`. Raises UserError at once for folders that do not fit."""

    def __init__(
        self, a: Path, b: Path, out: Path, wish: Wish, methods: Methods, max_pixels: float
    ):
        self.count = len(find_pairs(a, b, exact=False))
        self.out, self.stopped = out, False
        options = {"task": wish.task} if wish.task != "auto" else {}
        options |= methods.options(wish.method) | {"out": str(out), "max-pixels": f"{max_pixels:g}"}
        words = [f"--{name}={value}" for name, value in options.items()]
        if wish.align:
            words.append("--align=shift")
        command = ["fuse", str(a), str(b), *words, "--skip-bad", "--overwrite", "--report"]
        self._log = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115  it is read in the end
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jfusion", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def done(self) -> int:
        """How many pairs are fused."""
        with contextlib.suppress(OSError):
            return sum(p.suffix == ".png" and p.name[0] != "." for p in self.out.iterdir())
        return 0

    def watch(self) -> Iterator[int]:
        """Gives `done` now and then, until the process has ended. The process ends with this generator."""
        try:
            while self._process.poll() is None:
                yield self.done
                time.sleep(PACE)
            yield self.done
        finally:
            self.stop(ended=self._process.poll() is not None)

    def stop(self, ended: bool = False) -> None:
        """Ends the process as Ctrl-C would; what is fused stays."""
        if ended or self._process.poll() is not None:
            return
        self.stopped = True
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def said(self) -> list[str]:
        """What the command said, line by line, without paths of this machine."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").replace("\r", "\n").splitlines()
        wanted = ("note: ", "jfusion: ", "jfusion fuse: ", "  ", "warning: ")
        shown = {str(self.out.parent): "", str(Path.cwd()): ""}
        kept = [line for line in lines if line.startswith(wanted) and "it/s" not in line]
        return [without_advice(without_paths(line.strip(), shown)) for line in kept]

    def check(self) -> None:
        """Raises UserError where the process has ended without a result."""
        if not self.stopped and not self.done:
            lines = self.said() or ["the pairs could not be fused; the terminal says more"]
            raise UserError(lines[-1].removeprefix("jfusion: "))
