"""The command line as a user meets it: help, options of a system, mistakes."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jfusion import checkpoint, cli, config, inference
from jfusion.cli import COMMANDS, main
from jfusion.systems import registry

ROOT = Path(cli.__file__).parents[1]
OF_A_SYSTEM = {"train": "train {}", "test": "test {}", "fuse": "fuse --system {}"}
CASES = [[], *([command] for command in COMMANDS)]
CASES += [c.format(name).split() for c in OF_A_SYSTEM.values() for name in registry.SYSTEMS]


def read_calls(monkeypatch, command):
    """main's calls of a command, as (options, settings), instead of the command."""
    module = __import__(f"jfusion.commands.{command}", fromlist=["run"])
    calls = []
    monkeypatch.setattr(module, "run", lambda *arguments: calls.append(arguments) or 0)
    return calls


@pytest.fixture
def run_of(tmp_path):
    """run_of("lfdt") -> a run folder of the system, without a checkpoint."""

    def make(name):
        folder = tmp_path / f"2026-01-01_{name}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"system": name, "config": {}}))
        return folder

    return make


# ---- help --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps():
    """ " ".join(case) -> (exit code, output, processor seconds, whether Jittor was imported), all in one process."""
    code = """
import contextlib, io, json, sys, time
from jfusion.cli import main
found = {}
for case in json.loads(sys.argv[1]):
    out, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([*case, "--help"])
    found[" ".join(case)] = code, out.getvalue(), time.process_time() - start, "jittor" in sys.modules
print(json.dumps(found))
"""
    command = [sys.executable, "-c", code, json.dumps(CASES)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_help_of_everything_comes_at_once_without_jittor(helps, case):
    status, text, seconds, jittor = helps[" ".join(case)]
    assert status == 0 and seconds < 1 and not jittor
    assert text.startswith("usage: jfusion") and "(default: None)" not in text
    defaults = [option.count("(default") for option in text.split("\n  --")]
    assert max(defaults, default=0) <= 1


def test_help_of_a_system_lists_its_settings(helps):
    assert "settings of lfdt" in helps["train lfdt"][1] and "--blocks" in helps["train lfdt"][1]
    assert "settings of ddfm" in helps["fuse --system ddfm"][1]
    assert f"settings of {inference.system_of()}" in helps["test"][1]


@pytest.mark.parametrize("command", ["fuse a b --system film", "test film"])
def test_only_training_takes_the_settings_of_training(helps, capsys, command):
    assert "--learning-rate" in helps["train film"][1]
    assert "--learning-rate" not in helps[command.replace(" a b", "")][1]
    assert main([*command.split(), "--learning-rate", "1"]) == 2
    assert "--learning-rate, which only jfusion train takes" in capsys.readouterr().err


def test_the_command_itself_answers_in_a_second():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "jfusion", "--help"], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and b"preprocess" in done.stdout
    # of processor time: the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


