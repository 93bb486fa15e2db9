"""Our side of a comparison, in a process of its own: `python -m jfusion.parity.ours SYSTEM REQUEST ANSWER`.

The request and the answer are those of reference/run.py.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfusion.files import replacing
from jfusion.parity import draw
from jfusion.parity.cases import Case, case_of
from jfusion.parity.reference.constants import FORWARD_RUNS, rows
from jfusion.runtime import jt
from jfusion.systems import registry
from jfusion.systems.network import NetworkSystem
from jfusion.train.optimizer import Adam


def main() -> None:
    """Answers one request."""
    name, request, answer = sys.argv[1:4]
    with np.load(request) as stored:
        arrays = dict(stored)
    options = json.loads(str(arrays.pop("options")))
    side = Side(name, options["settings"], below(arrays, "weights/"))
    record, results = side.answer(below(arrays, "batch/"), options)
    pairs = [below(arrays, f"ours/{i}/") for i in range(options["pairs"])]
    fused, record["fuse_seconds"] = side.fuse(pairs)
    with (
        replacing(Path(answer), "the answer", "checkpoint") as temporary,
        temporary.open("wb") as file,
    ):
        np.savez(file, record=json.dumps(record), **results, **fused)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without the beginning."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def official_state(system: NetworkSystem) -> dict[str, np.ndarray]:
    """All parameters and buffers of a system by the authors' names."""
    return {system.WEIGHTS.official(name): value for name, value in system.state().items()}


def drawn_weights(system: NetworkSystem, case: Case) -> dict[str, np.ndarray]:
    """Weights that are drawn from the authors' names; constant filters stay as they are."""
    state = official_state(system)
    for name, value in state.items():
        if name.endswith("wt_filter"):
            continue
        factor = next((f for end, f in case.factors.items() if name.endswith(end)), 1.0)
        state[name] = draw.weight(name, value.shape) * np.float32(factor)
    return state


class Side:
    """A system with given weights, which can be set back to them."""

    def __init__(self, name: str, settings: dict[str, Any], weights: dict[str, np.ndarray]):
        self.case, self.weights = case_of(name), weights
        self.system: NetworkSystem = registry.create(name, **settings)

    def load(self, training: bool) -> None:
        """Sets the weights and the mode. SFDFuse and DDFM have none that differ."""
        self.system.load_official(dict(self.weights))
        self.system.train() if training else self.system.eval()

    def answer(
        self, arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is measured and computed on a batch."""
        batch = {name: jt.array(value) for name, value in arrays.items()}
        stages = {stage.name: stage for stage in self.system.stages()}
        record: dict[str, Any] = {
            "names": {k: list(v.shape) for k, v in official_state(self.system).items()}
        }
        record["stages"] = {
            name: self.train(batch, stages[name], rate, options["steps"])
            for name, rate in options["rates"].items()
        }
        record["forward_seconds"] = self.time_forward(batch)
        record["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        outputs = self.layers(batch)
        record["shapes"] = {name: list(value.shape) for name, value in outputs.items()}
        results = {name: rows(value) for name, value in outputs.items()}
        for name in options["rates"]:
            results |= self.gradients(batch, stages[name])
        return record, results

    def train(
        self, batch: dict[str, jt.Var], stage: Any, rate: float, steps: int
    ) -> dict[str, list[float]]:
        """So many steps on the batch; the loss before each of them, and the seconds of each."""
        self.load(training=True)
        optimizers = [Adam.from_config(config) for config in self.system.optimizers(stage)]
        parameters = [p for o in optimizers for p in o.parameters.values()]
        losses, seconds = [], []
        for _ in range(steps):
            jt.sync_all(True)
            started = time.perf_counter()
            total = self.case.losses(self.system, batch, stage)["total"]
            gradients = iter(jt.grad(total, parameters))
            losses.append(total.item())
            for optimizer in optimizers:
                optimizer.apply([next(gradients) for _ in optimizer.parameters], rate)
            jt.sync_all(True)
            seconds.append(time.perf_counter() - started)
        return {"losses": losses, "seconds": seconds}

    def time_forward(self, batch: dict[str, jt.Var]) -> list[float]:
        """The seconds of each forward pass after the first."""
        self.load(training=False)
        seconds = []
        for _ in range(1 + FORWARD_RUNS):
            jt.sync_all(True)
            started = time.perf_counter()
            with jt.no_grad():
                self.case.forward(self.system, batch).numpy()
            seconds.append(time.perf_counter() - started)
        return seconds[1:]

    def layers(self, batch: dict[str, jt.Var]) -> dict[str, np.ndarray]:
        """The outputs of every module in one forward pass: `layers/<module>/<call>.<part>`."""
        self.load(training=False)
        results: dict[str, np.ndarray] = {}
        calls: dict[str, int] = {}

        def keep(name: str, output: Any) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            for i, part in enumerate(output if isinstance(output, tuple | list) else (output,)):
                if isinstance(part, jt.Var):
                    results[f"layers/{name}/{call}.{i}"] = part.numpy()

        modules = {name: m for name, m in self.system.named_modules() if m is not self.system}
        for name, module in modules.items():
            # of a call with named arguments, Jittor passes these on too
            module.register_forward_hook(lambda _, args, out, *named, name=name: keep(name, out))
        with jt.no_grad():
            output = self.case.forward(self.system, batch)
            for module in modules.values():
                module.remove_forward_hook()
            outputs = {"output": output, **self.case.extras(self.system, batch)}
        return results | {f"outputs/{k}": v.numpy() for k, v in outputs.items()}

    def gradients(self, batch: dict[str, jt.Var], stage: Any) -> dict[str, np.ndarray]:
        """The gradient of the loss with respect to each parameter, by the authors' names."""
        self.load(training=True)
        parameters = self.system.trainable()
        total = self.case.losses(self.system, batch, stage)["total"]
        gradients = jt.grad(total, list(parameters.values()))
        return {
            f"gradients/{stage.name}/{self.system.WEIGHTS.official(name)}": gradient.numpy()
            for name, gradient in zip(parameters, gradients, strict=True)
        }

    def fuse(self, pairs: list[dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], list[float]]:
        """Fuses pairs as `jfusion fuse` does; the images in [0, 1], (C, H, W), and the seconds of each."""
        self.load(training=False)
        results, seconds = {}, []
        for i, pair in enumerate(pairs):
            started = time.perf_counter()
            fused = self.system.fuse(pair["a"], pair["b"], pair.get("text"))
            seconds.append(time.perf_counter() - started)
            results[f"fused/{i}"] = fused[0]
            print(f"fused {i}", flush=True)
        return results, seconds


if __name__ == "__main__":
    main()
