"""What `jfusion parity` refuses before anything heavy starts."""

from __future__ import annotations

import sys

import pytest

from jfusion.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference", "."], "--reference and --python belong together"),
        (["--python", "python3"], "--reference and --python belong together"),
        (["--data", "x.h5"], "--data needs the authors' code"),
        (["--batch-size", "4"], "--batch-size needs the authors' code"),
        (["--learning-rate", "1e-3"], "--learning-rate needs the authors' code"),
        (["--steps", "9999"], "steps are recorded"),
        (["--reference", "nowhere", "--python", sys.executable], "Zhaozixiang1228/IF-FILM"),
        (
            ["--reference", ".", "--python", "no-such-python"],
            "--python no-such-python does not run",
        ),
        (["--steps", "0"], "steps must be"),
    ],
)
def test_what_does_not_fit_is_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["parity", "film", *options]) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_python_without_pytorch_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ["--reference", str(tmp_path), "--python", sys.executable]
    assert main(["parity", "film", *options]) == 2
    assert "cannot import torch and numpy (ImportError: No module named torch)" in (
        capsys.readouterr().err
    )


def test_an_unknown_system_is_named_with_the_nearest(capsys):
    assert main(["parity", "fil"]) == 2
    text = capsys.readouterr().err
    assert "film, cddfuse, sfdfuse, ddfm, lfdt, fccf" in text and "did you mean 'film'" in text
