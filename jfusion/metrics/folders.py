"""Folders of sources and of fused images: which files belong together, by name or by a rule.

A place is a folder, or a folder and a rule for the names in it: `results/{name}_fused` matches
`results/001_fused.png` with the pair "001". The names of fused images that have no rule and that no pair
has are looked at for one prefix and one suffix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jfusion.data import image
from jfusion.data.names import list_files, listed, natural_key, sample_name
from jfusion.errors import UserError, counted
from jfusion.files import read_text

LISTED = 10  # unfused pairs that a message names


@dataclass(frozen=True)
class DataSet:
    """A name, and the places of the sources, of the truth, and of a list of names; None: without.

    origin: what says so, for errors, such as "table.yaml: the set TNO"; empty: the options of the command.
    """

    name: str
    a: str
    b: str
    truth: str | None = None
    list: str | None = None
    origin: str = ""

    def option(self, key: str) -> str:
        """What an error calls a place."""
        return f"{self.origin}: {key}" if self.origin else f"--{key}"


@dataclass(frozen=True)
class Triple:
    """The files of one pair of sources and of what each method made of it; `title` names it in messages."""

    set: str
    name: str
    title: str
    a: Path
    b: Path
    truth: Path | None
    fused: dict[str, Path]
    reader: image.Reader


@dataclass
class Matched:
    """What can be evaluated, remarks, and a line for each image that cannot be evaluated."""

    triples: list[Triple] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def methods(places: Sequence[str]) -> dict[str, str]:
    """Label -> place, of LABEL=PLACE; without a label, the shortest end of the path that no other has."""
    plain = [p for p in places if "=" not in p or split_rule(p)[0].is_dir()]
    parts = [tuple(x for x in Path(p).parts if "{" not in x) for p in plain]
    depth = next(
        d
        for d in range(1, 2 + max(map(len, parts), default=1))
        if len({p[-d:] for p in parts}) == len(set(parts))
    )
    labels = {p: "/".join(x[-depth:]) for p, x in zip(plain, parts, strict=True)}
    result: dict[str, str] = {}
    for place in places:
        label, _, folder = place.partition("=") if place not in labels else ("", "", place)
        label = label or labels.get(folder, folder)
        if label in result:
            raise UserError(f"two methods are called {label!r}; name them: --fused NAME=DIR")
        result[label] = folder
    return result


def place_of(place: str, name: str, several: bool) -> str:
    """The place of one data set: `{set}` is its name; with several sets and no `{set}`, a folder in place."""
    if "{set}" in place:
        return place.replace("{set}", name)
    if not several:
        return place
    folder, rule = split_rule(place)
    return str(folder / name / rule)


def split_rule(place: str) -> tuple[Path, str]:
    """The folder and the rule of a place; the rule is empty when the place is a folder."""
    path = Path(place)
    return (path.parent, path.name) if "{name}" in path.name else (path, "")


def images(place: str, what: str) -> dict[str, Path]:
    """Sample name -> file, of the images in a place. what: the option that names it, for errors."""
    folder, rule = split_rule(place)
    if not rule:
        return _list(folder, what, image.is_image_name)
    if rule.count("{name}") != 1:
        raise UserError(f"{what}: {rule!r} must hold {{name}} once")
    before, after = rule.split("{name}")
    ending = Path(after).suffix.lower()
    ending = ending if ending in image.SUFFIXES else ""
    after = after[: len(after) - len(ending)]

    def fits(path: Path) -> bool:
        stem = sample_name(path)
        of_rule = stem.startswith(before) and stem.endswith(after)
        of_rule = of_rule and len(stem) > len(before) + len(after)
        return image.is_image_name(path) and of_rule and path.suffix.lower().endswith(ending)

    return {
        name[len(before) : len(name) - len(after)]: path
        for name, path in _list(folder, f"{what} {rule}", fits).items()
    }


def _list(folder: Path, what: str, fits: Callable[[Path], bool]) -> dict[str, Path]:
    try:
        return list_files(folder, fits, "image")
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def rule_for(files: Iterable[str], names: Iterable[str], where: str) -> str:
    """The rule, such as `{name}_fused`, by which most files have the name of a pair; "" for none.

    Of two rules with equally many files the shorter is meant; raises UserError if they are as long.
    """
    counts: Counter[tuple[str, str]] = Counter()
    names = list(names)
    for file in files:
        for name in names:
            start = file.find(name)
            while start >= 0:
                counts[file[:start], file[start + len(name) :]] += 1
                start = file.find(name, start + 1)
    best = sorted(counts, key=lambda rule: (-counts[rule], len("".join(rule)), rule))[:2]
    if not best:
        return ""
    if len(best) == 2 and len({(counts[r], len("".join(r))) for r in best}) == 1:
        both = " or ".join("{name}".join(rule) for rule in best)
        raise UserError(
            f"{where}: the names of the files fit {both}; say which: --fused {where}/RULE"
        )
    return "{name}".join(best[0])


def match(
    data: DataSet,
    places: Mapping[str, str],
    reader: image.Reader,
    several: bool = False,
    common: bool = True,
) -> Matched:
    """The pairs of a data set that the methods have fused.

    places: label -> place, as `methods` returns them. several: `data` is one of several data sets, and a
    method may lack it. common: only the pairs that every method has. Raises UserError if there is none.
    """
    matched = Matched()
    title = f"{data.name}: " if several else ""
    sources = {"A": images(data.a, data.option("a")), "B": images(data.b, data.option("b"))}
    if data.truth:
        sources["truth"] = images(data.truth, data.option("truth"))
    fused = _fused(data, places, sources, several, matched)
    if data.list:
        _keep_listed(data, sources, fused, matched, title)
    for side, files in (*sources.items(), *fused.items()):
        reader.prepare(files.values(), side)
    names = _complete(sources, fused, matched, title)
    if not names:
        raise UserError(
            f"{title}no name in {', '.join(places.values())} is also in {data.a} and {data.b}; a rule such "
            "as 'DIR/{name}_fused' says how files are named"
        )
    if common:
        names = _common(names, fused, matched, title)
    for name in names:
        of_name = {label: files[name] for label, files in fused.items() if name in files}
        missing = [label for label in fused if label not in of_name]
        matched.skipped += [f"{title}{name}: {label} has no fused image" for label in missing]
        truth = sources["truth"][name] if data.truth else None
        paths = (sources["A"][name], sources["B"][name], truth)
        title_of = f"{title}{name}"
        matched.triples.append(Triple(data.name, name, title_of, *paths, of_name, reader))
    return matched


def _fused(
    data: DataSet, places: Mapping[str, str], sources: dict, several: bool, matched: Matched
) -> dict[str, dict[str, Path]]:
    """The files of each method by the names of the pairs."""
    fused = {}
    for label, place in places.items():
        place = place_of(place, data.name, several)
        folder, rule = split_rule(place)
        if several and not folder.is_dir():
            matched.notes.append(
                f"{data.name}: {label} has no folder {folder}, and stays empty there"
            )
            continue
        files = images(place, f"the method {label}")
        if not rule and not files.keys() & sources["A"].keys():
            rule = rule_for(files, sources["A"], str(folder))
            if rule not in ("", "{name}"):
                matched.notes.append(f"{label}: the files of {folder} are named {rule}")
                files = images(str(folder / rule), f"the method {label}")
        fused[label] = files
    if not fused:
        raise UserError(f"no method has images of {data.name}; check --fused")
    return fused


def _keep_listed(
    data: DataSet, sources: dict[str, dict], fused: dict[str, dict], matched: Matched, title: str
) -> None:
    """Removes the images whose names are not in the list file."""
    lines = read_text(data.list or "", data.option("list")).splitlines()
    names = [sample_name(line.strip()) for line in lines if line.strip()]
    for files in (*sources.values(), *fused.values()):
        for name in set(files) - set(names):
            del files[name]
    known = set().union(*sources.values())
    matched.skipped += [f"{title}{name}: in no folder" for name in names if name not in known]


def _complete(
    sources: dict[str, dict], fused: dict[str, dict], matched: Matched, title: str
) -> list[str]:
    """The names that have all sources and a fused image; the others are skipped."""
    names = []
    for name in sorted(set().union(*fused.values()), key=natural_key):
        missing = [what for what, files in sources.items() if name not in files]
        if missing:
            matched.skipped.append(
                f"{title}{name}: no image of that name in {' and '.join(missing)}"
            )
        else:
            names.append(name)
    unfused = set(sources["A"]) & set(sources["B"]) - set().union(*fused.values())
    if names and unfused:
        matched.skipped.append(
            f"{title}{listed(unfused, LISTED)}: no method has fused them (--list FILE evaluates only the "
            "names in a list)"
        )
    return names


def _common(names: list[str], fused: dict[str, dict], matched: Matched, title: str) -> list[str]:
    """The names that every method has; a note for each method that lacks some."""
    common = [name for name in names if all(name in files for files in fused.values())]
    lacking = {label: [n for n in names if n not in files] for label, files in fused.items()}
    lacking = {label: absent for label, absent in lacking.items() if absent}
    if not common:
        counts = ", ".join(f"{m} lacks {len(a)} of {len(names)}" for m, a in lacking.items())
        raise UserError(
            f"{title}no pair was fused by every method: {counts}; --no-common evaluates each method on its own"
        )
    for label, absent in lacking.items():
        matched.notes.append(
            f"{title}{label} lacks {len(absent)} of {counted(len(names), 'pair')} ({listed(absent)}); every method is "
            f"evaluated on the {len(common)} that all have (--no-common: each on its own)"
        )
    return common
