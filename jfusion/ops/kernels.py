"""How the operators call their kernels: C++ for the CPU, and CUDA, from the files in `csrc/`.

A kernel is a plain C++ function; `call_kernel` hands it to Jittor, and a `Function` gives it its gradient.
Jittor compiles each distinct text once. Sizes are arguments of the call and other numbers go in through
`data`, so a new image size compiles nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jfusion.runtime import jt

_CSRC = Path(__file__).with_name("csrc")
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.MULTILINE)
_COMMENT = re.compile(r"[ \t]*//.*")


@cache
def source(*names: str) -> str:
    """The text of files in `csrc/` ("conv.h"), and before it that of the files which they include, each once.

    The text itself goes into Jittor's cache key, so a changed file is compiled anew and the folder it is in
    does not matter. Comments and empty lines are left out: to edit one compiles nothing.
    """
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in texts:
            return
        text = (_CSRC / name).read_text(encoding="utf-8")
        for included in _INCLUDE.findall(text):
            add(included)
        text = _INCLUDE.sub("", _COMMENT.sub("", text)).replace("#pragma once\n", "")
        texts[name] = "".join(f"{line}\n" for line in text.splitlines() if line.strip())

    for name in names:
        add(name)
    return "".join(texts.values())


def call_kernel(
    call: str,
    inputs: Mapping[str, jt.Var],
    outputs: Mapping[str, Sequence[int]],
    *,
    cpu: str = "",
    cuda: str = "",
    data: Mapping[str, float] | None = None,
    depends_on: jt.Var | None = None,
) -> jt.Var | tuple[jt.Var, ...]:
    """Calls a function of `csrc/`; returns its output, or a tuple when it has several.

    call: the C++ call, such as `"prelu_forward(x_p, slope_p, y_p, x->num)"`. In it `x_p` is the data of the
        input or output called x, `x_shape0` its first size, `x->num` its number of values, and `data["k"]` a
        number.
    outputs: names and shapes; they have the dtype of the first input.
    cpu, cuda: the file of `csrc/` that defines the function for the CPU, and for CUDA.
    depends_on: a Var that must be there before the kernel runs. A gradient that computes something again waits
        for the gradient of its result; otherwise Jittor may run it early, and its result stays in memory.
    """
    texts = _texts(call, tuple(inputs), tuple(outputs), cpu, cuda)
    variables = [*inputs.values()] if depends_on is None else [*inputs.values(), depends_on]
    numbers = {name: float(value) for name, value in data.items()} if data else {}
    shapes, dtype = [*outputs.values()], variables[0].dtype
    if len(shapes) == 1:
        return jt.code(shapes[0], dtype, variables, data=numbers, **texts)
    return tuple(jt.code(shapes, [dtype] * len(shapes), variables, data=numbers, **texts))


@cache
def _texts(
    call: str, inputs: tuple[str, ...], outputs: tuple[str, ...], cpu: str, cuda: str
) -> dict[str, str]:
    """The arguments of `jt.code` for a call: each header, and the call under the names of its Vars.

    They are kept, because joining them takes longer than all else that a call does in Python.
    """
    names = [(name, f"in{i}") for i, name in enumerate(inputs)]
    names += [(name, f"out{i}") for i, name in enumerate(outputs)]
    text = "".join(f"@alias({name}, {var})\n" for name, var in names) + call + ";\n"
    texts = {}
    for device, file in (("cpu", cpu), ("cuda", cuda)):
        if file:
            texts |= {f"{device}_header": source(file), f"{device}_src": text}
    return texts


class Function(jt.Function):
    """A `jt.Function` whose gradients are constants.

    Jittor can differentiate a gradient again, and for that it would keep everything the gradient was
    computed from. Nothing here takes second derivatives.
    """

    def _grad(self, *grads: jt.Var) -> list[jt.Var | None]:
        results = super()._grad(*grads)
        return [v if v is None else v.stop_grad() for v in results]


def use_kernel(*inputs: jt.Var, cuda: bool = False) -> bool:
    """Whether a kernel applies: all inputs are float32, and on a GPU the kernel has a CUDA form (`cuda`)."""
    if jt.flags.use_cuda and not cuda:
        return False
    # a loop, for all() takes twice as long and this runs a thousand times for one image
    for v in inputs:  # noqa: SIM110
        if v.dtype != "float32":
            return False
    return True


def num_blocks(values: int) -> int:
    """How many of a GPU's blocks share a sum over so many values: the first axis of their partial sums."""
    return min(128, -(-values // 4096))
