"""What an operator asks of its inputs, checked before anything runs.

A kernel trusts the sizes it is given: a weight of too few channels would be read past its end. Every public
operator therefore checks its inputs here, for the kernel and for the reference alike. Only shapes and types
are looked at, which takes microseconds and waits for no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral

from jfusion.errors import UserError
from jfusion.runtime import jt


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
    if _fits(shape, tuple(pattern)):
        return
    required = f"({', '.join(map(str, pattern))}{',' if len(pattern) == 1 else ''})"
    raise UserError(f"{op}: {name} must be {required}{' ' + reason if reason else ''}, not {shape}")


@lru_cache(maxsize=4096)  # a network asks the same few hundred questions at every step
def _fits(shape: tuple[int, ...], pattern: tuple[int | str, ...]) -> bool:
    """Whether a shape is of the pattern of `check_shape`."""
    sizes: dict[int | str, int] = {}
    return len(shape) == len(pattern) and all(
        size == (expected if isinstance(expected, int) else sizes.setdefault(expected, size))
        for size, expected in zip(shape, pattern, strict=True)
    )


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
