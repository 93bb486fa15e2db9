"""Puts the weights of a training into the package, with their card.

    python tools/ship_weights.py exp/<run> --name film-ivf --task IVF \\
        --source road_ "RoadScene train" "none stated" \\
        --source m3svd_ "M3SVD, frames without 0115_1847 and 0114_1611" "none stated" \\
        --command "jfusion train film --data FilmIVF_train.h5 --crop 96 128 ..." \\
        --hours 2.5 --not-good-for "pairs that are not registered"

It writes jfusion/weights/NAME.safetensors (float16), NAME.json (the card) and, for a system that reads
paragraphs, NAME.npy (the features of the task's neutral paragraph). The weights are read back and fuse a
pair before anything is kept. Afterwards: tools/results_measure.py, which measures them, and
tools/results_page.py, which writes the page and the measured rows of the card; jfusion/weights/defaults.json
says whether they are the default of their task.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from jfusion import checkpoint, inference, weights  # noqa: E402
from jfusion.data.folder import training_data  # noqa: E402
from jfusion.data.layout import TASKS  # noqa: E402
from jfusion.errors import UserError  # noqa: E402
from jfusion.files import replacing  # noqa: E402
from jfusion.systems import registry  # noqa: E402
from jfusion.weights import cards  # noqa: E402

MOST_EACH, MOST_TOGETHER = 8 << 20, 40 << 20  # bytes of the files
KEPT = ("encoder", "encoder_hash", "range_a", "range_b", "version", "precision", "epoch", "step")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ships one training; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _ship(options)
    except UserError as error:
        print(f"ship_weights: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a run folder (its newest checkpoint), or a checkpoint")
    parser.add_argument("--name", required=True, help="such as film-ivf")
    parser.add_argument("--task", required=True, nargs="+", choices=TASKS, help="one, or several")
    parser.add_argument(
        "--source",
        nargs=3,
        action="append",
        required=True,
        metavar=("PREFIX", "NAME", "TERMS"),
        help="a source of training pairs: how the names of its samples begin, what it is called, and its "
        "terms as stated there, or 'none stated'",
    )
    parser.add_argument(
        "--data", help="the training set, or the folder of images (default: that of the run)"
    )
    parser.add_argument(
        "--command",
        action="append",
        required=True,
        help="the exact command; several in their order, where one started from another's weights",
    )
    parser.add_argument("--steps", type=int, help="all steps (default: those of the checkpoint)")
    parser.add_argument("--hours", type=float, required=True, help="on the clock, all commands")
    parser.add_argument("--commit", help="of the code that trained (default: HEAD)")
    parser.add_argument("--machine", help="default: this machine's processor")
    parser.add_argument("--not-good-for", action="append", default=[], help="what to keep it from")
    parser.add_argument("--license", default="Apache-2.0")
    parser.add_argument(
        "--paragraph",
        help="fits every pair of the task (default: NEUTRAL of tools/make_training_pairs.py)",
    )
    parser.add_argument("--out", type=Path, default=weights.FOLDER)
    return parser


def _ship(options: argparse.Namespace) -> None:
    if options.name in registry.names():
        raise UserError(f"{options.name} is the name of a system; choose another --name")
    source = inference.find_checkpoint(options.checkpoint)
    content = checkpoint.load(source)
    if "system" not in content:
        raise UserError(f"{source} does not say its system; ship a checkpoint of jfusion's")
    sets = training_data(options.data or content["options"]["data"])
    names = [name for data in sets for name in data.names]
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / f"{options.name}.safetensors"
        _write_half(half, content)
        text, features = _paragraph(options, content)
        card = {
            "name": options.name,
            "file": _entry(half),
            "system": content["system"],
            "tasks": options.task,
            "settings": content["config"],
            "text": text,
            "data": _sources(options.source, names),
            "data_list": {
                "count": len(names),
                "sha256": _sha256("\n".join(sorted(names)).encode()),
            },
            "recipe": _recipe(options, content),
            "measured": [],
            "not_good_for": options.not_good_for,
            "license": options.license,
        }
        cards.check(card, "the card")
        difference = _compare(half, source, features)
        _check_sizes(options.out, options.name, half.stat().st_size)
        _keep(options.out / half.name, half.read_bytes(), "checkpoint")
    if features is not None:
        np.save(options.out / text["file"]["name"], features)
        text["file"] = _entry(options.out / text["file"]["name"])
    cards.write(options.out / f"{options.name}.json", card)
    print(cards.text(card))
    print(f"float16 changes a fused image by at most {difference:.2f} of 255 levels")


def _write_half(path: Path, content: dict[str, Any]) -> None:
    """Writes the weights in float16, with what is needed to use them."""
    model = {k: np.asarray(v, np.float32) for k, v in content["model"].items()}
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and is refused
        half = {k: v.astype(np.float16) for k, v in model.items()}
    lost = [name for name, value in half.items() if not np.isfinite(value).all()]
    if lost:
        raise UserError(f"{lost[0]} has values that float16 cannot hold")
    record = {k: content[k] for k in KEPT if k in content}
    system = {"system": content["system"], "config": content["config"]}
    checkpoint.save(path, {"model": half, **system, **record})


def _paragraph(
    options: argparse.Namespace, content: dict[str, Any]
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """The card's entry and the features (L, D) of the neutral paragraph; None for a system without text."""
    if not hasattr(registry.config_class(content["system"]), "text_dim"):
        return None, None
    from make_training_pairs import NEUTRAL

    from jfusion.text.features import Encoder

    paragraph = options.paragraph or NEUTRAL.get(options.task[0])
    if paragraph is None:
        raise UserError(f"there is no neutral paragraph for {options.task[0]}; give --paragraph")
    encoder = Encoder(content["encoder"])
    if encoder.hash != content["encoder_hash"]:
        raise UserError(f"{content['encoder']} here is not the encoder of the training")
    tokens = encoder.tokens(paragraph)
    features = encoder.encode([tokens], len(tokens))[0].astype(np.float16)
    entry = {"encoder": content["encoder"], "encoder_hash": content["encoder_hash"]}
    file = {"name": f"{options.name}.npy", "bytes": features.nbytes, "sha256": ""}
    return {**entry, "paragraph": paragraph, "file": file}, features


