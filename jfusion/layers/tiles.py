"""Runs a network on stripes of an image that is too large for the memory, with the result of the whole.

Networks such as FILM and CDDFuse cannot be cut into tiles by their inputs alone: their attention reads
sums over all pixels. Here the stripes are gone through several times. A pass computes each stripe as far
as the first sum that is not known, adds the stripe's share to it, and stops there; the next pass knows
the sum and comes as far as the next one. The feature maps at a `cut` are kept in a temporary file, so
that no pass computes again what was before. What a network does on the whole image and on stripes is the
same but for rounding, and its code is the same but for the functions of this module:

* `total`: a sum over all pixels of the image;
* `cut`: feature maps that are all that is needed from there on;
* `branches`: parts that do not need each other, so that both get as far as they can in one pass;
* `sample`, `spread`: nearest-neighbor resizing of the whole map to a small grid, and back;
* `once`: what is computed from sums alone, and so is the same for all stripes.

Outside of `whole`, on an image in one piece, they cost nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any, NamedTuple

import numpy as np

from jfusion.errors import UserError
from jfusion.ops.channel_attention import cosine_attention as cosine_attention_of_map
from jfusion.ops.matmul import matmul
from jfusion.ops.resize import gather, nearest, nearest_index
from jfusion.ops.softmax import softmax
from jfusion.runtime import jt
from jfusion.runtime.cache import cache_home


class Tiling(NamedTuple):
    """How a system's network is run on large images.

    limit: images of more pixels are cut into stripes; pixels: about as many of a stripe; halo: rows above
    and below it, further than which no part between two cuts reads; passes: how often the stripes are
    gone through; channels: of all feature maps that are on the disk at a time.
    """

    limit: int
    pixels: int
    halo: int
    passes: int
    channels: int


class _Paused(Exception):
    """The pass has gone as far as it can with this stripe."""


class _Stripe(NamedTuple):
    """Rows `top` to `bottom` of the image are computed, `first` to `last` of them are the stripe's own."""

    top: int
    first: int
    last: int
    bottom: int

    @property
    def own(self) -> slice:
        """The stripe's own rows, in a map of the stripe."""
        return slice(self.first - self.top, self.last - self.top)


@dataclass
class _Map:
    """Feature maps of the whole image in a file, one image row after another: (H, N * C, W) float32."""

    shape: tuple[int, int, int]  # N, C, W
    file: IO[bytes] | None

    def write(self, x: np.ndarray, stripe: _Stripe) -> None:
        """The own rows of a stripe, (N, C, rows, W)."""
        self.file.seek(stripe.first * int(np.prod(self.shape)) * 4)
        self.file.write(np.ascontiguousarray(x.transpose(2, 0, 1, 3)).data)

    def read(self, stripe: _Stripe) -> np.ndarray:
        """All rows of a stripe, (N, C, rows, W)."""
        n, c, w = self.shape
        rows = np.empty((stripe.bottom - stripe.top, n, c, w), np.float32)
        self.file.flush()
        self.file.seek(stripe.top * n * c * w * 4)
        self.file.readinto(rows.data.cast("B"))
        return np.ascontiguousarray(rows.transpose(1, 2, 0, 3))

    def close(self) -> None:
        """Drops the content."""
        if self.file is not None:
            self.file.close()
        self.file = None


class _Run:
    """What is known about one image, and the stripe at hand. A key is a branch and a number in it."""

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.stripe = _Stripe(0, 0, 0, 0)
        self.branch: tuple[int, ...] = ()
        self.calls: Counter = Counter()
        self.sums: dict[Any, np.ndarray] = {}  # of this pass
        self.maps: dict[Any, _Map] = {}
        self.known: dict[Any, jt.Var] = {}  # totals, and what `once` computed of them
        self.kept: dict[Any, _Map] = {}

    def key(self, kind: str) -> tuple[tuple[int, ...], str, int]:
        place = self.branch, kind
        self.calls[place] += 1
        return (*place, self.calls[place])

    def start(self, stripe: _Stripe) -> None:
        self.stripe, self.branch = stripe, ()
        self.calls.clear()

    def end_pass(self) -> None:
        """The sums are complete, and so are the maps, which make those before them superfluous."""
        self.known |= {key: jt.array(x.astype(np.float32)) for key, x in self.sums.items()}
        for branch in {key[0] for key in self.maps}:
            for key, before in self.kept.items():
                if key[0][: len(branch)] == branch:
                    before.close()
        self.kept |= self.maps
        self.sums, self.maps = {}, {}

    def close(self) -> None:
        for stored in (*self.maps.values(), *self.kept.values()):
            stored.close()


