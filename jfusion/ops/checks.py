"""What an operator asks of its inputs, checked before anything runs.

A kernel trusts the sizes it is given: a weight of too few channels would be read past its end. Every public
operator therefore checks its inputs here, for the kernel and for the reference alike. Only shapes and types
are looked at, which takes microseconds and waits for no result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral
from typing import Any

from jfusion.errors import UserError
from jfusion.runtime import jt


def once_per_shape(check: Callable[..., None]) -> Callable[..., None]:
    """Makes `check(op, *inputs, **inputs)` run once for each combination of shapes and types that passes.

    A sampler calls the same operators thousands of times with the same shapes. An input is a Var, None, or a
    number or text that belongs to the operator.
    """
    accepted: set[tuple] = set()

    @wraps(check)
    def wrapper(op: str, *inputs: Any, **named: Any) -> None:
        values = (*inputs, *named.values())
        key = (op, *[(*v.shape, str(v.dtype)) if isinstance(v, jt.Var) else v for v in values])
        try:
            if key in accepted:
                return
        except (
            TypeError
        ):  # a list or an array, which cannot be looked up and which no check accepts
            pass
        check(op, *inputs, **named)
        if len(accepted) == _REMEMBERED:
            accepted.clear()
        accepted.add(key)

    return wrapper


_REMEMBERED = 4096  # a bound on the memory, for programs that see ever new image sizes


def check_float(op: str, **inputs: jt.Var) -> None:
    """UserError unless all inputs are Vars of one floating-point type.

    `check_float("conv", x=x, weight=weight)` -> "conv: weight must be float32 as x is, not int32".
    """
    first, expected = "", ""
    for name, x in inputs.items():
        if not isinstance(x, jt.Var):
            raise UserError(f"{op}: {name} must be a Jittor Var, not {type(x).__name__}")
        dtype = str(x.dtype)
        if not expected:
            if "float" not in dtype:
                raise UserError(f"{op}: {name} must be of a floating-point type, not {dtype}")
            first, expected = name, dtype
        elif dtype != expected:
            raise UserError(f"{op}: {name} must be {expected} as {first} is, not {dtype}")


def check_shape(
    op: str, name: str, x: jt.Var, pattern: Sequence[int | str], reason: str = ""
) -> None:
    """UserError unless x has the shape `pattern`: numbers are required sizes, letters stand for any size.

    A letter that occurs twice stands for the same size. `check_shape("conv", "weight", weight, ("O", 3, "K",
    "K"), "for an input of 3 channels")` -> "conv: weight must be (O, 3, K, K) for an input of 3 channels, not
    (4, 1, 3, 3)".
    """
    shape = tuple(x.shape)
    sizes: dict[int | str, int] = {}
    if len(shape) == len(pattern) and all(
        size == (expected if isinstance(expected, int) else sizes.setdefault(expected, size))
        for size, expected in zip(shape, pattern, strict=True)
    ):
        return
    required = f"({', '.join(map(str, pattern))}{',' if len(pattern) == 1 else ''})"
    raise UserError(f"{op}: {name} must be {required}{' ' + reason if reason else ''}, not {shape}")


def check_count(op: str, name: str, value: object, least: int = 1) -> None:
    """UserError unless `value` is a whole number of at least `least`.

    `check_count("group_norm", "groups", 2.5)` -> "group_norm: groups must be a whole number of 1 or more, not
    2.5".
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{op}: {name} must be a whole number of {least} or more, not {value!r}")


def check_divisible(op: str, what: str, size: int, divisor: int) -> None:
    """UserError unless `size` is a multiple of `divisor`, a whole number of 1 or more.

    `check_divisible("group_norm", "the channels of x", 6, 4)` -> "group_norm: the channels of x must be
    divisible by 4, and there are 6".
    """
    check_count(op, f"what divides {what}", divisor)
    if size % divisor:
        raise UserError(f"{op}: {what} must be divisible by {divisor}, and there are {size}")
