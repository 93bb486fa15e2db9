"""What the page offers to fuse with: weights that come with jfusion, methods without, and the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from jfusion import inference, weights
from jfusion.config import SystemConfig
from jfusion.data.layout import TASKS
from jfusion.errors import UserError, did_you_mean
from jfusion.systems import registry

AUTO = "auto"  # the default of the task


@dataclass(frozen=True)
class Methods:
    """The methods by the names that the page shows; `own`: name -> path of weights of the user's."""

    own: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Iterable[str]) -> Methods:
        """With weights of the user's: checkpoints, run folders, or folders of runs.

        Raises UserError for one that is not there, or two of one name.
        """
        own: dict[str, str] = {}
        for path in paths:
            file = inference.find_checkpoint(path)
            assert file is not None
            run = file.parent.parent.name if file.parent.name == "model" else file.stem
            if run in own or run in weights.names() or run in registry.names():
                raise UserError(
                    f"--weights {path}: there is a method called {run!r} already; rename it"
                )
            own[run] = str(Path(path).absolute() if Path(path).exists() else path)
        return cls(own)

    @cached_property
    def names(self) -> list[str]:
        """All names: the user's weights, those that come with jfusion, methods without weights."""
        return [*self.own, *weights.names(), *without_weights()]

    def options(self, name: str) -> dict[str, str]:
        """The options of `jfusion fuse` that mean a method; none for `AUTO`. Raises UserError for another name."""
        if name == AUTO:
            return {}
        if name not in self.names:
            raise UserError(f"unknown method {name!r}{did_you_mean(name, self.names)}")
        if name in self.own:
            return {"weights": self.own[name]}
        return {"weights" if name in weights.names() else "system": name}

    def reads_text(self, name: str, task: str = AUTO) -> bool:
        """Whether a method reads a paragraph; `AUTO` is the default of the task, of an unknown one IVF's."""
        return hasattr(self._config(name, task), "text_dim")

    def compiles(self, name: str, task: str = AUTO) -> bool:
        """Whether the method is a network, and Jittor has not been started yet; as in `reads_text`."""
        return "jittor" not in sys.modules and _trained(self._config(name, task))

    def _config(self, name: str, task: str) -> type[SystemConfig]:
        options = self.options(name)
        task = task if task in TASKS else "IVF"
        system = inference.system_of(options.get("weights"), options.get("system"), task)
        return registry.config_class(system)


def without_weights() -> list[str]:
    """The systems of jfusion that need no weights; those that are trained have settings of their own for it."""
    return [name for name in registry.SYSTEMS if not _trained(registry.config_class(name))]


def _trained(config: type[SystemConfig]) -> bool:
    common = {f.name for f in fields(SystemConfig)}
    return any(f.metadata.get("training") and f.name not in common for f in fields(config))
