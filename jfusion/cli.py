"""The `jfusion` command. Each sub-command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

from jfusion import config
from jfusion.errors import UserError, did_you_mean
from jfusion.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 for a mistake of the user's, 130 after Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _parser(arguments)
        options = parser.parse_args(arguments)
        if not hasattr(options, "run"):
            parser.print_help()
            return 0
        return options.run(options) or 0
    except UserError as error:
        print(f"jfusion: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jfusion",
        description="Fuses pairs of images into one: published systems on Jittor.",
        epilog="A data set, start to end: jfusion preprocess, jfusion train film, jfusion test.",
    )
    parser.add_argument("--version", action="version", version=f"jfusion {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")
    _preprocess(commands, arguments)
    _embed(commands, arguments)
    _slices(commands)
    _check(commands)
    _train(commands, arguments)
    _test(commands, arguments)
    _fuse(commands, arguments)
    _align(commands, arguments)
    _inspect(commands)
    _convert(commands)
    _metrics(commands)
    _papers(commands)
    _demo(commands, arguments)
    _systems(commands)
    _doctor(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, text: str, run: Callable
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


# ---- preprocess, check -------------------------------------------------------------------------


def _preprocess(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    command = _command(
        commands, "preprocess", "make an H5 file from folders of pairs", _run_preprocess
    )
    if arguments[:1] == ["preprocess"]:
        from jfusion.commands.preprocess import Options

        config.add_options(command, Options)


def _run_preprocess(given: argparse.Namespace) -> int:
    from jfusion.commands.preprocess import Options, preprocess

    result = preprocess(config.from_dict(Options, config.given(given, Options), "preprocess"))
    state = "written" if result.written else "is up to date"
    print(f"{result.path} {state}: {result.samples} pairs")
    if getattr(given, "text", "") == "zeros":
        print(
            "note: the text features are zeros (no paragraphs); the file's attribute `encoder` says so"
        )
    for line in result.skipped:
        print(f"  skipped {line}")
    if result.misaligned:
        count, more = len(result.misaligned), len(result.misaligned) - 10
        print(f"note: {count} of {result.samples} pairs look misaligned (see docs/alignment.md):")
        for line in result.misaligned[:10] + ([f"and {more} more"] if more > 0 else []):
            print(f"  {line}")
    return 0


def _embed(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    command = _command(commands, "embed", "make paragraph features from texts", _run_embed)
    if arguments[:1] == ["embed"]:
        from jfusion.text.features import Options

        config.add_options(command, Options)


def _run_embed(given: argparse.Namespace) -> int:
    from jfusion.text.features import Options, embed

    result = embed(config.from_dict(Options, config.given(given, Options), "embed"))
    record, total = result.record, len(result.record.texts)
    length = record.length or "their own number of"
    print(f"{result.folder}: {total} features of {record.encoder}, {length} tokens x {record.dim}")
    print(f"  {result.written} new, {total - result.written} up to date")
    if result.cut:
        print(f"  {result.cut} paragraphs are longer than {record.max_length} tokens and were cut")
    return 0


def _slices(commands: argparse._SubParsersAction) -> None:
    text = "write the slices of a medical volume (.mha, NIfTI, DICOM) as 8-bit images"
    command = _command(commands, "slices", text, _run_slices)
    command.add_argument(
        "volume", help=".mha, .mhd, .nii, .nii.gz, .dcm, or a folder of .dcm files"
    )
    command.add_argument("out", help="the folder for 0.png, 1.png, ...")
    command.add_argument("--format", default="png", metavar="X", help="png or jpg (default: png)")
    command.add_argument(
        "--window",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="the values that become 0 and 255, in Hounsfield units for CT (default: the volume's "
        "smallest and largest)",
    )


def _run_slices(given: argparse.Namespace) -> int:
    from jfusion.data.volume import write_slices

    window = tuple(given.window) if given.window else None
    written = write_slices(given.volume, given.out, given.format, window)
    print(f"{len(written)} slices: {given.out}")
    return 0


def _check(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "check", "verify an H5 file and print what is in it", _run_check)
    command.add_argument("file", help="the H5 file")


def _run_check(given: argparse.Namespace) -> int:
    from jfusion.data import h5

    print(h5.summary(given.file, h5.check(given.file)))
    return 0


# ---- train, test -------------------------------------------------------------------------------


def _train(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    text = "train a system, or go on with a run (jfusion train film --help lists its settings)"
    command = _command(commands, "train", text, _run_train)
    command.add_argument("system", nargs="?", help="film, ... (see jfusion systems)")
    command.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    command.add_argument("--config", metavar="FILE", help="settings of the system as JSON or YAML")
    if arguments[:1] == ["train"]:
        from jfusion.train.options import Options

        config.add_options(command.add_argument_group("the run"), Options)
        _system_options(command, arguments)


def _run_train(given: argparse.Namespace) -> int:
    from jfusion.train.options import Options

    values = config.given(given, Options)
    if given.resume:
        settings = set(values) - {"data", "max_steps"}
        if settings or given.system or given.config:
            raise UserError(
                "--resume goes on with a run as it was started: it takes only --data and --max-steps"
            )
        options = config.from_dict(Options, values, "train")
        from jfusion.train.loop import resume

        resume(given.resume, values.get("data"), options.max_steps)
        return 0
    if not given.system:
        raise UserError("which system? for example: jfusion train film (see jfusion systems)")
    settings, values = _settings(given, given.system, Options)
    options = config.from_dict(Options, values, "train")
    from jfusion.train.loop import train, train_all

    (train_all if settings.get("task") == "all" else train)(given.system, settings, options)
    return 0


def _test(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    text = "fuse a test set with a checkpoint and print its metrics beside the paper's"
    command = _command(commands, "test", text, _run_test)
    command.add_argument(
        "system", nargs="?", help="needed for the authors' checkpoints (default: film)"
    )
    command.add_argument("--config", metavar="FILE", help="settings of the system as JSON or YAML")
    if arguments[:1] == ["test"]:
        from jfusion.commands.test import Options

        config.add_options(command.add_argument_group("the test"), Options)
        _system_options(command, arguments)


def _run_test(given: argparse.Namespace) -> int:
    from jfusion.commands.test import Options

    settings, values = _settings(given, given.system or "film", Options)
    options = config.from_dict(Options, values, "test")
    from jfusion.commands.test import test

    result = test(given.system, settings, options)
    print(result.table.text())
    print(f"images, table and grid.png: {result.folder}")
    return 0


def _fuse(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    command = _command(commands, "fuse", "fuse two images, or two folders of images", _run_fuse)
    command.add_argument(
        "--system", metavar="X", help="needed for the authors' checkpoints (default: film)"
    )
    command.add_argument("--config", metavar="FILE", help="settings of the system as JSON or YAML")
    if arguments[:1] == ["fuse"]:
        from jfusion.inference import Options

        config.add_options(command.add_argument_group("what is fused"), Options)
        _system_options(command, arguments)


def _run_fuse(given: argparse.Namespace) -> int:
    from jfusion.inference import Options, fuse

    settings, values = _settings(given, given.system or "film", Options)
    options = config.from_dict(Options, values, "fuse")
    written = fuse(given.system, settings, options)
    print(f"{len(written)} fused: {written[0] if len(written) == 1 else options.out}")
    return 0


def _align(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    text = "move one image of a pair onto the other by Diff-FCCF's field, and tell by how much"
    command = _command(commands, "align", text, _run_align)
    if arguments[:1] == ["align"]:
        from jfusion.commands.align import Options

        config.add_options(command, Options)


def _run_align(given: argparse.Namespace) -> int:
    from jfusion.commands.align import Options, align

    options = config.from_dict(Options, config.given(given, Options), "align")
    for name, found in align(options).items():
        n = found.numbers
        print(
            f"{name}: displacement {n['mean']:.2f} px (at most {n['largest']:.2f}), after a shift of "
            f"{n['columns before']:+.0f} columns and {n['rows before']:+.0f} rows; mutual information "
            f"{n['NMI before']:.4f} -> {n['NMI after']:.4f}"
        )
    print(f"moved images, pictures and displacement.csv: {options.out}")
    return 0


def _system_options(command: argparse.ArgumentParser, arguments: list[str]) -> None:
    """The settings of the system that is named on the command line (film if none is)."""
    from jfusion.systems import registry

    named = next((a for a in arguments[1:] if a in registry.SYSTEMS), "film")
    group = command.add_argument_group(f"settings of {named}")
    config.add_options(group, registry.config_class(named))


def _settings(given: argparse.Namespace, system: str, options: type) -> tuple[dict, dict]:
    """The settings of the system, and of the command: the file's, changed by the command line."""
    from jfusion.systems import registry

    cls = registry.config_class(system)
    values = config.read(given.config) if given.config else {}
    of_command, of_system = ({f.name for f in dataclasses.fields(c)} for c in (options, cls))
    if "model" in values and hasattr(cls, "of_the_authors"):
        found = cls.of_the_authors(values, given.config)
        values = {k: v for k, v in found.items() if k in of_command | of_system}
    for name in values:
        if name not in of_command | of_system:
            near = did_you_mean(name, of_command | of_system)
            raise UserError(f"{given.config}: unknown setting {name!r}{near}")
    settings = {k: v for k, v in values.items() if k in of_system}
    rest = {k: v for k, v in values.items() if k in of_command - of_system}
    return {**settings, **config.given(given, cls)}, {**rest, **config.given(given, options)}


