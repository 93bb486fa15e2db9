"""Hooks of MkDocs (mkdocs.yml): the page of all options, made from the code, and links out of docs/."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from jfusion.cli import COMMANDS, parser_of
from jfusion.systems import registry


def on_files(files: Any, config: Any) -> Any:
    """Adds options.md, which is not in git."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "options.md", content=options_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links to files of the repository that are no pages become their names: the site has only docs/."""
    docs = Path(config["docs_dir"])
    folder = (docs / page.file.src_uri).parent

    def shown(match: re.Match[str]) -> str:
        target = (folder / match[2].partition("#")[0]).resolve()
        outside = not target.is_relative_to(docs.resolve())
        return f"{match[1]} (`{target.relative_to(docs.parent)}`)" if outside else match[0]

    return re.sub(r"\[([^\]]*)\]\((?!\w+:)([^)\s]+)\)", shown, markdown)


def options_page() -> str:
    """The options of every command, and the settings of every system, as Markdown."""
    parts = ["# Options\n", "Made from the code; `jfusion COMMAND --help` prints the same.\n"]
    for command, text in COMMANDS.items():
        parts += [f"## jfusion {command}\n", f"{text[0].upper()}{text[1:]}.\n"]
        parts.append(_table(parser_of(command)._actions))
    parts.append("# Settings of the systems\n")
    for name in registry.SYSTEMS:
        trained = hasattr(registry.config_class(name), "batch_size")
        actions = parser_of("train" if trained else "test", name).settings._group_actions
        if actions:
            parts += [f"## {name}\n", _table(actions)]
    return "\n".join(parts)


def _table(actions: list[argparse.Action]) -> str:
    lines = ["| option | |", "|---|---|"]
    for action in actions:
        if action.dest == "help":
            continue
        metavar = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
        flags = isinstance(action, argparse.BooleanOptionalAction)
        names = ", ".join(action.option_strings)
        name = f"{names} {'' if flags else value}".strip() if names else value
        text = (action.help or "").replace("%%", "%").replace("<", "&lt;")
        lines.append(f"| `{name}` | {text} |".replace("\n", " ").replace("{|", "{"))
    return "\n".join(lines) + "\n"
