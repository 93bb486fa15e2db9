"""The client of the API against a server that misbehaves in every way."""

from __future__ import annotations

import email.utils
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jfusion.errors import UserError
from jfusion.text import chat as chat_module
from jfusion.text.chat import Chat, OneImage, Stopped, Unanswered, Usage
from tests.text.chat_server import PARAGRAPH, Handler, chat_server, dribbling, hang_up, slow

TEXT = [{"type": "text", "text": "Describe."}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
KEY = "sk-very/secret+key"


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.fixture
def pauses(monkeypatch):
    """The seconds of each pause, which the tests do not wait."""
    waited = []
    monkeypatch.setattr(Chat, "_pause", lambda self, seconds: waited.append(seconds))
    return waited


def client(server, retries=2, timeout=5.0, key=None, model="tiny-vision"):
    return Chat(server.url, model, key, timeout, retries, 100, threading.Event())


def test_an_answer_has_its_text_and_its_tokens(server):
    answer = client(server).ask(TEXT)
    assert (answer.text, answer.finish, answer.usage) == (PARAGRAPH, "stop", Usage(1000, 100))
    assert server.requests[0]["model"] == "tiny-vision"
    assert server.requests[0]["messages"] == [{"role": "user", "content": TEXT}]
    assert "Authorization" not in server.headers[0]


def test_the_models_of_a_server_are_listed(server, monkeypatch):
    assert client(server).models() == ["tiny-vision"]
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send({"detail": "Not Found"}, 404))
    with pytest.raises(UserError, match=r"HTTP 404: Not Found; check --base-url .*/v1"):
        client(server).models()
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send({"models": []}))
    with pytest.raises(UserError, match="name one with --model"):
        client(server).models()


def test_a_server_of_this_machine_is_asked_without_a_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert client(server).ask(TEXT).text == PARAGRAPH


@pytest.mark.parametrize(
    "step",
    [
        *(408, 409, 425, 429, 500, 502, 503, 529),
        hang_up,
        lambda handler: handler.send(b"<html>busy</html>"),
        lambda handler: handler.send(b'{"choices": [{"mess'),
        lambda handler: handler.send({"choices": []}, cut=5),
        lambda handler: handler.send([1, 2]),
        lambda handler: handler.send({"error": {"message": "upstream is busy", "code": 502}}),
        lambda handler: handler.send(b"bad gateway", 502),
    ],
)
def test_a_passing_failure_is_tried_again(server, pauses, step):
    server.script = [step, step]
    assert client(server).ask(TEXT).text == PARAGRAPH
    assert len(server.requests) == 3


@pytest.mark.parametrize("step", [slow(1.0), dribbling(1.0)])
def test_a_slow_answer_is_given_up_and_asked_for_again(server, pauses, step):
    server.script = [step]
    assert client(server, timeout=0.15).ask(TEXT).text == PARAGRAPH


def test_pauses_double_and_a_server_may_name_its_own(server, monkeypatch):
    now, asked = time.time(), []
    monkeypatch.setattr(chat_module.random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(Chat, "_pause", lambda self, seconds: asked.append(round(seconds)))
    date = email.utils.formatdate(now + 100, usegmt=True)
    steps = [("Retry-After", "7"), ("Retry-After", date), ("Retry-After", "soon")]

    def busy(*headers):
        return lambda handler: handler.send({"error": "busy"}, 429, headers)

    server.script = [500, 500, 500]
    client(server, retries=3).ask(TEXT)
    assert asked[1:] == [1, 2, 4]
    for step, seconds in zip(steps, ((7,), (99, 100), (1,)), strict=True):
        asked.clear()
        server.script = [busy(step)]
        client(server).ask(TEXT)
        assert asked[1] in seconds


def test_a_server_that_asks_for_a_very_long_pause_ends_the_run(server):
    server.script = [lambda h: h.send({"error": "quota"}, 429, [("Retry-After", "86400")])]
    with pytest.raises(UserError, match="asks to wait 86400 s"):
        client(server).ask(TEXT)


def test_no_answer_after_all_retries_is_said_with_the_last_reason(server, pauses):
    server.default = 503
    with pytest.raises(Unanswered, match=r"HTTP 503: status 503 \(3 times\)"):
        client(server).ask(TEXT)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "message", "text"),
    [
        (401, "Incorrect API key provided", "set the environment variable"),
        (403, "no access", "may not use the model"),
        (404, "model 'x' not found", "--model"),
        (402, "pay", "no credit"),
        (413, "too large", "--max-edge"),
        (400, "unknown field", "check --model"),
        (500, "image input is not supported - hint: mmproj", "choose a vision model"),
        (307, "moved", "pass that address"),
    ],
)
def test_what_no_retry_changes_ends_the_run_at_once(server, status, message, text):
    server.default = lambda h: h.send(
        {"error": {"message": message}}, status, [("Location", "http://127.0.0.1:9/v1")]
    )
    with pytest.raises(UserError, match=text) as raised:
        client(server).ask([*TEXT, IMAGE])
    assert f"HTTP {status}: {message}" in str(raised.value) and len(server.requests) == 1


