"""The plan of `jfusion fuse`: all pairs, what is wrong with them, and where the results go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jfusion.data import image
from jfusion.data.image import Header
from jfusion.data.names import listed
from jfusion.errors import UserError, counted, printable
from jfusion.files import check_output

ASPECT = 0.02  # by how much the aspects of two images may differ
LISTED = 10  # pairs that a message names
MANY = 1000  # pairs from which a progress bar is worth its import


@dataclass(frozen=True)
class Sizes:
    """Which size the images of a pair get: that of the side "a" or "b", or a fixed one.

    requested: the user named it, so images of another aspect are distorted and not refused.
    """

    side: str = "b"
    fixed: tuple[int, int] | None = None
    requested: bool = False

    @classmethod
    def parse(cls, side: str | None, size: str | None, calibrated: bool = False) -> Sizes:
        """From the options --size-of and --size, "HEIGHTxWIDTH". Raises UserError for another text.

        calibrated: a calibration lays A on B, whatever the aspects are.
        """
        if size is None:
            return cls(side or "b", None, side is not None or calibrated)
        numbers = size.lower().split("x")
        if len(numbers) != 2 or not all(n.isdecimal() and 0 < int(n) < 1 << 16 for n in numbers):
            raise UserError(
                f"--size must be HEIGHTxWIDTH such as 480x640, each from 1 to 65535, not {printable(size)!r}"
            )
        return cls("b", (int(numbers[0]), int(numbers[1])), True)

    def of(self, a: Header, b: Header) -> tuple[int, int]:
        """Height and width of the pair's grid."""
        header = a if self.side == "a" else b
        return self.fixed or (header.height, header.width)

    def problem(self, a: Header, b: Header, files: tuple[Path, Path]) -> str:
        """Why a pair, which these files hold, cannot be resampled; "" if it can, or need not."""
        ratio = (a.height * b.width) / (a.width * b.height)
        if self.requested or max(ratio, 1 / ratio) <= 1 + ASPECT:
            return ""
        return (
            f"{files[0]} is {a.height}x{a.width} and {files[1]} is {b.height}x{b.width}, which is another "
            "aspect; crop one, or distort it with --size-of a, --size-of b or --size HEIGHTxWIDTH"
        )


@dataclass(frozen=True)
class Item:
    """One pair: its name, its files and their headers, and the files of its results.

    size: height and width of its result. problem: why it cannot be fused, "" if it can. kept: whether
    its results are there already, and stay.
    """

    name: str
    a: Path
    b: Path
    outputs: list[Path]
    headers: tuple[Header, Header] | None = None
    size: tuple[int, int] = (0, 0)
    problem: str = ""
    kept: bool = False

    @property
    def resampled(self) -> str:
        """Which images change their size: "a", "b", "ab", or ""."""
        headers = zip("ab", self.headers or (), strict=False)
        return "".join(side for side, h in headers if (h.height, h.width) != self.size)


@dataclass(frozen=True)
class Plan:
    """All pairs of a command, in natural order."""

    items: list[Item]

    @property
    def todo(self) -> list[Item]:
        """The pairs to fuse."""
        return [x for x in self.items if not x.problem and not x.kept]

    @property
    def bad(self) -> list[Item]:
        """The pairs that cannot be fused."""
        return [x for x in self.items if x.problem]

    @property
    def good(self) -> list[Item]:
        """The pairs that can be fused, or have been."""
        return [x for x in self.items if not x.problem]

    @property
    def kept(self) -> list[Item]:
        """The pairs whose results are there already."""
        return [x for x in self.items if x.kept and not x.problem]

    def table(self) -> str:
        """One line for each pair: what goes in, and what comes out or why it does not."""
        lines = []
        for item in self.items:
            sizes = " + ".join(map(str, item.headers)) if item.headers else ""
            end = f"-> {item.outputs[0]}" + (
                f" (and {n} more)" if (n := len(item.outputs) - 1) else ""
            )
            end = f"{end}, kept" if item.kept else end
            end = f"cannot be fused: {item.problem}" if item.problem else end
            lines.append(printable(f"{item.name}: {sizes} {end}".replace(":  ", ": "), 4000))
        return "\n".join(lines)

    def refuse_bad(self, skip: bool) -> None:
        """Raises UserError for pairs that cannot be fused, unless they are to be skipped."""
        bad, count = self.bad, len(self.items)
        if bad and count == 1:
            raise UserError(bad[0].problem)
        if bad and not skip:
            first = "; ".join(f"{x.name}: {x.problem}" for x in bad[:3])
            more = f" (and {len(bad) - 3} more)" if len(bad) > 3 else ""
            raise UserError(
                f"{len(bad)} of {counted(count, 'pair')} cannot be fused; {first}{more}; --skip-bad leaves them out"
            )

    def print_notes(self) -> None:
        """Prints what is skipped, kept and resampled."""
        bad, kept = self.bad, self.kept
        if bad:
            print(
                f"note: skipping {len(bad)} of {counted(len(self.items), 'pair')}:\n{_problems(bad)}"
            )
        if kept:
            one = len(kept) == 1
            results = "1 result is" if one else f"{len(kept)} results are"
            stays = "stays" if one else "stay"
            print(
                f"note: {results} there already and {stays}, whatever made them (--overwrite): "
                f"{listed(x.name for x in kept)}"
            )
        changed = [item for item in self.todo if item.resampled]
        if changed:
            sides = " and ".join(sorted(set("".join(x.resampled for x in changed)))).upper()
            sizes = {item.size for item in changed}
            to = "x".join(map(str, sizes.pop())) if len(sizes) == 1 else "the size of its partner"
            count = f"{len(changed)} pairs: " if len(changed) > 1 else ""
            print(f"note: {count}{sides} resampled to {to} (--size-of, --size)")


