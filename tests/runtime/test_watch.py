"""Ctrl-C while a library holds Python's lock."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jfusion import interrupt
from jfusion.runtime import watch

CODE = """
import sys, time
from pathlib import Path
import jfusion.cli
from jfusion import interrupt
from jfusion.__main__ import start
from jfusion.runtime import watch
from jfusion.train.signals import interruptible

def main(arguments):
    interrupt.raise_on_interrupt()
    watch.start(Path(sys.argv[1]))
    try:
        print("ready", flush=True)
        if sys.argv[2] == "locked":
            sum(range(10**11))
        elif sys.argv[2] == "answered":
            time.sleep(60)
        elif sys.argv[2] == "twice":
            with interruptible(lambda: "finishing step 3"):
                print("step", flush=True)
                sum(range(10**11))
        with interruptible() as received:  # as a step of a training, which is finished
            print("step", flush=True)
            sum(range(10**8))
            print("saved", received, flush=True)
    except KeyboardInterrupt:
        time.sleep(2 * watch.PATIENCE / 1000)  # what was answered may take its time
        print("answered")
        return interrupt.CODE
    return 0

watch.PATIENCE = 300
jfusion.cli.main = main
sys.exit(start())
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [("locked", 130, ""), ("answered", 130, "answered\n"), ("training", 0, "saved [2]\n")],
)
def test_ctrl_c_ends_the_process_although_nobody_can_answer(tmp_path, mode, code, said):
    command = [sys.executable, "-c", CODE, str(tmp_path), mode]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        if mode == "training":
            process.stdout.readline()
        if mode == "locked":
            time.sleep(1)  # until it holds the lock
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed, errors) == (code, said, "")
    assert len(list(tmp_path.glob("watch-*.so"))) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_step_of_a_training_answers_ctrl_c_while_it_computes_and_a_second_one_ends_it(tmp_path):
    command = [sys.executable, "-c", CODE, str(tmp_path), "twice"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "step\n"]
        time.sleep(0.5)  # until it computes
        process.send_signal(signal.SIGINT)
        assert [process.stderr.readline() for _ in range(2)] == ["\n", "finishing step 3\n"]
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


LOCKING = """
import fcntl, sys, time
from pathlib import Path
import jfusion.cli
from jfusion import interrupt
from jfusion.__main__ import start
from jfusion.runtime import watch

def main(arguments):
    interrupt.raise_on_interrupt()
    watch.SILENCE = 200
    with open(sys.argv[1], "w") as file:
        watch.tell(Path(sys.argv[1]).parent, sys.argv[1])
        print("ready", flush=True)
        fcntl.lockf(file, fcntl.LOCK_EX)  # as Jittor does, which is written in C and keeps Python's lock
        time.sleep(float(sys.argv[2]))
    return 0

jfusion.cli.main = main
sys.exit(start())
"""
COMPILES = "jfusion: Jittor compiles the kernels of this network, once on this machine\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs Linux's list of locks")
def test_it_is_said_that_jittor_compiles_and_who_is_waited_for(tmp_path):
    lock = tmp_path / "jittor.lock"
    command = [sys.executable, "-c", LOCKING, str(lock)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "60"], **pipes) as holder:
        assert holder.stdout.readline() == "ready\n"
        assert (holder.stderr.readline(), holder.stderr.readline()) == ("\n", COMPILES)
        with subprocess.Popen([*command, "0"], **pipes) as other:
            assert other.stderr.readline() == "\n"
            waits = f"jfusion: process {holder.pid} starts Jittor or compiles; waiting for it\n"
            assert other.stderr.readline() == waits
            holder.kill()
            assert other.communicate(timeout=60) == ("ready\n", "")
        assert other.returncode == 0
        assert holder.communicate()[1] == ""  # it is said once


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_nothing_is_said_of_a_short_while(tmp_path):
    command = [sys.executable, "-c", LOCKING, str(tmp_path / "jittor.lock"), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


def test_a_program_that_imports_us_is_not_watched(tmp_path):
    watch.tell(tmp_path, tmp_path / "jittor.lock")
    watch.start(tmp_path)
    assert interrupt.answers_to is None and not list(tmp_path.iterdir())
