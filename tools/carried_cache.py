"""Makes what was compiled on one machine serve on another, so that it need not be compiled there.

    python tools/carried_cache.py record      # where it was compiled: notes the folders
    python tools/carried_cache.py adopt       # where it was carried to, before Jittor starts
    python tools/carried_cache.py count       # later: how much of it served

Jittor compiles into a folder named after the machine, and compiles again what another command line would make.
The folder for everything compiled (`$JFUSION_HOME`), the environment and this checkout must therefore have
the same paths on both machines; `adopt` gives the folder its new name as well, as a link, and writes the new names
into the command lines that Jittor compares.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from jfusion.files import point_link
from jfusion.runtime import environment
from jfusion.runtime.cache import cache_home
from jfusion.runtime.machine import cuda

PATHS = "import jittor_utils; print(jittor_utils.cache_path)"


def main() -> None:
    """Runs the step that the first argument names."""
    {"record": record, "adopt": adopt, "count": count}[sys.argv[1]]()


def record() -> None:
    """Writes the names of this machine's folders next to what was compiled into them."""
    (cache_home() / "carried.json").write_text(json.dumps(folders()))


def adopt() -> None:
    """Gives what was carried the names that this machine's Jittor looks for."""
    old, new = json.loads((cache_home() / "carried.json").read_text()), folders()
    base, fresh = Path(old["base"]), Path(new["base"])
    if fresh != base:
        fresh.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        point_link(fresh, base)
    if old["cuda"] != new["cuda"]:
        point_link(base / new["cuda"], base / old["cuda"])
    if old["tree"] != new["tree"]:
        shutil.rmtree(old["tree"], ignore_errors=True)  # of links to the other machine's files
        point_link(Path(old["tree"]), Path(new["tree"]))
    swaps = [(f"{old['base']}/{old['cuda']}", f"{new['base']}/{new['cuda']}")]
    swaps += [(old[name], new[name]) for name in ("base", "tree")]
    for key in base.rglob("*.key"):
        text = key.read_text()
        for before, after in swaps:
            text = text.replace(before, after)
        key.write_text(text)
    (cache_home() / "adopted").write_text(str(time.time()))
    print(f"adopted {len(list(base.rglob('*.key')))} results")


def count() -> None:
    """Prints how many of the carried results were compiled again, and how many were missing."""
    base = Path(json.loads((cache_home() / "carried.json").read_text())["base"])
    adopted = float((cache_home() / "adopted").read_text())
    for what, pattern in (
        ("core", "obj_files/*.o"),
        ("operations", "custom_ops/*.so"),
        ("kernels", "jit/*.so"),
    ):
        made = [f for f in base.glob(f"cu*/{pattern}") if not f.parents[1].is_symlink()]
        fresh = sum(f.stat().st_mtime > adopted for f in made)
        print(f"RESULT {what}: {len(made) - fresh} carried, {fresh} compiled here")


def folders() -> dict[str, str]:
    """Where Jittor compiles to on this machine: its folder, the part for CUDA, and the toolkit's links."""
    variables, home = environment.environment(), cache_home()
    nvcc = variables["nvcc_path"]
    if not nvcc:
        raise SystemExit(f"carried_cache: CUDA is off here ({cuda()[1]})")
    site = environment.jittor_site(home, nvcc)
    inside = {**os.environ, **variables, "HOME": str(home), "JITTOR_HOME": str(home)}
    inside["PYTHONPATH"] = f"{site}:{os.environ.get('PYTHONPATH', '')}"
    base = _output([sys.executable, "-c", PATHS], inside)
    release = _output([nvcc, "--version"], inside).rpartition(", V")[2].split()[0]
    query = subprocess.run(
        [sys.executable, "-m", "jittor_utils.query_cuda_cc"],
        env=inside,
        capture_output=True,
        text=True,
    )
    chips = "_".join(sorted(set(query.stdout.split()))) if query.returncode == 0 else ""
    return {
        "base": base,
        "cuda": f"cu{release}" + (f"_sm_{chips}" if query.returncode == 0 else ""),
        "tree": str(Path(nvcc).parents[1]),
    }


def _output(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise SystemExit(f"carried_cache: {command[0]} says nothing: {done.stderr[-500:]}")
    return lines[-1] if command[0] == sys.executable else done.stdout


if __name__ == "__main__":
    main()
