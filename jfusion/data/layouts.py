"""Data sets as they are downloaded: one table of layouts, and the pairs of a folder that has one of them.

`LAYOUTS` is the table. Our own layout is in `layout.py`.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Protocol

from jfusion.data import layout
from jfusion.data.image import is_image_name
from jfusion.data.layout import FOLDERS, Sample, find_pairs, find_samples, read_list
from jfusion.data.names import check_part, natural_key, pair_by_name, pair_by_number
from jfusion.data.splits import find_list
from jfusion.errors import UserError, counted, did_you_mean, missing, printable
from jfusion.files import check_path

ENDS = ("{first}", "{last}")  # of a series of exposures
DEPTH = 6  # folders below the one that is given
LISTED = 12  # folders that a listing names
ANY = "-"  # the sign of a layout that many data sets have; no name holds it
ALL = "all"  # the split of a download that has no lists
# a folder's name -> the split that it holds
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Layout:
    """One row of the table: where a download has the images of both sides.

    a, b: the path of an image without its ending, as it stands anywhere below the folder. `x|y` is one of
    two names; {split} a folder of `SPLITS`; {name} the sample's name; {scene} any folder; {last} and
    {first} the highest and the lowest number of a folder that is called by a number, whose files are
    1, 2, ... Upper and lower case do not matter. source: where it is downloaded. sign: a part of the
    names of the folder or its files that says that it is this data set, or one of several (`x|y`); "" when
    the layout itself does.
    """

    name: str
    task: str
    a: str
    b: str
    source: str
    sign: str = ""

    @property
    def text(self) -> str:
        """The two places as a message names them."""
        return f"{self.a} and {self.b}".replace("/{name}", "/*").replace("{name}", "*")


LAYOUTS = (
    Layout("MSRS", "IVF", "{split}/ir/{name}", "{split}/vi/{name}", "Linfeng-Tang/MSRS", "msrs"),
    Layout(
        "LLVIP",
        "IVF",
        "infrared/{split}/{name}",
        "visible/{split}/{name}",
        "bupt-ai-cz/LLVIP",
        "llvip",
    ),
    Layout("M3FD", "IVF", "Ir/{name}", "Vis/{name}", "JinyuanLiu-CV/TarDAL", "m3fd"),
    Layout(
        "RoadScene", "IVF", "cropinfrared/{name}", "crop_LR_visible/{name}", "hanna-xu/RoadScene"
    ),
    Layout(
        "FMB", "IVF", "{split}/Infrared/{name}", "{split}/Visible/{name}", "SegMiF's authors", "fmb"
    ),
    Layout("VIFB", "IVF", "input/IR/{name}", "input/VI/{name}", "xingchenzhang/VIFB", "vifb"),
    Layout("TNO", "IVF", "ir/{name}", "vi/{name}", "CDDFuse's test_img/TNO", "tno"),
    *(
        Layout(
            f"Harvard_{kind}",
            "MIF",
            "MRI|MR|MR-T1|MR-T2/{name}",
            f"{kind}/{{name}}",
            "AANLIB, the Whole Brain Atlas; CDDFuse's test_img/MRI_*",
            "harvard|aanlib",
        )
        for kind in ("CT", "PET", "SPECT")
    ),
    Layout("SICE", "MEF", "{scene}/{last}", "{scene}/{first}", "csjcai/SICE", "sice"),
    Layout("MEFB", "MEF", "input/{scene}/{name}_B", "input/{scene}/{name}_A", "xingchenzhang/MEFB"),
    Layout("RealMFF", "MFF", "imageA/{name}_A", "imageB/{name}_B", "Zancelot/Real-MFF"),
    Layout("Lytro", "MFF", "{name}-A", "{name}-B", "Nejati's page; IFCNN's repository", "lytro"),
    Layout(
        "MFI-WHU", "MFF", "source_1/{name}", "source_2/{name}", "HaoZhang1018/MFI-WHU", "mfiwhu"
    ),
    *(  # dataset/train/VI-IR/ir, dataset/test/MEF/MEF/over, train/GFP/g, ...
        Layout(
            "LFDT-Fusion, Diff-FCCF or CDDFuse",
            task,
            "|".join(a) + "/{name}",
            "|".join(b) + "/{name}",
            "their repositories",
            ANY,
        )
        for task, (a, b) in FOLDERS.items()
    ),
    Layout(
        "two folders",
        "IVF",
        "ir|infrared|thermal|lwir/{name}",
        "vi|vis|visible|rgb/{name}",
        "data of your own",
        ANY,
    ),
)


@dataclass(frozen=True)
class DataSet:
    """A data set at hand: its task and name, and the samples of each split.

    why: how it was recognized, in one line. Sample names are unique in the whole data set.
    """

    task: str
    name: str
    splits: Mapping[str, list[Sample]]
    why: str = ""

    def samples(self, split: str) -> list[Sample]:
        """The samples of a split; of all splits for "all". Raises UserError for an unknown one."""
        if split in self.splits:
            return self.splits[split]
        if split == ALL:
            return [sample for samples in self.splits.values() for sample in samples]
        raise UserError(f"{self.name} has no split {split!r}{did_you_mean(split, self.splits)}")


@dataclass
class _Candidate:
    """What a row of the table finds: the files of both sides, by split, as (sample name, file)."""

    row: Layout
    place: Path  # the folder below which the pairs are
    files: dict[str, tuple[list, list]] = field(default_factory=dict)
    name: str = ""
    signed: bool = False

    def paths(self) -> set[Path]:
        return {path for sides in self.files.values() for side in sides for _, path in side}


class DataSetOptions(Protocol):
    """The options by which a command names a data set; see `open_data_set`."""

    root: str
    task: str | None
    dataset: str | None
    split: str | None
    from_: str | None
    a: str | None
    b: str | None
    name: str | None


def data_set_of(options: DataSetOptions) -> DataSet:
    """`open_data_set` with a command's options."""
    o = options
    return open_data_set(
        o.root, o.task, o.dataset, o.split, folder=o.from_, a=o.a, b=o.b, name=o.name
    )


