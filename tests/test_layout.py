"""The rooms of the package: what stands where, and what a room may not know."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import jfusion
from jfusion.systems import registry

PACKAGE = Path(jfusion.__file__).parent
# systems: each in its folder; papers: published numbers; parity: each system next to its authors' code
ROOMS_OF_SYSTEMS = ("systems", "papers", "parity")
ORDINARY = ("average", "maximum", "laplacian", "guided")  # words of the language, not only systems
NAMES = [name for name in registry.SYSTEMS if name not in ORDINARY]
WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(NAMES)})(?![a-z])")

# Where shared code may name a system, and why.
ALLOWED = {
    "commands/align.py": "registration is a part of one system; another is named with --system",
    "commands/demo.py": "the demo trains two systems, with settings for its size",
    "metrics/presets.py": "evaluators are called after the system whose authors wrote them",
}


def shared_files():
    """Every module of the package outside the rooms that are about single systems."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] not in ROOMS_OF_SYSTEMS:
            yield pytest.param(path, name, id=name)


def code_of(path):
    """(line, token) of names and strings; docstrings and comments are not code."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_code = token.type in (tokenize.NAME, tokenize.STRING)
        if is_code and token.start[0] not in docstrings:
            yield token.start[0], token.string


@pytest.mark.parametrize(("path", "name"), list(shared_files()))
def test_shared_code_does_not_know_single_systems(path, name):
    naming = [(line, text) for line, text in code_of(path) if WORD.search(text)]
    assert not naming or name in ALLOWED


def test_what_is_allowed_is_needed():
    for name in ALLOWED:
        path = PACKAGE / name
        assert any(WORD.search(text) for _, text in code_of(path)), f"{name} names no system"
