"""The file of a comparison, and the options that were typed over it."""

from __future__ import annotations

import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.commands import metrics as command
from jfusion.errors import UserError
from jfusion.metrics import table_file
from jfusion.metrics.folders import DataSet

GOOD = """
sets:
  TNO: {a: tno/ir, b: /vi, list: test.txt, paper: film}
  2: {a: x, b: y, paper: [cddfuse/TNO, film]}
methods: {Ours: "r/{set}/{name}_f"}
preset: vifb
metrics: [EN, SD]
paper: film
latex: t.tex
"""


def write(tmp_path, text):
    (tmp_path / "t.yaml").write_text(text)
    return str(tmp_path / "t.yaml")


def test_paths_begin_in_the_folder_of_the_file(tmp_path):
    path = write(tmp_path, GOOD)
    sets, papers = table_file.sets(path)
    places = (f"{tmp_path}/tno/ir", "/vi", None, f"{tmp_path}/test.txt")
    assert sets[0] == DataSet("TNO", *places, origin=f"{path}: the set TNO")
    assert papers == {"TNO": ["film/TNO"], "2": ["cddfuse/TNO", "film/2"]}
    assert table_file.methods(path) == {"Ours": f"{tmp_path}/r/{{set}}/{{name}}_f"}


def test_a_missing_folder_is_named_as_the_file_names_it(tmp_path, capsys):
    path = write(tmp_path, "sets: {T: {a: ir, b: vi}}\nmethods: {M: ours}")
    assert main(["metrics", path]) == 2
    assert f"{path}: the set T: a: folder {tmp_path}/ir does not exist" in capsys.readouterr().err
    assert main(["metrics", "--set", "T", "ir", "ir", "--fused", "ir"]) == 2
    assert "--set T: a: folder ir does not exist" in capsys.readouterr().err
    (tmp_path / "ir").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "ir/1.png")
    write(tmp_path, "sets: {T: {a: ir, b: ir}}\nmethods: {M: gone}")
    assert main(["metrics", path]) == 2
    assert f"the method M: folder {tmp_path}/gone does not exist" in capsys.readouterr().err


def test_options_that_were_typed_win(tmp_path):
    path = write(tmp_path, GOOD)
    values = command.from_file({"table": path, "preset": "film"})
    assert values == {
        "table": path,
        "preset": "film",
        "metrics": "EN,SD",
        "paper": ["film"],
        "latex": f"{tmp_path}/t.tex",
    }
    assert command.from_file({"a": "x"}) == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sets: {}", "sets must be a mapping"),
        ("sets: {T: {a: x}}", "the set T needs a and b"),
        ("sets: {T: {a: x, b: y, truht: z}}", "unknown setting 'truht'; did you mean 'truth'"),
        ("sets: {T: {a: x, b: 3}}", "b must be a path, not 3"),
        ("sets: {T: {a: x, b: y}}\nmethods: [a]", "methods must be a mapping"),
        ("sets: {T: {a: x, b: y}}\nmethods: {a: 3}", "methods must be a mapping"),
        (
            "sets: {T: {a: x, b: y}}\npreste: film",
            "unknown setting 'preste'; did you mean 'preset'",
        ),
        ("sets: {T: {a: x, b: y}}\nfused: [a]", "unknown setting 'fused'"),
        ("[", "is not valid"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=words):
        command.inputs(command.Options(**command.from_file({"table": path})))
