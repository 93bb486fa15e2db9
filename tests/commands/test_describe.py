"""`jfusion describe` from pairs to paragraphs, against a server that misbehaves."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.commands import describe as command
from jfusion.data.layout import TASKS
from jfusion.text import prompts
from jfusion.text.chat import Chat
from jfusion.text.describe import existing, read_records, summary
from tests.text.chat_server import PARAGRAPH, chat_server, hang_up

REFUSAL = "I'm sorry, but I can't help with that."
KEY = "sk-very-secret-key"
NAMES = ("one", "three", "two")


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the paragraphs of a download of three pairs, `campus`, next to the working folder's."""
    rng = np.random.default_rng(0)
    for side, shape in (("ir", (30, 40)), ("vi", (30, 40, 3))):
        (tmp_path / "campus" / side).mkdir(parents=True)
        for name in NAMES:
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            image.save(tmp_path / f"campus/{side}/{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(
        command, "token_counter", lambda name: (lambda text: len(text.split()), 120)
    )
    monkeypatch.setattr(Chat, "_pause", lambda self, seconds: None)
    return tmp_path / "VLFDataset/Text/IVF/campus"


def describe(server, *more, workers=1):
    words = ["describe", "--from", "campus", "--base-url", server.url, "--model", "tiny-vision"]
    return main([*words, "--workers", str(workers), *more])


def records(folder):
    return [r for r in read_records(folder) if r["name"]]


def test_each_pair_gets_a_paragraph_and_a_record(server, folder, capsys):
    assert describe(server, workers=3) == 0
    assert existing(folder) == set(NAMES)
    assert (folder / "two.txt").read_text() == PARAGRAPH + "\n"
    (record,) = [r for r in records(folder) if r["name"] == "two"]
    assert record["model"] == "tiny-vision" and record["usage"] == {"input": 1000, "output": 100}
    assert record["prompt"] == prompts.prompt_hash(prompts.default_prompt("IVF"))
    assert {len(record[k]) for k in ("sha256_a", "sha256_b", "paragraph")} == {64}
    assert record["date"].endswith("+00:00") and record["requests"] == 1
    out = capsys.readouterr().out
    assert "3 new paragraphs, 0 kept" in out and "3000 tokens in, 300 out" in out


def test_both_images_and_their_names_are_in_one_request(server, folder):
    describe(server, "--limit", "1", "--max-edge", "20", "--image-format", "png")
    urls = server.images(0)
    shown = [Image.open(io.BytesIO(base64.b64decode(u.partition("base64,")[2]))) for u in urls]
    assert [(i.size, i.mode, i.format) for i in shown] == [((20, 15), "RGB", "PNG")] * 2
    assert all(u.startswith("data:image/png;base64,") for u in urls)
    text = server.texts(0)
    assert prompts.default_prompt("IVF") in text and "Second image, the visible image:" in text


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_prompt_of_its_own(task, capsys):
    assert main(["describe", "--show-prompt", "--task", task]) == 0
    shown = capsys.readouterr().out.strip()
    assert shown == prompts.default_prompt(task) and "50 to 76 words" in shown
    assert prompts.IMAGES[task].a in shown and "Answer with the paragraph alone" in shown


def test_a_prompt_of_ones_own_is_asked_and_recorded(server, folder):
    Path("p.txt").write_text("Name the weather.\n")
    server.default = "It rains."  # too short for our prompt, not for this one
    assert describe(server, "--prompt", "p.txt") == 0
    assert "Name the weather." in server.texts(0)
    assert prompts.default_prompt("IVF") not in server.texts(0)
    assert {r["prompt"] for r in records(folder)} == {prompts.prompt_hash("Name the weather.")}


def test_what_exists_is_kept_and_the_next_call_continues(server, folder, capsys):
    folder.mkdir(parents=True)
    (folder / "one.TXT").write_text("By hand.")
    assert describe(server, "--limit", "1") == 0
    assert "not described yet: 1 pair;" in capsys.readouterr().out
    assert describe(server) == 0 and describe(server) == 0
    assert len(server.requests) == 2 and (folder / "one.TXT").read_text() == "By hand."
    (folder / "one.TXT").rename(folder / "one.txt")
    found = summary(folder, NAMES)
    assert (found["described"], found["by_hand"]) == (2, 1)
    assert found["models"] == {"tiny-vision": 2}
    (folder / "two.txt").write_text("Edited.")
    assert summary(folder, NAMES)["by_hand"] == 2


def test_a_faulty_answer_is_repaired_by_one_more_request(server, folder):
    server.script = [f"**{PARAGRAPH}**"]
    assert describe(server, "--limit", "1") == 0
    assert len(server.requests) == 2 and len(server.images(1)) == 2
    assert "it was written with Markdown" in server.texts(1)
    draft, record = records(folder)
    assert draft["draft"].startswith("**") and draft["about"] == "ab"
    assert record["requests"] == 2 and record["usage"]["input"] == 2000