def open_data_set(
    root: str | Path,
    task: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    *,
    folder: str | None = None,
    a: str | None = None,
    b: str | None = None,
    name: str | None = None,
) -> DataSet:
    """The data set that a command's options name: a folder as downloaded, two folders, or our layout.

    root: the folder that holds Text/ and TextFeature/, and Image/ in our layout; split: the one split
    that is wanted of our layout. Raises UserError when options contradict each other, or for a folder
    that is not recognized.
    """
    if bool(a) != bool(b) or (folder and a):
        raise UserError("give --from FOLDER, or both --a and --b, or --dataset of our own layout")
    if not folder and not a:
        if name:
            raise UserError("--name is for --from or --a and --b; our own layout has --dataset")
        if dataset is None and not (Path(root) / "Image").is_dir():
            raise UserError(
                f"{root} holds no data set; name one: --from FOLDER (as downloaded), --a and --b, or --root "
                "with --dataset (jfusion's own layout)"
            )
        task, dataset, split = task or "IVF", dataset or "MSRS", split or "train"
        samples = find_samples(Path(root), task, dataset, split)
        return DataSet(task, Path(dataset).name, {split: samples})
    if dataset:
        raise UserError(
            "--dataset is for our own layout; --name says what to call the data set here"
        )
    found = recognize(folder, name, task) if folder else two_folders(a, b, task, name)
    return _finished(_listed(_split_by_own(found), renamed=name is None), Path(root))


def recognize(folder: str | Path, name: str | None = None, task: str | None = None) -> DataSet:
    """The data set in a folder as it was downloaded; the samples have no path of features yet.

    name: what to call it, or which one of several in the folder is meant. task: only layouts of this task.
    Raises UserError for a folder without a known layout, after it has printed what is in it.
    """
    folder = check_path(folder, "the data set")
    if folder.is_file():
        raise UserError(f"{folder} is a file; unpack it, and pass the folder that holds the images")
    if not folder.is_dir():
        raise missing("folder", folder)
    if any((folder / "Image" / known).is_dir() for known in layout.TASKS):
        raise UserError(
            f"{folder} has jfusion's own layout; name the data set in it: --root {folder} --task TASK "
            "--dataset NAME"
        )
    images = _walk(folder)
    if task is not None:
        layout.task(task)
    rows = [row for row in LAYOUTS if task in (None, row.task)]
    candidates = _candidates(folder, images, rows)
    if not candidates:
        raise _unknown(folder, images, rows)
    chosen = candidates[0]
    if len(candidates) > 1:
        names = {candidate.name: candidate for candidate in candidates}
        if name not in names:
            choice = ", ".join(f"{key} ({names[key].row.task})" for key in sorted(names))
            near = did_you_mean(name, names) if name else ""
            raise UserError(
                f"{folder} holds {len(names)} data sets: {choice}; choose one with --name{near}"
            )
        chosen = names[name]
    return _data_set(folder, chosen, name or chosen.name)


