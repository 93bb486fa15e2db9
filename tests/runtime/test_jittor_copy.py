"""The copies of Jittor's packages: what a start with them leaves out, and that nothing is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jfusion.errors import UserError
from jfusion.runtime import build, jittor_copy, machine

CODE = """
import sys

programs = []
sys.addaudithook(lambda event, found: event == "subprocess.Popen" and programs.append(list(found[1])))
from jfusion.runtime import jt

print(programs)
print([name for name in ("ssl", "urllib.request", "jittor.dataset") if name in sys.modules])
print(jt.dataset.Dataset.__name__, jt.transform.Compose.__name__, hasattr(jt, "nothing"))
"""


@pytest.mark.skipif(bool(machine.cuda()[0]), reason="the copy is for the CPU")
def test_a_start_asks_the_compiler_alone():
    build.prepare()
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    programs, imported, lazily = done.stdout.splitlines()
    asked = [[machine.compiler(), "--version"]]
    assert eval(programs) in ([], asked, asked * 2), done.stderr
    assert (imported, lazily) == ("[]", "Dataset Compose False")


def test_another_jittor_than_expected_is_refused(tmp_path):
    for name in {name for name, *_ in jittor_copy.CHANGES}:
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("something else")
    with pytest.raises(UserError, match=r"is not that of Jittor 1\.3\.11"):
        jittor_copy.make(tmp_path / "site", tmp_path / "core")


def test_the_copies_are_made_anew(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "core"
    texts: dict[str, str] = {}
    for name, old, _ in jittor_copy.CHANGES:
        texts[name] = texts.get(name, "") + old
    for name, text in texts.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    jittor_copy.make(site, folder)
    (folder / "jittor/left.py").touch()
    jittor_copy.make(site, folder)
    assert not (folder / "jittor/left.py").exists()
    changed = (folder / "jittor/compiler.py").read_text()
    assert "if not core_is_there():\n    gen_jit_flags()\n" in changed
    assert {name: (site / name).read_text() for name in texts} == texts
