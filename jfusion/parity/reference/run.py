"""The authors' side of `jfusion parity`: runs their networks, and writes what they compute.

    python run.py SYSTEM FOLDER REQUEST.npz ANSWER.npz

It runs in a Python that has PyTorch and NumPy, and imports nothing of jfusion. A system is one file next to
this one, with a class `Reference`; see `shared.Reference`. REQUEST has the weights by the authors' names
(`weights/...`), the batch (`batch/...`), the pairs to fuse (`pairs/<i>/...`) and the options (`options`,
JSON). ANSWER has names, layers, gradients, losses, fused images, seconds and peak memory.
"""

from __future__ import annotations

import importlib
import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from constants import FORWARD_RUNS, rows
from shared import below, tensors


def main() -> None:
    """Answers one request."""
    system, folder, request, path = sys.argv[1:5]
    with np.load(request) as stored:
        arrays = dict(stored)
    options = json.loads(str(arrays.pop("options")))
    import torch

    torch.set_num_threads(options["threads"])
    reference = importlib.import_module(system).Reference(folder)
    weights, batch = below(arrays, "weights/"), tensors(below(arrays, "batch/"))
    record, results = {"names": _names(reference)}, {}
    record["missing"] = reference.load(weights)
    record["stages"] = {}
    for stage, rate in options["rates"].items():
        reference.load(weights)
        record["stages"][stage] = _train(reference, batch, stage, rate, options["steps"])
    reference.load(weights)
    record["forward_seconds"] = _time_forward(reference, batch)
    record["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    outputs = _layers(reference, batch)
    record["shapes"] = {name: list(value[0]) for name, value in outputs.items()}
    results.update({name: value[1] for name, value in outputs.items()})
    for stage in options["rates"]:
        reference.load(weights)
        results.update(_gradients(reference, batch, stage))
    reference.load(weights)
    fused, record["fuse_seconds"] = _fuse(reference, arrays)
    results.update(fused)
    record["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    partial = path + ".part.npz"
    np.savez(partial, record=json.dumps(record), **results)
    Path(partial).replace(path)


def _names(reference: Any) -> dict[str, list[int]]:
    """Every entry of the state dicts, under the name that it has in a checkpoint, and its shape."""
    return {
        prefix + name: list(value.shape)
        for prefix, network in reference.networks.items()
        for name, value in network.state_dict().items()
    }


def _train(reference: Any, batch: dict, stage: str, rate: float, steps: int) -> dict[str, Any]:
    """So many steps on the batch; the loss before each of them, and the seconds of each."""
    reference.train(True)
    optimizers = reference.optimizers(stage, rate)
    losses, seconds = [], []
    for _ in range(steps):
        started = time.perf_counter()
        losses.append(reference.step(batch, stage, optimizers))
        seconds.append(time.perf_counter() - started)
    return {"losses": losses, "seconds": seconds}


def _gradients(reference: Any, batch: dict, stage: str) -> dict[str, np.ndarray]:
    """The gradient of the loss with respect to each parameter that gets one."""
    reference.train(True)
    for network in reference.networks.values():
        network.zero_grad(set_to_none=True)
    reference.loss(batch, stage).backward()
    return {
        f"gradients/{stage}/{prefix}{name}": p.grad.numpy()
        for prefix, network in reference.networks.items()
        for name, p in network.named_parameters()
        if p.grad is not None
    }


def _time_forward(reference: Any, batch: dict) -> list[float]:
    import torch

    reference.train(False)
    seconds = []
    with torch.no_grad():
        for _ in range(1 + FORWARD_RUNS):
            started = time.perf_counter()
            reference.forward(batch)
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _layers(reference: Any, batch: dict) -> dict[str, tuple[tuple, np.ndarray]]:
    """The shape and the values of every module's output in one forward pass, and of the whole.

    Names: `layers/<module>/<call>.<part>` and `outputs/<name>`.
    """
    import torch

    reference.train(False)
    results: dict[str, tuple[tuple, np.ndarray]] = {}
    calls: dict[str, int] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            parts = output if isinstance(output, (tuple, list)) else (output,)
            for i, part in enumerate(parts):
                if torch.is_tensor(part):
                    values = rows(part.detach().numpy()).copy()
                    results[f"layers/{name}/{call}.{i}"] = tuple(part.shape), values

        return hook

    handles = [
        module.register_forward_hook(keep((prefix + name).rstrip(".")))
        for prefix, network in reference.networks.items()
        for name, module in network.named_modules()
        if prefix + name
    ]
    with torch.no_grad():
        output = reference.forward(batch)
        for handle in handles:
            handle.remove()
        outputs = {"output": output, **reference.extras(batch)}
    for name, value in outputs.items():
        results[f"outputs/{name}"] = tuple(value.shape), rows(value.numpy())
    return results


def _fuse(reference: Any, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list]:
    """Fuses every pair of the request; returns the images in [0, 1] and the seconds of each."""
    import torch

    reference.train(False)
    results, seconds, i = {}, [], 0
    with torch.no_grad():
        while True:
            pair = below(arrays, f"pairs/{i}/")
            if not pair:
                return results, seconds
            started = time.perf_counter()
            results[f"fused/{i}"] = np.asarray(reference.fuse(tensors(pair)), np.float32)
            seconds.append(time.perf_counter() - started)
            print(f"fused {i}", flush=True)
            i += 1


if __name__ == "__main__":
    main()