@pytest.mark.parametrize("images", ["two", "one"])
def test_a_faulty_answer_outlives_an_interruption(server, folder, images):
    words = ("--images", images, "--limit", "1")
    server.script = [REFUSAL, 401]
    assert describe(server, *words) == 2
    server.requests.clear()
    assert describe(server, *words) == 0
    assert "it was a refusal" in server.texts(0)
    assert len(server.requests) == (1 if images == "two" else 3)


def test_a_prompt_may_come_from_a_pipe(server, folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("Say what you see.",))
    writer.start()
    assert describe(server, "--limit", "1", "--prompt", "pipe") == 0
    writer.join()
    assert "Say what you see." in server.texts(0)


def test_what_stays_faulty_is_listed_and_left_out_and_tried_again(server, folder, capsys):
    server.script = [REFUSAL, REFUSAL]
    assert describe(server) == 2
    printed = capsys.readouterr()
    assert "left out one: the answer was a refusal, twice" in printed.out + printed.err
    assert "1 pair got no paragraph: one" in printed.err
    assert existing(folder) == {"two", "three"}
    assert [r["name"] for r in records(folder) if "left_out" in r] == ["one"]
    assert describe(server) == 0 and existing(folder) == set(NAMES)


def test_a_pair_that_was_left_out_does_not_hold_up_the_others(server, folder):
    server.script = [REFUSAL, REFUSAL]
    assert describe(server, "--limit", "1") == 2 and existing(folder) == set()
    assert describe(server, "--limit", "2") == 0 and existing(folder) == {"two", "three"}


def test_a_server_of_one_image_gets_three_requests(server, folder):
    server.two_images = False
    server.script = ["unused", "It is warm at the left.", "A red sign.", PARAGRAPH]
    assert describe(server, "--limit", "1") == 0
    assert [len(server.images(i)) for i in range(4)] == [2, 1, 1, 0]
    assert "It is warm at the left." in server.texts(3) and "A red sign." in server.texts(3)
    server.requests.clear()
    assert describe(server, "--images", "one", "--limit", "1") == 0
    assert [len(server.images(i)) for i in range(3)] == [1, 1, 0]


def test_notes_on_single_images_outlive_an_interruption(server, folder, monkeypatch):
    server.script = ["A warm person.", "A red sign.", 401]
    assert describe(server, "--images", "one", "--limit", "1") == 2
    server.requests.clear()
    assert describe(server, "--images", "one", "--limit", "1") == 0
    assert [len(server.images(i)) for i in range(len(server.requests))] == [0]
    assert "A warm person." in server.texts(0)


def test_a_server_that_is_told_to_take_two_images_must_take_them(server, folder, capsys):
    server.two_images = False
    assert describe(server, "--images", "two") == 2
    assert "use --images one" in capsys.readouterr().err


def test_a_server_without_answers_ends_the_run_after_three_pairs(server, folder, capsys):
    server.default = hang_up
    assert describe(server, "--retries", "1") == 2
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("jfusion:")]
    assert "no answer for 3 pairs in a row" in line and len(server.requests) == 6


def test_an_answer_under_way_is_kept_when_another_ends_the_run(server, folder, capsys):
    both_there, refused = threading.Barrier(2, timeout=20), threading.Event()

    def no_credit(handler):
        both_there.wait()
        handler.send({"error": {"message": "no credit"}}, 402)
        refused.set()

    def late(handler):
        both_there.wait()
        refused.wait(20)
        time.sleep(0.2)  # by now the error is known
        handler.answer(PARAGRAPH)

    server.script = [no_credit, late]
    assert describe(server, workers=2) == 2
    assert len(server.requests) == 2
    assert "no credit" in capsys.readouterr().err
    (done,) = existing(folder)
    assert describe(server) == 0
    assert len(server.requests) == 2 + 2
    assert sum(r["name"] == done for r in records(folder)) == 1


def test_a_broken_image_is_left_out(server, folder, capsys):
    Path("campus/vi/two.png").write_bytes(b"no image")
    assert describe(server) == 2
    assert "cannot be read" in capsys.readouterr().out and existing(folder) == {"one", "three"}


def test_a_dry_run_says_what_it_would_cost_and_sends_nothing(server, folder, capsys):
    assert describe(server, "--dry-run", "--price", "1000", "2000") == 0
    out = capsys.readouterr().out
    assert not server.requests and not folder.exists()
    assert "3 of 3 pairs to describe (0 have a paragraph)" in out
    tokens = int(out.partition("about ")[2].split()[0])
    cost = float(out.rpartition("cost about ")[2])
    assert cost == pytest.approx((tokens * 1000 + 3 * 120 * 2000) / 1e6, abs=0.006)
    describe(server, "--limit", "2")
    capsys.readouterr()
    describe(server, "--dry-run")
    out = capsys.readouterr().out
    assert "1 of 3 pairs" in out and "about 1000 tokens in, 100 out (the mean of the 2" in out


