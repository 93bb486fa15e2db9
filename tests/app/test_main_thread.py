"""Other threads have the main thread do what only it can."""

from __future__ import annotations

import threading

import pytest

from jfusion.app import main_thread


def test_calls_run_in_the_thread_that_serves_and_errors_come_back():
    ended, seen = threading.Event(), []

    def broken():
        raise ValueError("broken")

    def other():
        main_thread._serving.wait()
        try:
            main_thread.call(lambda: seen.append(threading.current_thread()))
            with pytest.raises(ValueError, match="broken"):
                main_thread.call(broken)
            seen.append("done")
        finally:
            ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    main_thread.serve(ended)
    thread.join()
    assert seen == [threading.current_thread(), "done"]


def test_without_a_server_a_call_is_made_at_once():
    seen = []
    main_thread.call(lambda: seen.append(1))
    assert seen == [1]