def test_an_empty_account_is_not_tried_again(server):
    error = {"message": "You exceeded your quota", "code": "insufficient_quota"}
    server.default = lambda h: h.send({"error": error}, 429)
    with pytest.raises(UserError, match="no credit left"):
        client(server).ask(TEXT)
    assert len(server.requests) == 1


def test_a_filter_refuses_one_pair_and_not_the_run(server):
    error = {"message": "triggered the content management policy", "code": "content_filter"}
    server.default = lambda h: h.send({"error": error}, 400)
    with pytest.raises(Unanswered, match="filter"):
        client(server).ask(TEXT)


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_of_one_image_is_recognized(server, pauses, status):
    server.default = lambda h: h.send(
        {"error": {"message": "multiple images not supported"}}, status
    )
    with pytest.raises(OneImage):
        client(server).ask([*TEXT, IMAGE, IMAGE])


def test_a_model_that_names_its_limit_otherwise_is_asked_so(server):
    message = "Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'"
    server.script = [lambda h: h.send({"error": {"message": message}}, 400)]
    assert client(server).ask(TEXT).text == PARAGRAPH
    assert server.requests[0]["max_tokens"] == server.requests[1]["max_completion_tokens"] == 100
    assert "max_tokens" not in server.requests[1]


def test_several_threads_find_out_how_a_limit_is_named(server):
    asked, gate = client(server), threading.Barrier(3, timeout=5)

    def refuse(handler):
        gate.wait()  # all three have sent the first name before one of them is answered
        handler.send({"error": {"message": "use max_completion_tokens"}}, 400)

    server.script = [refuse] * 3
    with ThreadPoolExecutor(3) as pool:
        assert [answer.text for answer in pool.map(asked.ask, [TEXT] * 3)] == [PARAGRAPH] * 3


def test_parts_refusals_and_missing_tokens_are_read(server):
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "street."}]
    server.script = [
        lambda h: h.answer(parts),
        lambda h: h.answer(None, refusal="No."),
        lambda h: h.send({"choices": [{"message": {"content": "x"}}]}),
        lambda h: h.send({"choices": [{}]}),
    ]
    asked = client(server)
    assert asked.ask(TEXT).text == "A street."
    assert (asked.ask(TEXT).finish, server.script[:0]) == ("refusal", [])
    assert asked.ask(TEXT).usage is None
    with pytest.raises(Unanswered, match="holds no message"):
        asked.ask(TEXT)


def test_an_endless_answer_is_given_up(server, pauses, monkeypatch):
    monkeypatch.setattr(chat_module, "MOST_BYTES", 100_000)
    server.default = lambda h: h.send(b" " * 300_000)
    with pytest.raises(Unanswered, match="longer than"):
        client(server).ask(TEXT)


def test_a_server_that_is_not_there_is_one_line_at_once():
    asked = Chat("http://127.0.0.1:9/v1", "m", None, 1, 5, 10, threading.Event())
    with pytest.raises(UserError, match=r"cannot be reached .*start the server"):
        asked.ask(TEXT)


def test_a_pause_ends_when_the_run_does(server):
    asked = client(server)
    server.script = [lambda h: h.send({"error": "busy"}, 429, [("Retry-After", "500")])]
    threading.Timer(0.1, asked._stop.set).start()
    with pytest.raises(Stopped):
        asked.ask(TEXT)


# ---- the key -------------------------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    client(server, key="MY_KEY").ask(TEXT)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.default = lambda h: h.send({"error": {"message": f"wrong key {KEY} of you"}}, 401)
    with pytest.raises(UserError) as raised:
        client(server, key="MY_KEY").ask(TEXT)
    assert "secret" not in str(raised.value) and "wrong key [key] of you" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "variable", "key"),
    [
        ("http://127.0.0.1:9/v1", KEY, ""),
        ("http://127.0.0.1:9/v1", "MY_KEY", "sk very secret"),
        ("http://127.0.0.1:9/v1", "MY_KEY", "sk-secret\nX-Header: 1"),
        ("http://me:very-secret@127.0.0.1:9/v1", None, ""),
        ("http://127.0.0.1:9/v1?key=very-secret", None, ""),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_without_being_shown(monkeypatch, url, variable, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(UserError) as raised:
        Chat(url, "m", variable, 1, 0, 10, threading.Event())
    assert "secret" not in str(raised.value) and len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://a b/v1", "http://x:99999"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(UserError, match=r"is no address|cannot be reached"):
        Chat(url, "m", None, 1, 0, 10, threading.Event())


def test_an_address_may_end_in_a_slash_or_in_the_call_itself():
    for end in ("", "/", "/chat/completions"):
        asked = Chat(f"http://x/v1{end}", "m", None, 1, 0, 10, threading.Event())
        assert asked.base_url == "http://x/v1"