def output_files(
    out: str | Path, names: list[str], samples: int, single: bool, bits: int = 8
) -> dict[str, list[Path]]:
    """Name -> the files of its results. `out` is a folder, or for a single pair also an image's name.

    Raises UserError for a file's name when there are several results, or of an unknown format.
    """
    out = Path(out)
    is_name = image.is_image_name(out) and not out.is_dir()
    if is_name and single and samples == 1:
        image.format_of(out, bits)
        return {names[0]: [out]}
    if is_name:
        raise UserError(
            f"--out {out} is the name of one image, and there are several results; name a folder"
        )
    ends = [""] if samples == 1 else [f"_{i}" for i in range(samples)]
    return {name: [out / f"{name}{end}.png" for end in ends] for name in names}


def make(
    pairs: list[tuple[str, Path, Path]],
    outputs: dict[str, list[Path]],
    sizes: Sizes,
    overwrite: bool = False,
    most: float = image.MAX_PIXELS * 1e6,
) -> Plan:
    """The plan of `pairs`, whose headers are read here; `most`: as many pixels of an image at most.

    Raises UserError when a result would replace one of the inputs.
    """
    _check_inputs_stay(pairs, outputs)
    items = [Item(name, a, b, outputs[name]) for name, a, b in pairs]
    return Plan([_examined(item, sizes, overwrite, most) for item in _with_bar(items)])


def _with_bar(items: list[Item]) -> Iterable[Item]:
    """The items; of so many that their headers take seconds, with a progress bar."""
    if len(items) < MANY:
        return items
    from tqdm import tqdm

    return tqdm(items, "looking at the images", unit="pair", delay=1, leave=False)


def _examined(item: Item, sizes: Sizes, overwrite: bool, most: float) -> Item:
    try:
        headers = image.header(item.a, most), image.header(item.b, most)
    except UserError as error:
        return replace(item, problem=str(error))
    size = sizes.of(*headers)
    kept = not overwrite and all(path.exists() and path.stat().st_size for path in item.outputs)
    problem = sizes.problem(*headers, (item.a, item.b))
    return replace(item, headers=headers, size=size, problem=problem, kept=kept)


def _check_inputs_stay(pairs: list[tuple[str, Path, Path]], outputs: dict[str, list[Path]]) -> None:
    """Raises UserError when a result is an input, whatever the spelling of its path."""
    inputs = {_identity(path): path for _, *files in pairs for path in files}
    for path in (p for paths in outputs.values() for p in paths):
        if path.exists() and _identity(path) in inputs:
            raise UserError(
                f"the image would replace {path}, which this command reads; choose another output with --out"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def check_room(items: Iterable[Item], out: str | Path, bits: int) -> None:
    """Raises UserError when the results cannot be written there, or the disk has no room for them."""
    values = sum(h * w * 3 * len(x.outputs) for x in items for h, w in [x.size])
    out = Path(out)
    folder = out.parent if image.is_image_name(out) and not out.is_dir() else out
    check_output(folder, "the fused images", max(1 << 20, values * bits // 8), folder=True)


def _problems(items: list[Item]) -> str:
    """The problems of pairs, one a line."""
    lines = [printable(f"  {x.name}: {x.problem}", 1000) for x in items[:LISTED]]
    more = len(items) - LISTED
    return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])
