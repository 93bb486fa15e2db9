"""Ctrl-C while a library holds Python's lock."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

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


def test_a_program_that_imports_us_is_not_watched(tmp_path):
    watch.start(tmp_path)
    assert interrupt.answers_to is None and not list(tmp_path.iterdir())