_run: _Run | None = None  # of the network that runs now; None on images in one piece


# ---- what a network calls ----------------------------------------------------------------------


def total(measure: Callable[[slice], jt.Var]) -> jt.Var:
    """The sum over the whole image of `measure(rows)`, which sums over those rows of the map at hand."""
    if _run is None:
        return measure(slice(None))
    key = _run.key("total")
    if key in _run.known:
        return _run.known[key]
    part = _computed(measure(_run.stripe.own)).astype(np.float64)
    _run.sums[key] = _run.sums[key] + part if key in _run.sums else part
    raise _Paused


def cut(*maps: jt.Var) -> tuple[jt.Var, ...]:
    """Feature maps (N, C, H, W) that are all which is needed from here on, besides the images."""
    return maps if _run is None else tuple(_kept(x) for x in maps)


def _kept(x: jt.Var) -> jt.Var:
    run, key = _run, _run.key("cut")
    if key in run.kept:
        stored = run.kept[key]
        # One that a later cut made superfluous is not read: nothing that is computed depends on it.
        return jt.zeros(x.shape) if stored.file is None else jt.array(stored.read(run.stripe))
    if key not in run.maps:
        n, c, _, w = x.shape
        run.maps[key] = _Map((n, c, w), tempfile.TemporaryFile(dir=cache_home()))  # noqa: SIM115
    run.maps[key].write(_computed(x[:, :, run.stripe.own]), run.stripe)
    return x


def _computed(x: jt.Var) -> np.ndarray:
    """The values of x. Jittor's `numpy` alone would also compute all other Vars that somebody holds."""
    x.sync(False, False)
    return x.numpy()


def branches(*parts: Callable[[], Any]) -> tuple[Any, ...]:
    """What each of several parts returns, none of which needs another."""
    if _run is None:
        return tuple(part() for part in parts)
    results, paused, outer = [], False, _run.branch
    for i, part in enumerate(parts):
        _run.branch = (*outer, i)
        try:
            results.append(part())
        except _Paused:
            paused = True
    _run.branch = outer
    if paused:
        raise _Paused
    return tuple(results)


def once(compute: Callable[[], jt.Var]) -> jt.Var:
    """What `compute` returns, which depends on totals alone: it is computed for the first stripe."""
    if _run is None:
        return compute()
    key = _run.key("once")
    if key not in _run.known:
        _run.known[key] = jt.array(_computed(compute()))
    return _run.known[key]


def sample(x: jt.Var, height: int, width: int) -> jt.Var:
    """`nearest` of the whole map: x (N, C, H, W) -> (N, C, height, width)."""
    if _run is None:
        return nearest(x, height, width)
    rows, columns = (nearest_index(n, m) for n, m in zip(_run.size, (height, width), strict=True))
    stripe = _run.stripe
    mine = (rows >= stripe.first) & (rows < stripe.last)

    def measure(_: slice) -> jt.Var:
        """The samples of this stripe, and 0 for those of others."""
        inside = np.where(mine, rows - stripe.top, 0).astype(np.int32)
        grid = gather(x, inside, columns)
        return grid * jt.array(mine.astype(np.float32).reshape(1, 1, -1, 1))

    return total(measure)


def spread(grid: jt.Var, height: int, width: int) -> jt.Var:
    """The rows at hand of `nearest` of a grid (N, C, h, w) to the size of the whole map.

    height, width: those of the map at hand.
    """
    if _run is None:
        return nearest(grid, height, width)
    rows, columns = (nearest_index(n, m) for n, m in zip(grid.shape[2:], _run.size, strict=True))
    return gather(grid, rows[_run.stripe.top : _run.stripe.bottom], columns)