def two_folders(a: str | Path, b: str | Path, task: str | None, name: str | None = None) -> DataSet:
    """The pairs of two folders (or two files) by name; called after the folder that holds A by default."""
    if task is None:
        kinds = ", ".join(f"{key} ({value.text})" for key, value in layout.TASKS.items())
        raise UserError(f"--a and --b need --task, one of {kinds}")
    layout.task(task)
    pairs = [Sample(n, p, q, Path()) for n, p, q in find_pairs(a, b)]
    name = check_part(name or Path(a).resolve().parent.name, "--name", most=200)
    why = f"{a} and {b}: {counted(len(pairs), 'pair')} of {task}, called {name}"
    return DataSet(task, name, {ALL: pairs}, why)


# ---- what is in a folder -----------------------------------------------------------------------


def _walk(folder: Path) -> dict[str, list[str]]:
    """The folder and those below it, relative to it ("" for itself) -> the names of their images."""
    found = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        relative = Path(place).relative_to(folder)
        deep = len(relative.parts) >= DEPTH
        folders[:] = [n for n in folders if not deep and not n.startswith((".", "__MACOSX"))]
        images = [name for name in names if is_image_name(Path(name))]
        if images:
            found["/".join(relative.parts)] = images
    return found


def _candidates(
    folder: Path, images: Mapping[str, list[str]], rows: Iterable[Layout]
) -> list[_Candidate]:
    """What the rows find, each with a name of its own.

    Of several rows that find the same files, one whose sign is there comes first, then those of many data
    sets, then one whose sign is not there.
    """
    found: list[_Candidate] = []
    for row in rows:
        for a, b in product(_choices(row.a), _choices(row.b)):
            found += _match(folder, images, replace(row, a=a, b=b))
    for candidate in found:
        candidate.signed = _is_signed(folder, candidate)
    found.sort(key=lambda c: 0 if c.signed else 1 if c.row.sign == ANY else 2)
    kept: list[_Candidate] = []
    taken: set[Path] = set()
    for candidate in found:
        if not candidate.paths() <= taken:
            taken |= candidate.paths()
            kept.append(candidate)
    _give_names(kept)
    return kept


def _is_signed(folder: Path, candidate: _Candidate) -> bool:
    """Whether the names of the folder and of a first file say that it is the row's data set."""
    first = next(iter(candidate.files.values()))[0][0][1]
    words = _plain(str(Path(folder.resolve().name, first.relative_to(folder))))
    return any(sign in words for sign in candidate.row.sign.split("|"))


def _choices(pattern: str) -> list[str]:
    """A pattern for each choice of its names: MRI|MR/{name} -> MRI/{name}, MR/{name}."""
    parts = [part.split("|") for part in pattern.split("/")]
    return ["/".join(choice) for choice in product(*parts)]


def _match(folder: Path, images: Mapping[str, list[str]], row: Layout) -> list[_Candidate]:
    """The data sets of a row without choices: one for each folder below which both sides have files."""
    found: dict[Path, _Candidate] = {}
    for index, pattern in enumerate((row.a, row.b)):
        above, _, name = pattern.rpartition("/")
        of_folder = _regex("".join(f"{part}/" for part in above.split("/") if part), name in ENDS)
        of_file = _regex(name)
        for relative, names in images.items():
            match = of_folder.fullmatch(_composed(f"{relative}/" if relative else ""))
            if match is None:
                continue
            place, split = _place(folder, match)
            files = [(of_file.fullmatch(_composed(n.rpartition(".")[0])), n) for n in names]
            pairs = [(m, folder / relative / n) for m, n in files if m]
            candidate = found.setdefault(place, _Candidate(row, place))
            both = candidate.files.setdefault(split, ([], []))
            both[index].extend(_named(pairs, name, match))
    for candidate in found.values():
        candidate.files = {split: both for split, both in candidate.files.items() if all(both)}
    return [candidate for candidate in found.values() if candidate.files]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _regex(pattern: str, numbered: bool = False) -> re.Pattern[str]:
    """A part of a pattern as a regular expression: the folders, below any others, or a file's name.

    numbered: the scene is a number.
    """
    groups = {
        "{split}": rf"(?P<split>{'|'.join(SPLITS)})",
        "{scene}": r"(?P<scene>\d+)" if numbered else r"(?P<scene>[^/]+)",
        "{name}": r"(?P<name>[^/]+)",
        "{last}": r"(?P<number>\d+)",
        "{first}": r"(?P<number>\d+)",
    }
    parts = re.split(r"(\{\w+\})", pattern)
    body = "".join(groups.get(part, re.escape(part)) for part in parts)
    above = "" if pattern and not pattern.endswith("/") else "(?P<prefix>(?:[^/]+/)*?)"
    return re.compile(above + body, re.I)