def _sources(sources: list[list[str]], names: list[str]) -> list[dict[str, Any]]:
    """The sources with their counts. Raises UserError for a sample of none or of two of them."""
    for name in names:
        owners = [prefix for prefix, _, _ in sources if name.startswith(prefix)]
        if len(owners) != 1:
            raise UserError(f"sample {name} is of {len(owners)} of the sources; change --source")
    return [
        {"name": name, "count": sum(n.startswith(prefix) for n in names), "terms": terms}
        for prefix, name, terms in sources
    ]


def _recipe(options: argparse.Namespace, content: dict[str, Any]) -> dict[str, Any]:
    head = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return {
        "commands": options.command,
        "commit": options.commit or subprocess.check_output(head, text=True).strip(),
        "seed": content["options"]["seed"],
        "steps": options.steps or content["step"],
        "hours": options.hours,
        "machine": options.machine or _machine(),
    }


def _machine() -> str:
    """The processor of this machine, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.machine()


def _compare(half: Path, whole: Path, features: np.ndarray | None) -> float:
    """The largest difference, in levels, of a pair fused with the weights in float16 and as trained."""
    rng = np.random.default_rng(0)
    a, b = (np.kron(rng.random((6, 8)), np.ones((16, 16))).astype(np.float32) for _ in "ab")
    text = None if features is None else features.astype(np.float32)
    fused = [inference.load_system(p).fuse(a, b, text, seed=0) for p in (half, whole)]
    return float(np.abs(fused[0] - fused[1]).max() * 255)


def _check_sizes(folder: Path, name: str, size: int) -> None:
    others = (p.stat().st_size for p in folder.glob("*.safetensors") if p.stem != name)
    together = size + sum(others)
    if size > MOST_EACH or together > MOST_TOGETHER:
        raise UserError(
            f"{name} has {size / 2**20:.1f} MiB and all together {together / 2**20:.1f}; at most 8 and 40"
        )


def _keep(path: Path, data: bytes, kind: str) -> None:
    with replacing(path, "the weights", kind) as temporary:
        temporary.write_bytes(data)


def _entry(path: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path.read_bytes()),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
