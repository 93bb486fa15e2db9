"""From the tensors of a checkpoint into a module: by our names, by the authors', in part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jfusion.checkpoint.names import WeightMap, check_names
from jfusion.errors import UserError, counted
from jfusion.runtime import jt

if TYPE_CHECKING:
    from jfusion.systems.network import NetworkSystem


PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "generator.")


def load_state(
    system: NetworkSystem, state: dict[str, np.ndarray], where: str, consume: bool = False
) -> None:
    """Loads parameters and buffers by our names; one UserError lists every name that does not fit.

    A buffer (a Var whose gradient is stopped) stays one. consume: empties `state` on the way, so that
    large weights are never in memory twice.
    """
    parameters = system.state_dict()
    check_names({k: v.shape for k, v in parameters.items()}, state, where, system.name)
    for name, parameter in parameters.items():
        buffer = parameter.is_stop_grad()
        value = state.pop(name) if consume else state[name]
        if not np.isfinite(value).all():
            raise UserError(
                f"{where}: the tensor {name} holds NaN or infinite values; do not use it"
            )
        parameter.update(jt.array(np.ascontiguousarray(value, np.float32)))
        parameter.stop_grad() if buffer else parameter.start_grad()
    # One number as a constant, Jittor cannot always spread over an image. Nothing else is computed: the random
    # values that these replace would take kernels of their own.
    jt.sync(list(parameters.values()), False, False)


def load_official(
    system: NetworkSystem, state: dict[str, np.ndarray], where: str, consume: bool = False
) -> None:
    """Loads parameters by the authors' names; strict, but for those that the system's map ignores, the
    optional ones, and the counts of batches of PyTorch's BatchNorm."""
    names = system.WEIGHTS
    parameters = {names.official(name): v for name, v in system.state_dict().items()}
    values = {name: v.numpy() for name, v in parameters.items() if name.startswith(names.optional)}
    used = {
        name: v
        for name, v in state.items()
        if not name.startswith(names.ignored) and not name.endswith(".num_batches_tracked")
    }
    used = {**values, **used}
    check_names({name: v.shape for name, v in parameters.items()}, used, where, system.name)
    if consume:
        state.clear()
    load_state(
        system, {names.ours(name): used.pop(name) for name in parameters}, where, consume=True
    )


def load_weights(
    system: NetworkSystem,
    state: dict[str, np.ndarray],
    where: str,
    partial: bool = False,
    consume: bool = False,
) -> None:
    """Loads parameters by our names or the authors', whichever the file has; strict.

    partial: loads the tensors that fit, keeps the present values of the others, and prints both lists.
    """
    parameters, names = system.state_dict(), system.WEIGHTS
    state = _without_prefix(state, parameters, names)
    ours = sum(name in parameters for name in state)
    official = sum(names.ours(name) in parameters for name in state)
    if partial:
        state = {names.ours(k) if official > ours else k: v for k, v in state.items()}
        load_state(system, _fitting(system, state, where), where)
    else:
        (load_official if official > ours else load_state)(system, state, where, consume)


def _fitting(
    system: NetworkSystem, state: dict[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """The system's present state with the tensors of `state` that fit it; prints what does not."""
    parameters = system.state()
    shapes = {name: np.shape(value) for name, value in state.items()}
    fitting = [name for name, value in parameters.items() if shapes.get(name) == value.shape]
    if not fitting:
        raise UserError(f"{where}: none of its {len(state)} tensors fits {system.name}")
    unchanged = [name for name in parameters if name not in fitting]
    skipped = [f"{name} {list(shape)}" for name, shape in shapes.items() if name not in fitting]
    print(f"{where}: {len(fitting)} of {counted(len(parameters), 'tensor')} loaded")
    for what, listed in (("skipped from the file", skipped), ("left as they were", unchanged)):
        if listed:
            print(f"  {len(listed)} {what}: {', '.join(listed)}")
    return {**parameters, **{name: state[name] for name in fitting}}


def _without_prefix(
    state: dict[str, np.ndarray], parameters: dict[str, Any], names: WeightMap
) -> dict[str, np.ndarray]:
    """The state without `model.`, `net.` and the like before every name, where more names fit then."""

    def fitting(candidate: dict[str, np.ndarray]) -> int:
        return sum(n in parameters or names.ours(n) in parameters for n in candidate)

    best, candidate = state, state
    while candidate:
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in candidate)), None)
        if prefix is None:
            return best
        candidate = {n.removeprefix(prefix): v for n, v in candidate.items()}
        if fitting(candidate) > fitting(best):
            best = candidate
    return best