# ---- checkpoints -------------------------------------------------------------------------------


def _inspect(commands: argparse._SubParsersAction) -> None:
    text = "show what is in a checkpoint: names, shapes, dtypes, record, hash"
    command = _command(commands, "inspect", text, _run_inspect)
    command.add_argument("file", help=".pkl, .safetensors or PyTorch's .pth; nothing in it can run")


def _run_inspect(given: argparse.Namespace) -> int:
    from jfusion import checkpoint

    print(checkpoint.summary(given.file))
    return 0


def _convert(commands: argparse._SubParsersAction) -> None:
    text = "write a checkpoint in another format: .pkl, .safetensors or .pth, by the ending"
    command = _command(commands, "convert", text, _run_convert)
    command.add_argument("source", metavar="IN", help="the checkpoint to read")
    command.add_argument("target", metavar="OUT", help="the file to write")
    command.add_argument("--system", help="check the names and translate them: film, ...")
    command.add_argument(
        "--names",
        choices=("ours", "official"),
        help="with --system: which names to write (default: official for .pth, otherwise ours)",
    )


def _run_convert(given: argparse.Namespace) -> int:
    from jfusion import checkpoint

    content = checkpoint.load(given.source)
    if given.names and not given.system:
        raise UserError("--names needs --system, whose names are translated")
    if given.system:
        from jfusion.inference import with_names

        content = with_names(content, given.system, given.names or given.target, given.source)
    checkpoint.save(given.target, content)
    print(checkpoint.summary(given.target).splitlines()[0])
    return 0


