"""The system that fuses a task, with its weights and texts, ready to fuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jfusion import inference
from jfusion.data.depth import Range, recorded_ranges
from jfusion.data.h5 import Pair
from jfusion.errors import UserError
from jfusion.fusing.result import to_uint16
from jfusion.fusing.task import Guess
from jfusion.fusing.text import Texts
from jfusion.systems import registry
from jfusion.systems.base import System


def choose(weights: str | None, system: str | None, guess: Guess) -> tuple[str | None, str | None]:
    """The weights and the system that fuse; prints in one line what nobody said and how to say it."""
    reason = f"task {guess.task} ({guess.reason})" if guess.reason else ""
    chosen = inference.chosen(weights, system, guess.task)
    if chosen != (weights, system):
        reason = ", ".join(filter(None, (f"method {chosen[0] or chosen[1]}", reason)))
    ways = ["--task"] if guess.reason else []
    ways += ["--method", "--weights"] if chosen != (weights, system) else []
    if reason:
        print(f"note: {reason}; change it with {', '.join(ways)}")
    return chosen


def _note_first_compilation() -> None:
    """Says what to do meanwhile, or without a compiler: see `Method.find`."""
    from jfusion.runtime.build import is_prepared

    at_once = "--method laplacian needs no network and answers at once"
    try:
        prepared = is_prepared()
    except UserError as error:
        raise UserError(f"{error}; {at_once}") from error
    if not prepared:
        print(
            "note: networks run in Jittor, whose core is compiled first, once on this machine (about a minute on "
            f"two cores); {at_once}",
            flush=True,
        )


@dataclass
class Method:
    """A system ready to fuse, and what it needs of a pair.

    Made in two steps, so that a missing thing is reported before the network is built: `Method.find`
    reads the checkpoint, `build` makes the network and encodes nothing yet.
    """

    name: str
    path: Path | None
    content: dict[str, Any]
    system: System | None = None
    texts: Texts | None = None

    @classmethod
    def find(cls, weights: str | None, system: str | None) -> Method:
        """The checkpoint of the weights, or a system without weights.

        A note says when a network needs Jittor and its core must be compiled first. Raises UserError when
        the checkpoint is not there, or when this machine cannot compile.
        """
        path, content = inference.open_checkpoint(weights, system)
        if path is not None:
            _note_first_compilation()
        return cls(inference.resolve_system(content, system), path, content)

    def __reduce__(self) -> tuple[Callable, tuple[str | None, str]]:
        """Another process reads the checkpoint itself, and builds the system."""
        return Method.find, (self.path and str(self.path), self.name)

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges of values that the training recorded for deep images of "a" and "b"."""
        return recorded_ranges(self.content)

    def build(
        self,
        settings: Mapping[str, Any] | None = None,
        partial: bool = False,
        *,
        text: str | None = None,
        task: str = "IVF",
        names: Iterable[str] = (),
    ) -> None:
        """Creates the system, after a look at the texts; text, task, names: see `Texts`.

        A network that serves several tasks is told the task. Raises UserError for what does not fit.
        """
        inference.note_other_task(self.path, task)
        record = self._record
        self.find_text(text, task, names)
        self.system = inference.from_checkpoint(
            self.path, self.content, self.name, settings, partial, {"task": task}
        )
        if text is None and self.system.neutral_text is not None:
            inference.note_neutral_text()
        elif self._reads_text:
            self.texts = self.texts or Texts(None, task, record, names)
            self.texts.fit(self.system.config.text_dim)

    @property
    def _record(self) -> dict[str, Any]:
        """What the checkpoint says about itself."""
        return {k: v for k, v in self.content.items() if k != "model"}

    @property
    def _reads_text(self) -> bool:
        return hasattr(registry.config_class(self.name), "text_dim")

    def find_text(self, text: str | None, task: str, names: Iterable[str]) -> None:
        """Finds what `--text` names for every pair, before the network is there; see `Texts`.

        Raises UserError for what is missing, and for a system that reads no text.
        """
        if text is None:
            return
        if not self._reads_text:
            others = [n for n in registry.names() if hasattr(registry.config_class(n), "text_dim")]
            use = f"or use --method {' or '.join(others)}"
            raise UserError(f"{self.name} reads no text; leave out --text, {use}")
        self.texts = Texts(text, task, self._record, names)

    def text_of(self, name: str) -> np.ndarray | None:
        """The features of a pair's paragraph; None where the system reads none, or has its own."""
        return None if self.texts is None else self.texts.of(name)

    def fuse(
        self,
        pair: Pair,
        seed: int | None = None,
        samples: int = 1,
        callback: Callable[[int, Any, Any], None] | None = None,
        bits: int = 8,
    ) -> list[np.ndarray]:
        """The fused images of a pair, (h, w) or (h, w, 3) of uint8 or uint16."""
        assert self.system is not None
        arrays = inference.fuse_arrays(self.system, pair, seed, samples, callback)
        if bits == 16:
            return [to_uint16(x, pair) for x in arrays]
        return [self.system.postprocess(x, pair).image for x in arrays]
