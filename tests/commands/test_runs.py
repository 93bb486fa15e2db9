"""`jfusion runs` and `jfusion plot`: the table, what is removed, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from jfusion.cli import main
from jfusion.runs import Run


@pytest.fixture
def make_run(tmp_path):
    """make_run("a", [3, 1, 2]) -> a run of one step per epoch, with these losses and a checkpoint each."""

    def make(name, losses, vif=()):
        run = Run.new(tmp_path / "exp", "toy", name, {"system": "toy", "dataset": name})
        run.start_log(0)
        for i, loss in enumerate(losses, 1):
            values = {"total": loss, **({"val/VIF": vif[i - 1]} if vif else {})}
            run.log(i, f"Epoch {i}/{len(losses)} Batch 0/1 total: {loss}", values)
            run.save({"model": {"w": np.ones(3, np.float32)}, "epoch": i, "batch": 0})
        run.close()
        return run

    return make


def kept(run):
    return [path.stem for path in run.checkpoints()]


def test_the_table_is_sorted(make_run, tmp_path, capsys):
    make_run("a", [3.0, 1.0], vif=[0.5, 0.25])
    make_run("b", [2.0, 2.0, 0.5])
    exp = str(tmp_path / "exp")
    assert main(["runs", "list", exp, "--sort", "loss"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "system", "data", "steps", "loss", "best", "size"]
    assert "_toy_b" in first and " 3 " in first and " 1.5 " in first
    assert "_toy_a" in second and "VIF 0.5 at step 1" in second
    assert main(["runs", exp, "--sort", "best"]) == 0
    assert "_toy_a" in capsys.readouterr().out.splitlines()[1]


def test_clean_keeps_the_newest_and_the_best(make_run, tmp_path, capsys):
    run, metric = make_run("a", [3.0, 1.0, 2.0]), make_run("b", [1.0, 2.0, 3.0], [0.1, 0.9, 0.2])
    assert main(["runs", "clean", str(run.folder), "--keep-best", "total"]) == 2  # nobody answers
    assert "add --yes" in capsys.readouterr().err and len(kept(run)) == 3
    assert main(["runs", "clean", str(run.folder), "--keep-best", "total", "--yes"]) == 0
    assert "1 of 3 checkpoints" in capsys.readouterr().out
    assert kept(run) == ["ckpt_2", "ckpt_3"] and len(kept(metric)) == 3
    assert main(["runs", "clean", str(metric.folder), "--keep-best", "VIF", "--yes"]) == 0
    assert kept(metric) == ["ckpt_2", "ckpt_3"]
    assert main(["runs", "clean", str(tmp_path / "exp"), "--keep-last", "2"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "left"), [("y", 1), ("", 2), ("no", 2)])
def test_clean_asks(make_run, monkeypatch, answer, left):
    run = make_run("a", [1.0, 2.0])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["runs", "clean", str(run.folder)]) == 0
    assert len(kept(run)) == left


def test_a_run_that_is_being_trained_is_not_cleaned(make_run, capsys):
    run = make_run("a", [1.0, 2.0])
    with run.locked():
        assert main(["runs", "clean", str(run.folder), "--yes"]) == 0
    assert "trained by another process; its checkpoints are kept" in capsys.readouterr().out
    assert len(kept(run)) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("runs list nowhere", "nowhere does not exist"),
        ("runs empty", "neither list nor clean nor a folder"),
        ("runs clan exp", "'clan' is neither list nor clean nor a folder; did you mean 'clean'?"),
        ("plot nowhere", "nowhere does not exist"),
        ("runs clean exp --keep-best totl", "has no 'totl'; did you mean 'total'?"),
    ],
)
def test_a_mistake_is_one_line(make_run, tmp_path, monkeypatch, capsys, words, text):
    make_run("a", [1.0])
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line


def test_plot_draws_the_newest_run_by_default(make_run, tmp_path, monkeypatch, capsys):
    run = make_run("a", [1.0, 2.0])
    monkeypatch.chdir(tmp_path)
    assert main(["plot"]) == 0
    assert capsys.readouterr().out == f"plot.png: {run.folder.name}\n"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