# ---- metrics, papers ---------------------------------------------------------------------------


def _metrics(commands: argparse._SubParsersAction) -> None:
    text = "judge folders of fused images: mean and deviation of each metric, best and second best"
    command = _command(commands, "metrics", text, _run_metrics)
    command.epilog = (
        "Images are matched by name without its ending. A metric that is not defined for an image "
        "(the correlation with a constant one) is left out of the mean, and counted. Presets and "
        "formulas: docs/metrics.md."
    )
    command.add_argument("--a", required=True, metavar="DIR", help="sources A (infrared, MRI, ...)")
    command.add_argument("--b", required=True, metavar="DIR", help="sources B (visible, PET, ...)")
    command.add_argument(
        "--fused",
        required=True,
        metavar="DIR",
        nargs="+",
        action="extend",
        help="fused images, one folder for each method; NAME=DIR names the method",
    )
    command.add_argument("--truth", metavar="DIR", help="ground truth: adds its PSNR and SSIM")
    command.add_argument("--list", metavar="FILE", help="judge only the names in this list file")
    command.add_argument("--preset", default="film", help="film, cddfuse, film-nankai, vifb")
    command.add_argument("--metrics", metavar="EN,SD,...", help="columns; all: every one")
    command.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    command.add_argument("--paper", metavar="SYSTEM/DATASET", help="add the published row")
    command.add_argument("--csv", metavar="FILE", help="write the table as CSV")
    command.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    command.add_argument("--latex", metavar="FILE", help="write the table as LaTeX")
    command.add_argument("--per-image", metavar="FILE", help="write every image's values as CSV")


