"""`jfusion cache`: carries what was compiled to another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jfusion.config import REQUIRED, CommandOptions, setting
from jfusion.files import check_output, mark_input
from jfusion.runtime import carry

EPILOG = (
    "The file fits machines with the same Jittor, jfusion, Python, oneDNN, compiler and instruction sets; another is "
    "refused. For machines with different processors: cc_flags=-march=x86-64-v3 (or v4), when it is packed and "
    "wherever it is used. A machine without a compiler runs with what was packed, and cannot compile more. It "
    "holds machine code: unpack only what you trust."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """What is done, and the file."""

    action: Literal["pack", "unpack"] = setting(
        REQUIRED,
        "pack: write what is compiled for this environment; unpack: use it here",
        "pack|unpack",
        positional=True,
    )
    file: str = setting(REQUIRED, "the file of both", "FILE", positional=True)


def run(options: Options) -> int:
    """Writes or reads the file, and prints how many kernels are in it, or new."""
    if options.action == "pack":
        check_output(options.file, "the cache")
        print(f"packed the core and {carry.pack(options.file)} kernels into {options.file}")
    else:
        mark_input(options.file)
        print(f"unpacked the core; {carry.unpack(options.file)} kernels are new")
    return 0