def test_the_highest_cost_is_not_passed(server, folder, capsys):
    price = ["--price", "1000", "1000"]  # 1.1 for a pair, as the server counts
    assert describe(server, *price, "--max-cost", "2.9") == 0
    out = capsys.readouterr().out
    assert "cost 2.2000" in out and "stopped before --max-cost 2.9" in out
    assert len(existing(folder)) == 2 and "not described yet: 1 pair;" in out
    assert describe(server, "--max-cost", "3") == 2
    assert "--max-cost needs --price" in capsys.readouterr().err


def test_the_key_is_in_no_file_and_in_no_message(server, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    echo = {"error": {"message": f"no such key: {KEY}"}}
    assert describe(server, "--limit", "1") == 0
    server.script = [lambda h: h.send(echo, 401)]
    assert describe(server) == 2
    server.script = [lambda h: h.send({"choices": [{"message": KEY}], **echo})]
    assert describe(server, "--retries", "0") == 2
    monkeypatch.setattr(command, "token_counter", lambda name: 1 / 0)
    assert describe(server) == 70
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    printed = capsys.readouterr()
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in printed.out + printed.err and KEY.encode() not in files


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "name the server with --base-url or $OPENAI_BASE_URL"),
        (["--base-url", "localhost:1"], "is no address of a server"),
        (["--base-url", "URL", "--api-key-env", "NOT_SET_ANYWHERE"], "names is not set"),
        (["--base-url", "URL", "--prompt", "empty.txt"], "the prompt empty.txt is empty"),
        (["--base-url", "URL", "--workers", "0"], "--workers must be 1 or more"),
        (["--base-url", "URL", "--split", "tset"], "campus has no split 'tset'"),
    ],
)
def test_a_mistake_is_one_line(server, folder, monkeypatch, capsys, words, text):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    Path("empty.txt").write_text(" \n")
    words = [server.url if word == "URL" else word for word in words]
    assert main(["describe", "--from", "campus", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line and not server.requests


def test_the_only_model_of_a_server_is_taken(server, folder, capsys):
    words = ["describe", "--from", "campus", "--base-url", server.url]
    server.models = ["a", "b"]
    assert main(words) == 2
    assert (
        "offers 2 models; choose one that takes images with --model: a, b"
        in capsys.readouterr().err
    )
    server.models = ["only"]
    assert main(words) == 0 and server.requests[0]["model"] == "only"


def test_pairs_of_our_own_layout_are_described_too(server, folder, tmp_path):
    base = tmp_path / "VLFDataset/Image/MFF/Mine"
    for side, ours in (("ir", "NEAR"), ("vi", "FAR")):
        base.mkdir(parents=True, exist_ok=True)
        (tmp_path / "campus" / side).rename(base / ours)
    (base / "test.txt").write_text("two.png\n")
    words = ["describe", "--task", "MFF", "--dataset", "Mine", "--base-url", server.url]
    assert main([*words, "--split", "test"]) == 0
    assert existing(tmp_path / "VLFDataset/Text/MFF/Mine") == {"two"}
    assert main(words) == 0
    assert existing(tmp_path / "VLFDataset/Text/MFF/Mine") == set(NAMES)
    assert "focused on what is near" in server.texts(0)


def test_a_record_that_was_cut_off_does_no_harm(server, folder):
    assert describe(server, "--limit", "1") == 0
    with (folder / "describe.jsonl").open("a") as file:
        file.write('{"name": "two", "parag')
    assert describe(server) == 0
    assert {r["name"] for r in records(folder)} == set(NAMES)
    assert summary(folder, NAMES)["described"] == 3


def test_two_processes_do_not_describe_the_same_pairs(server, folder, capsys):
    from jfusion.text.describe import RecordFile

    file = RecordFile(folder / "describe.jsonl")
    assert describe(server) == 2
    assert "another process describes" in capsys.readouterr().err
    file.close()
    assert describe(server) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_is_written_before_a_kill_is_there_after_it(server, folder, how):
    """The server holds back the third answer; the process is ended while it waits."""
    server.script = [PARAGRAPH, PARAGRAPH, lambda handler: time.sleep(20)]
    words = ["describe", "--from", "campus", "--base-url", server.url, "--workers", "1"]
    code = (
        "from jfusion.commands import describe\n"
        "from jfusion.cli import main\n"
        "describe.token_counter = lambda name: (len, 10000)\n"
        f"raise SystemExit(main({words!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while len(server.requests) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=10)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), err
    if how == signal.SIGINT:
        assert "the same command continues" in out and "Traceback" not in err
    assert existing(folder) == {"one", "three"}
    assert [
        json.loads(s)["name"] for s in (folder / "describe.jsonl").read_text().splitlines()
    ] == [
        "",
        "one",
        "three",
    ]
    assert describe(server) == 0 and existing(folder) == set(NAMES)
    assert len(server.requests) == 4