# ---- which system's settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "system", "settings"),
    [
        ("fuse --system=lfdt --inference-steps 3", "lfdt", {"inference_steps": 3}),
        ("fuse --inference-steps 3 --system lfdt", "lfdt", {"inference_steps": 3}),
        ("fuse --system film --hidden-dim 8", "film", {"hidden_dim": 8}),
        ("test lfdt --inference-steps 3", "lfdt", {"inference_steps": 3}),
        ("test --out x lfdt --inference-steps 3", "lfdt", {"inference_steps": 3}),
        ("test --out ddfm --mean-size 9", None, {"mean_size": 9}),
        ("test --out lfdt", None, {}),
        (
            "train film --no-normalize --token-size 6 8",
            "film",
            {"normalize": False, "token_size": (6, 8)},
        ),
    ],
)
def test_the_system_is_read_from_the_options(monkeypatch, tmp_path, words, system, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jfusion.weights.default_for", lambda task: "guided")
    command, *rest = words.split()
    calls = read_calls(monkeypatch, command)
    required = ["--a", "ddfm", "--b", "film"] if command == "fuse" else []
    assert main([command, *required, *rest]) == 0
    ((options, found),) = calls
    assert (options.system, found) == (system, settings)
    if command == "fuse":
        assert (options.a, options.b) == ("ddfm", "film")


@pytest.mark.parametrize("command", ["test", "fuse --a a --b b"])
def test_a_runs_own_system_decides_which_settings_there_are(monkeypatch, run_of, command):
    folder = run_of("lfdt")
    command, *required = command.split()
    calls = read_calls(monkeypatch, command)
    for weights in (folder, folder.parent):  # the run itself, and a folder of runs
        assert main([command, *required, "--weights", str(weights), "--inference-steps", "3"]) == 0
        options, settings = calls.pop()
        assert options.system is None and settings == {"inference_steps": 3}
        assert inference.system_of(weights) == "lfdt"


@pytest.mark.parametrize("suffix", checkpoint.FORMATS)
def test_a_checkpoints_own_system_decides_which_settings_there_are(monkeypatch, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    model = {"x": np.ones(3, np.float32)}
    checkpoint.save(path, {"model": model, "system": "lfdt", "config": {"task": "MEF"}})
    calls = read_calls(monkeypatch, "test")
    assert main(["test", "--weights", str(path), "--inference-steps", "3"]) == 0
    assert calls.pop()[1] == {"inference_steps": 3}
    assert checkpoint.record(path)["config"] == {"task": "MEF"}


def test_a_file_gives_settings_and_options_of_the_command(monkeypatch, tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("hidden_dim: 16\nstretch: false\nmax_steps: 7\nepochs: 2\n")
    calls = read_calls(monkeypatch, "train")
    assert main(["train", "film", "--config", str(tmp_path / "x.yaml"), "--epochs", "3"]) == 0
    options, settings = calls.pop()
    assert options.max_steps == 7
    assert settings == {"hidden_dim": 16, "normalize": False, "epochs": 3}
    (tmp_path / "x.yaml").write_text("hiden_dim: 16\n")
    assert main(["train", "film", "--config", str(tmp_path / "x.yaml")]) == 2
    assert (
        "x.yaml: unknown setting 'hiden_dim'; did you mean 'hidden_dim'?" in capsys.readouterr().err
    )
    (tmp_path / "x.yaml").write_text("model: {a: 1}\n")
    assert main(["train", "film", "--config", str(tmp_path / "x.yaml")]) == 2
    assert "authors publish no configuration files" in capsys.readouterr().err


# ---- the documentation ---------------------------------------------------------------------------


def documented():
    """Every command that stands on a line of its own in the README and the docs."""
    scripts = {"train.py": "train", "test.py": "test", "data_process.py": "preprocess"}
    for page in sorted(
        [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    ):
        for line in page.read_text(encoding="utf-8").splitlines():
            found = re.match(
                r"\s+(?:\S*mpirun -np 2 )?(?:\S*/)?(?:jfusion|python (\w+\.py)) (.*)", line
            )
            if found:
                script, rest = found.groups()
                words = [scripts[script]] if script else []
                words += shlex.split(re.split(r"\s{2,}#", rest)[0])
                yield pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(documented()))
def test_the_commands_of_the_documentation_are_understood(monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    table = "sets: {TNO: {a: ir, b: vi}}\nmethods: {Ours: ours}\n"
    (tmp_path / "table.yaml").write_text(
        table
    )  # the file that the examples of jfusion metrics name
    calls = read_calls(monkeypatch, words[0])
    assert main(words) == 0 and len(calls) == 1
    if len(calls[0]) == 2 and calls[0][1]:  # settings, which the system's configuration accepts
        options, settings = calls[0]
        config.from_dict(registry.config_class(options.system), settings)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("train film --learning 3", "unknown option --learning; did you mean --learning-rate?"),
        ("train film --batch 3", "unknown option --batch; did you mean --batch-size?"),
        ("train film --learnin-rate 3", "did you mean --learning-rate?"),
        ("train film --epoch 3", "unknown option --epoch; did you mean --epochs?"),
        ("fuse --a x --b y --wieghts z", "did you mean --weights?"),
        (
            "test --blocks 3",
            "--blocks, a setting of lfdt; these are those of guided",
        ),
        ("train film --no-reinforce", "a setting of fccf"),
        ("train film --no-stretch", "unknown option --no-stretch, which is called --normalize now"),
        ("preprocess --rainbow a", "--rainbow, which is called --pseudo-color now"),
        ("train film cddfuse", "unexpected argument 'cddfuse'"),
        ("check", "required: FILE"),
        ("check a b", "unexpected argument 'b'"),
        ("train film --epochs", "--epochs: expected one argument"),
        ("slices x y --window 1", "--window: expected 2 arguments"),
        ("preprocess --range -5:5", "is written --range=VALUE"),
        ("fuze", "unknown command 'fuze'; did you mean 'fuse'?"),
        ("--versoin", "did you mean --version?"),
    ],
)
def test_a_wrong_option_shows_the_usage_of_its_command(monkeypatch, tmp_path, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jfusion.weights.default_for", lambda task: "guided")
    assert main(words.split()) == 2
    usage, line = capsys.readouterr().err.strip().splitlines()
    command = words.split()[0] if words.split()[0] in COMMANDS else "COMMAND"
    assert usage.startswith(f"usage: jfusion {command}") and text in line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("train flim", "unknown system 'flim'; did you mean 'film'?"),
        (
            "fuse a b --method film-ivf",
            "film-ivf is the name of weights, not of a system; remedy: --weights film-ivf",
        ),
        ("train film --epochs many", "--epochs must be a whole number, not 'many'"),
        ("train film --batch-size 0", "--batch-size must be 1 or more, not 0"),
        ("fuse --a x --b y --record avi", "--record must be one of gif, webp, png, not 'avi'"),
        ("papers shwo", "action must be list or show, not 'shwo'; did you mean 'show'?"),
        ("papers list --system FILM", "jfusion papers show"),
        ("convert a.pkl b.pkl --names ours", "does not exist"),
    ],
)
def test_a_wrong_value_is_one_line(monkeypatch, tmp_path, capsys, words, text):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line


def test_the_exit_code_says_how_a_command_ended(monkeypatch):
    def ending(error):
        def run(options):
            raise error

        return run

    for error, status in ((KeyboardInterrupt(), 130), (BrokenPipeError(), 0)):
        monkeypatch.setattr("jfusion.commands.systems.run", ending(error))
        assert main(["systems"]) == status


def test_every_command_is_a_file_of_its_name():
    files = (ROOT / "jfusion/commands").glob("*.py")
    assert {path.stem for path in files} - {"__init__"} == set(COMMANDS)


@pytest.mark.parametrize(
    "module", ["atexit", "argparse", "jfusion.files", "jfusion.systems.registry"]
)
def test_ctrl_c_is_silent_while_modules_are_imported(module):
    code = f"""
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            signal.raise_signal(signal.SIGINT)

sys.modules.pop("{module}", None)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["jfusion", "systems"]
import runpy
runpy.run_module("jfusion", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_little_is_imported_before_ctrl_c_is_answered():
    code = "import sys; before = set(sys.modules); import jfusion.__main__; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ours = {"jfusion", "jfusion.version", "jfusion.interrupt", "jfusion.__main__", "__future__"}
    assert ours - {"__future__"} <= set(done.stdout.split()) <= ours, done.stderr


@pytest.mark.parametrize("moment", ["the command", "atexit", "the last"])
def test_ctrl_c_after_the_work_prints_nothing(moment):
    code = f"""
import atexit, signal, sys
import jfusion.cli
from jfusion.__main__ import start

def main(arguments):
    if "{moment}" == "the command":
        raise_signal()
    atexit.register(lambda: "{moment}" == "atexit" and raise_signal())
    return 0

def raise_signal():
    signal.raise_signal(signal.SIGINT)

if "{moment}" == "the last":
    atexit.register(raise_signal)
jfusion.cli.main = main
sys.exit(start())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (0 if moment == "the last" else 130)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(("loaded", "last"), [("jittor", ""), ("other", "taken apart\n")])
def test_after_jittor_a_process_ends_when_all_that_was_to_be_done_at_exit_is_done(loaded, last):
    code = f"""
import atexit, sys, threading, time
import jfusion.cli
from jfusion.__main__ import start

class Last:
    def __del__(self):
        print("taken apart")

def main(arguments):
    sys.modules["{loaded}"] = Last()
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread"))).start()
    return 3

jfusion.cli.main = main
sys.exit(start())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "a thread\nat exit\n" + last