def _place(folder: Path, match: re.Match[str]) -> tuple[Path, str]:
    """The folder of the data set that a folder of images belongs to, and the split of these."""
    parts = Path(match["prefix"]).parts
    words = [match["split"]] if "split" in match.re.groupindex else list(parts)
    whole = folder.resolve()
    if whole.name.lower() in SPLITS:  # --from MSRS-main/train
        words, whole = [*words, whole.name], whole.parent
    split = next((SPLITS[w.lower()] for w in words if w.lower() in SPLITS), ALL)
    return whole.joinpath(*(part for part in parts if part.lower() not in SPLITS)), split


def _named(
    found: list[tuple[re.Match[str], Path]], pattern: str, above: re.Match[str]
) -> list[tuple[str, Path]]:
    """(sample name, file) of the files of a folder; of a series of exposures, the first or the last."""
    if "{name}" in pattern:
        return [(match["name"], path) for match, path in found]
    files = {int(match["number"]): path for match, path in found}
    if len(files) < 3 or sorted(files) != list(range(1, len(files) + 1)):
        return []
    return [(above["scene"], files[max(files) if pattern == "{last}" else 1])]


def _give_names(candidates: list[_Candidate]) -> None:
    """Calls each data set by its row where its sign is there, else by its folder; all names differ."""
    for c in candidates:
        c.name = c.row.name if c.signed else c.place.name
    for suffix in (lambda c: c.place.name, lambda c: f"{_folder(c.row.a)}-{_folder(c.row.b)}"):
        counts = Counter(c.name for c in candidates)
        for c in candidates:
            if counts[c.name] > 1 and c.name != suffix(c):
                c.name = f"{c.name}_{suffix(c)}"


def _folder(pattern: str) -> str:
    return pattern.rpartition("/")[0].rpartition("/")[2]


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _data_set(folder: Path, chosen: _Candidate, name: str) -> DataSet:
    name = check_part(name, "the name of the data set (--name)", most=200)
    splits = {}
    order = [*dict.fromkeys(SPLITS.values()), ALL]
    for split in sorted(chosen.files, key=order.index):
        a, b = (_by_name(side, folder) for side in chosen.files[split])
        where = f"{folder}, {split}"
        pairs = (
            pair_by_name(a, b, where, exact=False)
            if a.keys() & b.keys()
            else pair_by_number(a, b, where)
        )
        splits[split] = [
            Sample(check_part(n, where), p, q, Path())
            for n, p, q in sorted(pairs, key=lambda pair: natural_key(pair[0]))
        ]
    row = chosen.row
    what = f"the layout of {row.name}" if row.name != "two folders" else "two folders"
    count = (
        counted(len(splits[ALL]), "pair") if set(splits) == {ALL} else f"{_counts(splits)} pairs"
    )
    why = f"{folder} has {what} ({row.text}): {count} of {row.task}, called {name}"
    return DataSet(row.task, name, splits, why)