def _run_metrics(given: argparse.Namespace) -> int:
    from jfusion.commands import metrics as judge

    names = ("a", "b", "fused", "truth", "list", "preset", "metrics", "jobs", "paper")
    result = judge.judge(judge.Options(**{name: getattr(given, name) for name in names}))
    print(result.table.text())
    for line in result.notes:
        print(f"note: {line}")
    judge.write(result, given.csv, given.markdown, given.latex, given.per_image)
    for line in result.skipped:
        print(f"skipped {line}", file=sys.stderr)
    return 2 if result.skipped else 0


def _papers(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "papers", "the numbers that the papers printed", _run_papers)
    actions = command.add_subparsers(title="what to do", metavar="", required=True)
    listing = actions.add_parser("list", help="the tables: data sets, metrics, source")
    listing.set_defaults(show=False)
    show = actions.add_parser("show", help="the numbers; options narrow them down")
    show.set_defaults(show=True)
    for name in ("system", "dataset", "metric"):
        show.add_argument(f"--{name}", metavar="NAME", help=f"this {name} only")


def _run_papers(given: argparse.Namespace) -> int:
    from jfusion.papers import tables

    if not given.show:
        print(tables.overview())
        return 0
    for dataset, source, table in tables.select(given.system, given.dataset, given.metric):
        print(f"{dataset} ({source})\n{table.text()}\n")
    return 0


# ---- the rest ----------------------------------------------------------------------------------


def _demo(commands: argparse._SubParsersAction, arguments: list[str]) -> None:
    text = "the whole job on sample photographs: preprocess, train a short while, test"
    command = _command(commands, "demo", text, _run_demo)
    if arguments[:1] == ["demo"]:
        from jfusion.commands.demo import Options

        config.add_options(command, Options)


def _run_demo(given: argparse.Namespace) -> int:
    from jfusion.commands.demo import Options, demo

    demo(config.from_dict(Options, config.given(given, Options), "demo"))
    return 0


def _systems(commands: argparse._SubParsersAction) -> None:
    _command(commands, "systems", "list the systems", _run_systems)


def _run_systems(given: argparse.Namespace) -> int:
    from jfusion.systems import registry

    for name in registry.SYSTEMS:
        print(f"{name:<10} {registry.title(name)}")
    return 0


def _doctor(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "doctor", "show what jfusion found on this machine", _run_doctor)
    command.add_argument("--quiet", action="store_true", help="print problems only")
    command.add_argument("--warm", metavar="SYSTEM", help="compile a system's kernels ahead")
    command.add_argument(
        "--clean", action="store_true", help="free what old versions left in the cache"
    )


def _run_doctor(given: argparse.Namespace) -> int:
    from jfusion.commands import doctor

    if given.clean:
        return doctor.clean()
    return doctor.diagnose(given.quiet) or (doctor.warm(given.warm) if given.warm else 0)
