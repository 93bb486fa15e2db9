"""`jfusion check`: whether an H5 file is whole, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass

from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.data import h5


@dataclass(frozen=True)
class Options(CommandOptions):
    """The file."""

    file: str = setting(REQUIRED, "the H5 file", positional=True)


def run(options: Options) -> int:
    """Reads every sample and prints a summary; a fault raises UserError."""
    print(h5.summary(options.file, h5.check(options.file)))
    return 0
