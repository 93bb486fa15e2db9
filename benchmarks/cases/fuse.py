"""`jfusion fuse`: from the start of the command to the first image, and folders next to the network alone.

The authors have no such command, so there is no reference; `--before DIR` compares with an earlier commit.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from cases import common


class Case(NamedTuple):
    """A method, its images, and what is timed.

    pairs: 0 is a new process that fuses one pair; otherwise a process that is warm fuses so many. alone:
    the network, without reading and writing.
    """

    method: str
    size: tuple[int, int] = (480, 640)
    pairs: int = 0
    alone: bool = False


CASES = {
    "start-laplacian": Case("laplacian"),
    "start-film": Case("film"),
    "start-cddfuse": Case("cddfuse"),
    "folder-film": Case("film", pairs=20),
    "network-film": Case("film", pairs=20, alone=True),
    "folder-cddfuse": Case("cddfuse", pairs=20),
    "network-cddfuse": Case("cddfuse", pairs=20, alone=True),
    "start-laplacian-48x64": Case("laplacian", (48, 64)),
}
_folders: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def ours(name: str) -> common.Run:
    """One run of ours."""
    case = CASES[name]
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    root = Path(folder.name)
    _write_pairs(root, case)
    command = ["fuse", str(root / "ir"), str(root / "vi"), "-o", str(root / "out"), "--overwrite"]
    command += _method(root, case.method)
    if case.alone:
        return _network(root, case)

    def run() -> dict[str, np.ndarray]:
        if case.pairs:
            from jfusion.cli import main

            with (
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                code = main(command)
        else:
            code = subprocess.run([sys.executable, "-m", "jfusion", *command], capture_output=True)
            code = code.returncode
        if code:
            raise SystemExit(f"{' '.join(command)} failed")
        return {"fused": _read(root / "out/0.png")}

    return run


def reference(name: str, folder: str) -> NoReturn:
    """There is none."""
    raise SystemExit("the authors have no command like fuse; use --before")


def _method(root: Path, name: str) -> list[str]:
    """The options for a method, whose weights are random and are written here."""
    if name == "laplacian":
        return ["--method", name]
    import jfusion
    from jfusion import checkpoint
    from jfusion.config import to_dict

    system = jfusion.create(name)
    content = {"model": system.state(), "system": name, "config": to_dict(system.config)}
    checkpoint.save(root / "w.pkl", content)
    return ["--weights", str(root / "w.pkl"), *(["--text", "zeros"] if system.reads_text else [])]


def _write_pairs(root: Path, case: Case) -> None:
    from PIL import Image

    for side, channels in (("ir", 1), ("vi", 3)):
        (root / side).mkdir()
        for i in range(max(1, case.pairs)):
            maps = common.images("abc"[:channels], case.size)
            pixels = np.stack([np.roll(x, 7 * i) for x in maps], -1).squeeze()
            Image.fromarray(np.uint8(pixels * 255)).save(root / side / f"{i}.png")


def _network(root: Path, case: Case) -> common.Run:
    """The same pairs through the network alone."""
    import jfusion

    system = jfusion.load(root / "w.pkl")
    pixels = [[_gray(root / s / f"{i}.png") for s in ("ir", "vi")] for i in range(case.pairs)]
    text = [np.zeros((1, 1, system.config.text_dim), np.float32)] if system.reads_text else []

    def run() -> dict[str, np.ndarray]:
        return {"fused": np.stack([system.fuse(a, b, *text) for a, b in pixels])[0]}

    return run


def _gray(path: Path) -> np.ndarray:
    from jfusion.data import color

    return color.gray(_read(path))[None, None] / np.float32(255)


def _read(path: Path) -> np.ndarray:
    from jfusion.data.image import read_rgb

    return read_rgb(path)
