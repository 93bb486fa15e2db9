"""Ctrl-C and SIGTERM: noted, so that a step can be finished; a second Ctrl-C stops at once."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import pytest

from jfusion.train.signals import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with interruptible() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_first_ctrl_c_is_answered_at_once(capfd):
    with interruptible(lambda: "finishing step 3, then saving") as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        assert capfd.readouterr().err == "\nfinishing step 3, then saving\n"
        os.kill(os.getpid(), signal.SIGTERM)
        assert capfd.readouterr().err == ""


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
        os.kill(os.getpid(), signal.SIGINT)


def test_a_wait_of_the_system_is_resumed_after_a_signal():
    reading, writing = os.pipe()
    libc, main = ctypes.CDLL(None, use_errno=True), threading.main_thread().ident

    def disturb():
        time.sleep(0.2)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        os.write(writing, b"x")

    with interruptible() as received:
        thread = threading.Thread(target=disturb)
        thread.start()
        count = libc.read(reading, ctypes.create_string_buffer(1), 1)
        thread.join()
        assert (count, received) == (1, [signal.SIGINT])
    os.close(reading)
    os.close(writing)


def test_a_thread_trains_without_handlers():
    seen = []

    def work():
        with interruptible() as received:
            seen.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]
