"""`jfusion systems`: the systems that can be named, those of other installed packages included."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import CommandOptions
from jfusion.errors import UserError
from jfusion.systems import registry


@dataclass(frozen=True)
class Options(CommandOptions):
    """None."""


def run(options: Options) -> int:
    """Prints the name and the title of each system."""
    for name in registry.names():
        try:
            title = registry.title(name)
        except UserError as error:  # of another package: the others are listed all the same
            title = f"({error})"
        print(f"{name:<10} {title}")
    return 0
