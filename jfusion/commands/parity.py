"""`jfusion parity SYSTEM`: a port next to the authors' code, from names to speed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from jfusion.config import CommandOptions, setting
from jfusion.errors import UserError
from jfusion.files import check_output
from jfusion.systems import registry

EPILOG = (
    "The report is in DIR/parity/SYSTEM: report.md, report.html, and report.zh.md and report.zh.html in "
    "Chinese. Without --reference the authors' figures are recorded ones, and nothing needs PyTorch."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """The system, the authors' code, and what both sides compute."""

    system: str = setting(
        registry.DEFAULT,
        "a system of a paper (docs/parity.md lists them)",
        "SYSTEM",
        positional=True,
    )
    reference: str | None = setting(
        None, "a checkout of the authors' repository (default: recorded figures)", "DIR"
    )
    python: str | None = setting(
        None,
        "with --reference: a Python that has torch and numpy, and what their code imports",
        "PY",
    )
    weights: str | None = setting(
        None, "a checkpoint that both sides load (default: drawn from the names)", "PATH"
    )
    data: str | None = setting(
        None,
        "an H5 file: its first pairs are the batch, and all are fused and evaluated (default: drawn)",
        "FILE",
    )
    pairs: int | None = setting(None, "fuse only the first N pairs (default: all)", "N", least=1)
    size: tuple[int, int] | None = setting(
        None,
        "size of the batch's images (default: a small one of the system)",
        ("H", "W"),
        least=16,
    )
    batch_size: int | None = setting(
        None, "pairs in the batch (default: the system's)", "N", least=1
    )
    steps: int | None = setting(
        None,
        "steps of training, of each stage; of the first, which compiles, no time counts (default: 10, or as "
        "many as are recorded)",
        "N",
        least=2,
    )
    learning_rate: float | None = setting(None, "of these steps (default: the paper's)", above=0)
    threads: int = setting(2, "threads of each side", "N", least=1)
    out: str = setting("parity", "folder for the reports, in it <system>", "DIR")


def run(options: Options) -> int:
    """Compares, prints the summary, and writes the reports."""
    from jfusion.parity import report, session

    if bool(options.reference) != bool(options.python):
        raise UserError("--reference and --python belong together: give both, or neither")
    folder = Path(options.out) / options.system
    check_output(folder, "the reports", folder=True)
    setup = session.Setup(
        options.system,
        options.weights,
        options.data,
        options.pairs,
        options.size,
        options.batch_size,
        options.steps,
        options.learning_rate,
        options.threads,
        options.reference,
        options.python,
    )
    parity = session.run(setup)
    paths = report.write(parity, folder, _command(options))
    for line in report.lines(parity):
        print(line)
    print(f"reports: {', '.join(str(path) for path in paths)}")
    return 0


def _command(options: Options) -> str:
    """The command that makes the report again; its paths may be of another machine."""
    words = ["jfusion", "parity", options.system]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name == "system" or value == field.default:
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