def _by_name(side: list[tuple[str, Path]], folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, path in side:
        if name in files:
            both = " and ".join(
                sorted(p.relative_to(folder).as_posix() for p in (files[name], path))
            )
            raise UserError(
                f"{folder} holds two images called {printable(name)!r}: {both}; remove one"
            )
        files[name] = path
    return files


def _split_by_own(found: DataSet) -> DataSet:
    """The data set with the splits of the list files next to its two folders, such as train.txt.

    A list with a name that is no pair's is of another kind; it is left alone, and the reason says so.
    """
    if set(found.splits) != {ALL}:
        return found
    samples = {sample.name: sample for sample in found.splits[ALL]}
    sample = found.splits[ALL][0]
    folder = Path(os.path.commonpath([sample.a.parent, sample.b.parent]))
    splits, why = {}, found.why
    for split in dict.fromkeys(SPLITS.values()):
        if not (folder / f"{split}.txt").is_file():
            continue
        names = read_list(folder / f"{split}.txt", samples)
        strange = next((name for name in names if name not in samples), None)
        if strange is not None or not names:
            odd = f"{printable(strange)!r} in it is no pair" if names else "it is empty"
            why += f"; {split}.txt is not used: {odd}"
            continue
        splits[split] = [samples[name] for name in dict.fromkeys(names)]
    if not splits:
        return replace(found, why=why)
    why += f"; split by the lists there: {_counts(splits)}"
    return replace(found, splits=splits, why=why)


def _listed(found: DataSet, renamed: bool) -> DataSet:
    """The data set with the splits of its list in jfusion, and called like it if `renamed`."""
    if set(found.splits) != {ALL}:
        return found
    samples = {sample.name: sample for sample in found.splits[ALL]}
    known = find_list(found.task, found.name, samples.values())
    if known is None or not all(name in known.pairs for name in samples):
        return found
    splits = {s: [samples[n] for n in known.names(s) if n in samples] for s in known.splits}
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    name = known.dataset if renamed else found.name
    why = f"{found.why}, split as jfusion's list of {known.dataset}: {_counts(splits)}"
    if name != found.name:
        why += f"; called {name}, since the list's files are the same"
    return DataSet(found.task, name, splits, why)


def _finished(found: DataSet, root: Path) -> DataSet:
    """The data set with names that differ in all splits, and with the paths of its features."""
    splits, why = dict(found.splits), found.why
    names = Counter(sample.name for samples in splits.values() for sample in samples)
    if max(names.values(), default=0) > 1:
        splits = {
            split: [replace(sample, name=f"{split}_{sample.name}") for sample in samples]
            for split, samples in splits.items()
        }
        why += "; some names are in several splits, so each name begins with its split"
    features = root / "TextFeature" / found.task / found.name
    splits = {
        split: [replace(sample, text=features / f"{sample.name}.npy") for sample in samples]
        for split, samples in splits.items()
    }
    return replace(found, splits=splits, why=why)


def _counts(splits: Mapping[str, list[Sample]]) -> str:
    """171 train and 50 test."""
    return " and ".join(f"{len(samples)} {split}" for split, samples in splits.items())


# ---- what is not recognized --------------------------------------------------------------------


def _unknown(folder: Path, images: Mapping[str, list[str]], rows: list[Layout]) -> UserError:
    """Prints what is in the folder; the error that names the layout that is most like it."""
    if not images:
        return UserError(f"{folder} holds no image, also not in its folders; is it unpacked?")
    print(f"{folder} holds:")
    for place in sorted(images, key=natural_key)[:LISTED]:
        kinds = Counter(Path(name).suffix.lower() for name in images[place])
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"  {printable(place or '.')}/  {counts}")
    if len(images) > LISTED:
        print(f"  and {counted(len(images) - LISTED, 'more folder')}")
    words = {word.lower() for place in images for word in place.split("/")}
    split = any(word in SPLITS for word in words)

    def order(row: Layout) -> tuple[float, bool, int]:
        return _likeness(row, words), ("{split}" in row.a) == split, -row.a.count("/")

    near = max(rows, key=order)
    return UserError(
        f"{folder} has no layout that jfusion knows; the nearest is that of {near.name} ({near.text}; "
        f"{near.source}); name the two folders instead: --a FOLDER --b FOLDER --task TASK --name NAME"
    )


def _likeness(row: Layout, words: set[str]) -> float:
    """How much the folders of a row are like the words, 0 to 1."""

    def best(side: str) -> float:
        names = [w.lower() for p in _choices(side) for w in p.split("/")[:-1] if "{" not in w]
        ratios = [difflib.SequenceMatcher(None, n, w).ratio() for n in names for w in words]
        return max(ratios, default=0)

    return (best(row.a) + best(row.b)) / 2