def cosine_attention(qkv: jt.Var, temperature: jt.Var) -> jt.Var:
    """The operator of that name, whose weights are those of the whole map."""
    if _run is None:
        return cosine_attention_of_map(qkv, temperature)
    n, c, h, w = qkv.shape
    heads = temperature.shape[0]
    d = c // 3 // heads

    def products(rows: slice) -> jt.Var:
        """The products q k^T, and the squares of q and of k: (N, heads, d, d + 2)."""
        halves = (0, c // 3), (c // 3, 2 * c // 3)
        q, k = (qkv[:, i:j, rows].reshape(n, heads, d, -1) for i, j in halves)
        squares = [(x * x).sum(-1, keepdims=True) for x in (q, k)]
        return jt.concat([matmul(q, k, tb=True), *squares], -1)

    sums = total(products)
    q, k = (jt.maximum(jt.sqrt(sums[..., i]), 1e-12) for i in (d, d + 1))
    cosine = sums[..., :d] / (q.unsqueeze(3) * k.unsqueeze(2))
    values = qkv[:, 2 * c // 3 :].reshape(n, heads, d, h * w)
    return matmul(softmax(cosine * temperature), values).reshape(n, c // 3, h, w)


def active() -> bool:
    """Whether the network runs on stripes."""
    return _run is not None


# ---- the whole image ---------------------------------------------------------------------------


def whole(
    network: Callable[..., jt.Var],
    a: jt.Var,
    b: jt.Var,
    *rest: Any,
    tiling: Tiling,
    stripe_rows: int | None = None,
) -> jt.Var:
    """What network(a, b, *rest) returns, on stripes where the images have more pixels than the limit.

    a, b (N, C, H, W) -> (N, channels, H, W), of the images' size. stripe_rows: rows of a stripe, at
    least the halo; by default as many as give stripes of one size whatever the width. A bar shows the
    progress. Raises UserError where the disk has no room for the feature maps.
    """
    n, _, h, w = a.shape
    if stripe_rows is None and h * w <= tiling.limit:
        return network(a, b, *rest)
    from tqdm import tqdm  # smaller images start sooner without the import

    stripes = _stripes(h, stripe_rows or max(2 * tiling.halo, tiling.pixels // w), tiling.halo)
    _check_room(n * tiling.channels * h * w * 4)
    images = [x.data for x in (a, b)]  # not a copy
    result = None
    run = _Run((h, w))
    with ExitStack() as stack:
        stack.callback(run.close)
        bar = stack.enter_context(
            tqdm(total=len(stripes) * tiling.passes, desc="tiles", leave=False)
        )
        while result is None:
            for stripe in stripes:
                run.start(stripe)
                inputs = [jt.array(x[:, :, stripe.top : stripe.bottom]) for x in images]
                part = _attempt(run, network, inputs, rest)
                if part is not None:
                    result = (
                        np.empty((n, part.shape[1], h, w), np.float32) if result is None else result
                    )
                    result[:, :, stripe.first : stripe.last] = part
                bar.update()
            run.end_pass()
    return jt.array(result)


def _attempt(
    run: _Run, network: Callable[..., jt.Var], inputs: list[jt.Var], rest: tuple[Any, ...]
) -> np.ndarray | None:
    """The own rows of the network's result for the stripe; None where a sum is not known yet."""
    global _run
    _run = run
    try:
        return _computed(network(*inputs, *rest)[:, :, run.stripe.own])
    except _Paused:
        return None
    finally:
        _run = None


def _stripes(height: int, rows: int, halo: int) -> list[_Stripe]:
    """Stripes of about `rows` rows that cover the image, none of them lower than half of it."""
    count = max(1, round(height / rows))
    edges = [height * i // count for i in range(count + 1)]
    return [_Stripe(max(0, i - halo), i, j, min(height, j + halo)) for i, j in pairwise(edges)]


def _check_room(needed: int) -> None:
    free = shutil.disk_usage(cache_home()).free
    if free < needed:
        raise UserError(
            f"an image of this size needs about {needed / 1e9:.1f} GB of the disk of {cache_home()} while it is fused, "
            f"and {free / 1e9:.1f} GB are free; free some, or set $JFUSION_HOME to a folder on another disk"
        )
