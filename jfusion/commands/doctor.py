"""`jfusion doctor`: what jfusion found on this machine, and how to get what is missing."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from jfusion.config import CommandOptions, setting
from jfusion.errors import UserError, counted
from jfusion.runtime import build, cache, cuda_patches, machine
from jfusion.systems import registry
from jfusion.version import __version__

if TYPE_CHECKING:
    from jfusion.systems.network import NetworkSystem


@dataclass(frozen=True)
class Options(CommandOptions):
    """Actions in addition to the report."""

    quiet: bool = setting(False, "print problems only")
    warm: str | None = setting(None, "compile a system's kernels ahead (default: none)", "SYSTEM")
    clean: bool = setting(False, "only free what old versions left in the cache")


def run(options: Options) -> int:
    """Prints what is there; 1 when something is missing."""
    if options.clean:
        return clean()
    return diagnose(options.quiet) or (warm(options.warm) if options.warm else 0)


def diagnose(quiet: bool = False) -> int:
    """Prints the findings (only the problems if `quiet`), compiles the core if needed; 0 if all is well."""
    findings = [*_python(), _compiler(), _headers(), _onednn(), _cuda(), _cache()]
    problems = [(name, remedy) for name, _, remedy in findings if remedy]
    if not quiet:
        for name, state, _ in findings:
            print(f"{name:<12} {state}")
    for name, remedy in problems:
        print(f"MISSING {name}: {remedy}", file=sys.stderr)
    if problems:
        return 1
    return _core(quiet)


def _python() -> list[tuple[str, str, str]]:
    """The state of Python and of each package: (name, state, the remedy or "")."""
    version = sys.version_info[:2]
    remedy = "" if (3, 10) <= version <= (3, 12) else "use Python 3.10, 3.11 or 3.12"
    rows = [
        ("jfusion", __version__, ""),
        ("python", f"{platform.python_version()} at {sys.executable}", remedy),
    ]
    for package in ("jittor", "numpy", "h5py", "pillow", "scipy", "transformers", "tqdm"):
        try:
            rows.append((package, metadata.version(package), ""))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed", f"pip install {package}"))
    try:
        machine.check_numpy()
    except (UserError, metadata.PackageNotFoundError) as error:
        rows.append(("numpy", "too new", str(error)))
    return rows


def _compiler() -> tuple[str, str, str]:
    path = machine.compiler()
    if path is None:
        return "compiler", "none", "apt-get install g++ (or set cc_path to your compiler)"
    text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    return "compiler", f"{(text.splitlines() or ['?'])[0]} at {path}", ""


def _headers() -> tuple[str, str, str]:
    config = machine.python_config()
    minor = f"python3.{sys.version_info.minor}"
    return "headers", config or "none", "" if config else f"apt-get install {minor}-dev"


def _onednn() -> tuple[str, str, str]:
    package = machine.onednn()
    if package is None and machine.cuda()[0]:
        return "oneDNN", "not installed; the GPU needs none", ""
    if package is None:
        remedy = "pip install onednn-cpu-gomp==2022.2.1 onednn-devel-cpu-gomp==2022.2.1"
        return "oneDNN", "not installed", remedy
    return "oneDNN", f"{metadata.version('onednn-cpu-gomp')} at {package[1]}", ""


def _cuda() -> tuple[str, str, str]:
    nvcc, why_off = machine.cuda()
    if not nvcc:
        return "CUDA", f"off: {why_off or 'no toolkit found'}", ""
    toolkit = machine.usable_toolkit()
    lines = [
        toolkit.name,
        *(f"Jittor's {c.file} patched: {c.reason}" for c in cuda_patches.needed(toolkit)),
    ]
    return "CUDA", f"\n{'':<13}".join(lines), ""


def _cache() -> tuple[str, str, str]:
    try:
        home = cache.cache_home()
    except UserError as error:
        return "cache", "none", str(error)
    size = cache.cache_size(home) / 2**20
    return "cache", f"{home}, {size:.0f} MiB (jfusion doctor --clean frees what is not needed)", ""


def _core(quiet: bool) -> int:
    """Compiles and runs something small through oneDNN or cuDNN; 1 when it fails."""
    try:
        from jfusion.runtime import jt, nn

        out = nn.conv2d(jt.ones((1, 1, 4, 4)), jt.ones((1, 1, 3, 3)), padding=1).sum().item()
    except UserError as error:
        print(f"MISSING jittor: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # Jittor's own, in many lines
        reasons = re.findall(r"Check failed.*|Reason: .*|.*rror: .*", str(error)) or [str(error)]
        print(f"MISSING jittor: a convolution failed: {reasons[-1].strip()[:200]}", file=sys.stderr)
        return 1
    works = out == 100.0
    if not quiet or not works:
        where = (
            f"on the GPU, {machine.precision()}"
            if jt.flags.use_cuda
            else counted(machine.physical_cores(), "thread")
        )
        place = re.sub(rf"^{re.escape(str(Path.home()))}", "~", jt.flags.cache_path)
        print(
            f"{'jittor runs':<12} {'yes' if works else 'no: a convolution is wrong'}, {where}, {place}"
        )
    return 0 if works else 1


def warm(name: str) -> int:
    """Compiles every kernel of a system ahead: a fusion and a training step on tiny images."""
    module = import_module(registry.config_class(name).__module__)
    cls, before = registry.system_class(name), build.kernels()
    from jfusion.systems.network import NetworkSystem

    if not issubclass(cls, NetworkSystem):
        print(f"{name} has no kernels")
        return 0
    system = registry.create(name, **getattr(module, "TINY", {}))
    with _counting(f"compiling the kernels of {name} (once on this machine)", before):
        for batch_size in (1, 2):
            _use_once(system, batch_size)
    print(f"{counted(build.kernels() - before, 'kernel')} compiled")
    return 0


def _use_once(system: NetworkSystem, batch_size: int) -> None:
    """Fuses a batch of tiny images, and takes a training step of each stage at a rate of 0."""
    import numpy as np

    from jfusion.data.h5 import Pair
    from jfusion.runtime import jt
    from jfusion.systems.base import Batch
    from jfusion.systems.network import NetworkSystem, SamplingSystem
    from jfusion.train.optimizer import Adam

    gray = np.random.default_rng(0).random((2, 1, 32, 40)).astype(np.float32)
    a, b = (np.repeat(x[None], batch_size, 0) for x in system.preprocess(Pair("", *gray)))
    text = jt.rand(batch_size, 3, system.config.text_dim) if system.reads_text else None
    batch = Batch(jt.array(a), jt.array(b), text, [])
    with jt.no_grad():
        system.preview(batch).sync()
        if isinstance(system, SamplingSystem):  # its preview may take another way
            system.fuse(batch.a, batch.b, text).sync()
    if type(system).losses is NetworkSystem.losses:  # it is not trained
        return
    for stage in system.stages():
        total = system.losses(batch, stage)["total"]
        for config in system.optimizers(stage):
            Adam(config.parameters, clip_norm=config.clip_norm).step(total, 0.0)


@contextlib.contextmanager
def _counting(text: str, before: int) -> Iterator[None]:
    """A bar that counts the kernels as they appear."""
    from tqdm import tqdm

    done = threading.Event()

    def watch() -> None:
        with tqdm(desc=text, unit="kernel", leave=False) as bar:
            while not done.wait(0.5):
                bar.update(build.kernels() - before - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def clean() -> int:
    """Removes what is no longer needed from the cache."""
    print(f"{build.clean() / 2**20:.0f} MiB freed in {cache.cache_home()}")
    return 0
