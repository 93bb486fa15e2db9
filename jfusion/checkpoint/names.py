"""The authors' parameter names and ours: translation, and a strict check with the nearest match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from jfusion.errors import UserError


@dataclass(frozen=True)
class WeightCard:
    """Where the authors' weights of a system are, under which license, and the paper."""

    where: str = ""
    license: str = ""
    paper: str = ""


class WeightMap:
    """Parameter names of the authors <-> ours, by templates, and what their files hold besides.

    In a template `{word}` stands for one part of a dotted name, the same on both sides:
    `WeightMap({"restormer{i}.body.{p}": "block{i}.{p}"})`. A name that no template fits is kept.
    ignored: prefixes of the authors' names that change nothing. optional: prefixes of names that we
    have too, and a file may lack.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        ignored: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        card: WeightCard | None = None,
    ):
        self.templates = dict(templates)
        self.ignored, self.optional, self.card = ignored, optional, card or WeightCard()
        self._forward = [(_start(o), o, u) for o, u in self.templates.items()]
        self._backward = [(_start(u), u, o) for o, u in self.templates.items()]

    def ours(self, official: str) -> str:
        """Our name for the authors' one."""
        return _translate(official, self._forward)

    def official(self, ours: str) -> str:
        """The authors' name for ours."""
        return _translate(ours, self._backward)


def _start(template: str) -> str:
    """What every name that fits the template begins with."""
    return template.partition("{")[0]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Compiled when a name begins as the template does: all of FILM's take as long as to import Jittor."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{p}>[^.]+?)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )


def _translate(name: str, table: list[tuple[str, str, str]]) -> str:
    for start, template, other in table:
        if name.startswith(start) and (match := _pattern(template).fullmatch(name)):
            return other.format(**match.groupdict())
    return name


def check_names(
    expected: Mapping[str, Iterable[int]], state: Mapping[str, np.ndarray], where: str, system: str
) -> None:
    """Raises one UserError with every missing, unexpected and misshapen name, and the nearest match."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = {
        name: (list(expected[name]), list(np.shape(state[name])))
        for name in state
        if name in expected
    }
    wrong = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    if not (missing or unexpected or wrong):
        return
    parts = []
    if missing:
        parts.append(
            f"{len(missing)} missing: " + ", ".join(_with_nearest(m, unexpected) for m in missing)
        )
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: " + ", ".join(unexpected))
    if wrong:
        listed = (f"{name} is {has}, must be {must}" for name, (must, has) in wrong.items())
        parts.append(f"{len(wrong)} of another shape: " + ", ".join(listed))
    raise UserError(f"{where} does not fit {system}: " + "; ".join(parts))


def _with_nearest(name: str, candidates: list[str]) -> str:
    near = difflib.get_close_matches(name, candidates, 1, 0.8)
    return f"{name} (nearest: {near[0]})" if near else name
