"""Paragraphs about pairs of images, written by a vision-language model and checked.

Text/<TASK>/<DATASET>/<name>.txt        the paragraph of a pair
Text/<TASK>/<DATASET>/describe.jsonl    one line for each: from what, by what and when it was made

What a line holds is in docs/own-data.md. A paragraph's line is written before its text, and a text
without a line is somebody's own.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import fcntl
import hashlib
import io
import json
import os
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jfusion.data.image import Reader, size_of
from jfusion.data.layout import Sample
from jfusion.data.names import sample_name
from jfusion.data.splits import file_hash
from jfusion.errors import UserError, counted, printable, writing
from jfusion.files import write_text
from jfusion.text import prompts
from jfusion.text.answers import Expected, broken, cleaned, faults
from jfusion.text.chat import NOTHING, Chat, OneImage, Stopped, Unanswered, Usage

RECORDS = "describe.jsonl"
ANSWER_TOKENS = 120  # of a paragraph, about
PATCH = 28  # pixels: an image has about one token for each square of this side
IN_A_ROW = 3  # pairs without an answer, after which the server is taken to be gone


# ---- the records -------------------------------------------------------------------------------


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's describe.jsonl; a line that was cut off by a power failure is ignored."""
    records = []
    try:
        text = (folder / RECORDS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder / RECORDS} cannot be read: {error.strerror}") from error
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("name"), str):
                records.append(record)
    return records


def existing(folder: Path) -> set[str]:
    """The names of the pairs that have a paragraph, which is more than white space."""
    if not folder.is_dir():
        return set()
    return {
        sample_name(path)
        for path in folder.iterdir()
        if path.suffix.lower() == ".txt" and path.is_file() and _holds_text(path)
    }


def _holds_text(path: Path) -> bool:
    try:
        return bool(path.read_bytes().removeprefix(codecs.BOM_UTF8).strip())
    except OSError as error:
        raise UserError(f"the paragraph {path} cannot be read: {error.strerror}") from error


def summary(folder: Path, names: Iterable[str]) -> dict[str, Any] | None:
    """What the records say of the paragraphs of these pairs, for an H5 file; None without records.

    A paragraph whose text differs from its record's hash, or has none, was written or edited by hand.
    """
    records = {r["name"]: r for r in read_records(folder) if "paragraph" in r}
    if not records:
        return None
    models, hashes, dates, by_hand = Counter(), Counter(), [], 0
    for name in names:
        record = records.get(name)
        with contextlib.suppress(OSError):
            text = (folder / f"{name}.txt").read_text(encoding="utf-8", errors="replace")
            if record is None or text_hash(text) != record["paragraph"]:
                by_hand += 1
                continue
            models[str(record.get("model"))] += 1
            hashes[str(record.get("prompt"))[:12]] += 1
            dates.append(str(record.get("date")))
    return {
        "described": len(dates),
        "by_hand": by_hand,
        "models": dict(models),
        "prompts": dict(hashes),
        "dates": [min(dates), max(dates)] if dates else [],
    }


def text_hash(text: str) -> str:
    """The SHA-256 of a paragraph without white space around it."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


class RecordFile:
    """describe.jsonl, open for more lines; each is on the disk when `add` returns."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            self._own()
            if self._file.tell():  # a line that was cut off must not take the next one with it
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
        except OSError as error:
            raise writing("the record of the paragraphs", path, error) from error

    def _own(self) -> None:
        """Keeps other processes from describing the same pairs; UserError when one does."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process describes the pairs of {self._path.parent}; run this again when it "
                "has ended"
            ) from error
        except OSError as error:  # some network file systems know no locks
            print(f"note: {self._path} cannot be locked ({error}); describe in one process only")

    def add(self, record: dict[str, Any]) -> None:
        """Appends one line; several threads may call it."""
        line = json.dumps(record).encode() + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            raise writing("the record of the paragraphs", self._path, error) from error

    def close(self) -> None:
        """Closes the file, which lets another process describe."""
        with contextlib.suppress(OSError):
            self._file.close()


# ---- costs -------------------------------------------------------------------------------------


class TooExpensive(Exception):
    """The next request could cost more than `--max-cost` leaves."""


@dataclass
class Budget:
    """The tokens of a run, and what they cost.

    price: of a million tokens of requests and of answers; most: the highest cost. A request that is
    under way counts with its estimate, or with the largest request so far if that is more.
    """

    price: tuple[float, float] | None = None
    most: float | None = None
    used: Usage = NOTHING
    _open: Usage = NOTHING
    _largest: Usage = NOTHING
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def cost(self, usage: Usage) -> float:
        """The cost of so many tokens, 0 without a price."""
        prices = self.price or (0, 0)
        return sum(p * n for p, n in zip(prices, usage, strict=True)) / 1e6

    def reserve(self, estimate: Usage) -> Usage:
        """Before a request: what it may take. Raises TooExpensive when the cost could rise above `most`."""
        with self._lock:
            expected = estimate.most(self._largest)
            after = self.used.plus(self._open).plus(expected)
            if self.most is not None and self.cost(after) > self.most:
                raise TooExpensive
            self._open = self._open.plus(expected)
            return expected

    def settle(self, reserved: Usage, used: Usage) -> None:
        """After a request, with its tokens as the server counts them."""
        with self._lock:
            self._open = Usage(*(o - r for o, r in zip(self._open, reserved, strict=True)))
            self._largest = self._largest.most(used)
            self.used = self.used.plus(used)


# ---- one pair ----------------------------------------------------------------------------------


class LeftOut(Exception):
    """A pair gets no paragraph, for the reason that the text gives."""

    def __init__(self, reason: str, unanswered: bool = False):
        super().__init__(reason)
        self.unanswered = unanswered  # whether the server, rather than the pair, may be the reason


@dataclass
class Job:
    """A pair in work: the hashes of its files, and the requests and tokens that it took."""

    sample: Sample
    hashes: tuple[str, str] = ("", "")
    requests: int = 0
    usage: Usage = NOTHING

    def record(self, **more: Any) -> dict[str, Any]:
        """The line of the pair in describe.jsonl."""
        return {
            "name": self.sample.name,
            "sha256_a": self.hashes[0],
            "sha256_b": self.hashes[1],
            **more,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "requests": self.requests,
            "usage": {"input": self.usage.input, "output": self.usage.output},
        }


@dataclass(frozen=True)
class ImageFormat:
    """How an image is sent: PNG or JPEG of 8 bits, its long edge at most `max_edge` pixels."""

    kind: Literal["jpeg", "png"] = "jpeg"
    max_edge: int = 768

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The size that an image is sent in; a small one is not enlarged."""
        scale = min(1.0, self.max_edge / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def url(self, rgb: np.ndarray) -> str:
        """A data URL of an image (H, W, 3) uint8."""
        from PIL import Image

        image = Image.fromarray(rgb)
        size = self.size(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, self.kind, **({"quality": 90} if self.kind == "jpeg" else {}))
        return f"data:image/{self.kind};base64,{base64.b64encode(out.getvalue()).decode()}"

    def tokens(self, path: Path) -> int:
        """About how many tokens an image has."""
        width, height = self.size(*size_of(path))
        return -(-width // PATCH) * -(-height // PATCH)


@dataclass
class Describer:
    """Asks a model for the paragraph of a pair, and checks what it answers.

    images: "two" in one request; "one", which takes a request for each image and one that joins them;
    "auto": one where the server refuses two. notes: answers about single images of earlier runs, by
    `note_key`; drafts: answers with faults that an earlier run was stopped at, by `draft_keys`; `keep` is
    called with the record of each new one of both.
    """

    chat: Chat
    task: str
    prompt: str
    expected: Expected
    reader: Reader
    format: ImageFormat
    budget: Budget
    images: Literal["auto", "two", "one"]
    keep: Callable[[dict[str, Any]], None]
    notes: dict[tuple, str] = field(default_factory=dict)
    drafts: dict[tuple, tuple[str, str]] = field(default_factory=dict)

    def describe(self, job: Job) -> str:
        """The paragraph of a pair. Raises LeftOut, TooExpensive, Stopped, or UserError to end the run."""
        sample = job.sample
        try:
            job.hashes = file_hash(sample.a), file_hash(sample.b)
            urls = [
                self.format.url(self.reader.rgb(path, side))
                for path, side in ((sample.a, "a"), (sample.b, "b"))
            ]
            tokens = [self.format.tokens(path) for path in (sample.a, sample.b)]
        except UserError as error:
            raise LeftOut(str(error)) from error
        except OSError as error:
            raise LeftOut(f"{sample.a} and {sample.b} cannot be read: {error}") from error
        try:
            if self.images != "one":
                with contextlib.suppress(OneImage):
                    return self._together(job, urls, tokens)
            notes = tuple(self._note(job, side, urls[side], tokens[side]) for side in (0, 1))
            text = prompts.join_prompt(self.task, notes, self.prompt)
            return self._checked(job, [_text(text)], 0, "joined")
        except Unanswered as error:
            raise LeftOut(str(error), unanswered=True) from error

    def _together(self, job: Job, urls: list[str], tokens: list[int]) -> str:
        parts = [_text(self.prompt)]
        for label, url in zip(prompts.labels(self.task), urls, strict=True):
            parts += [_text(label), _image(url)]
        try:
            return self._checked(job, parts, sum(tokens), "ab")
        except OneImage as error:
            if self.images == "two":
                raise UserError(
                    f"the server does not take two images in a request ({error}); use --images one"
                ) from error
            self.images = "one"
            raise

    def _note(self, job: Job, side: int, url: str, tokens: int) -> str:
        """What the model says of one image; it is kept, so that an interruption loses one request."""
        key = (job.sample.name, side, job.hashes[side], self.prompt_hash, self.chat.model)
        if key not in self.notes:
            text = prompts.single_prompt(self.task, side, self.prompt)
            self.notes[key] = self._checked(job, [_text(text), _image(url)], tokens, "ab"[side])
            note = {"image": "ab"[side], "note": self.notes[key]}
            self.keep(job.record(**note, prompt=self.prompt_hash, model=self.chat.model))
        return self.notes[key]

    @property
    def prompt_hash(self) -> str:
        """The hash of the prompt."""
        return prompts.prompt_hash(self.prompt)

    def _checked(self, job: Job, parts: list[dict], image_tokens: int, about: str) -> str:
        """An answer without faults, after one more request at most.

        about: what the request shows, "a", "b", "ab", or "joined" for notes; the last two ask for the
        paragraph itself. A first answer with faults is kept, so that an interruption loses one request.
        """
        answer, found = "", []
        key = (about, job.sample.name, *job.hashes, self.prompt_hash, self.chat.model)
        for attempt in range(2):
            draft = self.drafts.pop(key, None)
            again = [_text(prompts.repair_prompt(answer, found))] if found else []
            answer, finish = draft or self._ask(job, [*parts, *again], image_tokens)
            said, whole = answer, about in ("ab", "joined")
            answer = cleaned(answer)
            found = faults(answer, finish, self.expected) if whole else broken(answer, finish)
            if not found:
                return answer
            if attempt == 0 and draft is None:
                more = {"about": about, "draft": said, "finish": finish}
                self.keep(job.record(**more, prompt=self.prompt_hash, model=self.chat.model))
        raise LeftOut(f"the answer {' and '.join(found)}, twice")

    def _ask(self, job: Job, parts: list[dict], image_tokens: int) -> tuple[str, str]:
        estimate = Usage(image_tokens + sum(map(_tokens, parts)), ANSWER_TOKENS)
        reserved, used = self.budget.reserve(estimate), NOTHING
        try:
            answer = self.chat.ask(parts)
            used = answer.usage or estimate._replace(output=len(answer.text) // 4)
        finally:
            self.budget.settle(reserved, used)
        job.requests += 1
        job.usage = job.usage.plus(used)
        return answer.text, answer.finish


def note_keys(records: Iterable[dict[str, Any]]) -> dict[tuple, str]:
    """The notes on single images in the records, by the key of `Describer.notes`."""
    notes = {}
    for record in records:
        if record.get("image") in ("a", "b") and isinstance(record.get("note"), str):
            side = "ab".index(record["image"])
            hashed = record.get(f"sha256_{record['image']}")
            key = (record["name"], side, hashed, record.get("prompt"), record.get("model"))
            notes[key] = record["note"]
    return notes


def draft_keys(records: Iterable[dict[str, Any]]) -> dict[tuple, tuple[str, str]]:
    """The answers with faults after which no other answer came, by the key of `Describer.drafts`."""
    drafts: dict[tuple, tuple[str, str]] = {}
    for record in records:
        name, about = record["name"], record.get("about")
        drafts = {
            key: draft
            for key, draft in drafts.items()
            if key[1] != name or ("draft" in record and key[0] != about)
        }
        if isinstance(record.get("draft"), str):
            made = (str(record.get(k)) for k in ("sha256_a", "sha256_b", "prompt", "model"))
            drafts[(str(about), name, *made)] = (record["draft"], str(record.get("finish")))
    return drafts


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _tokens(part: dict[str, Any]) -> int:
    """About the tokens of a text part: four characters are one."""
    return len(part.get("text", "")) // 4


# ---- all pairs ---------------------------------------------------------------------------------


def in_threads(
    jobs: list[Job], work: Callable[[Job], str], workers: int, stop: threading.Event
) -> Iterator[tuple[Job, str | Exception]]:
    """Each job with its result or its error, in the order in which they end.

    After an error other than LeftOut no further job begins, and those under way are finished. Ctrl-C
    raises KeyboardInterrupt after the results that are there; nobody waits for an answer under way, and
    the threads end with the process.
    """
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Job, str | Exception] | str] = queue.SimpleQueue()
    ending = threading.Event()
    for job in jobs:
        todo.put(job)

    def run() -> None:
        with contextlib.suppress(queue.Empty):
            while not (stop.is_set() or ending.is_set()):
                job = todo.get_nowait()
                try:
                    result: str | Exception = work(job)
                except Exception as error:
                    result = error
                if isinstance(result, Exception) and not isinstance(result, LeftOut):
                    ending.set()
                done.put((job, result))
        done.put("ended")

    threads = min(workers, len(jobs))
    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    try:
        with _on_interrupt(lambda: done.put("interrupted")):
            while threads:
                item = done.get()
                if item == "interrupted":
                    raise KeyboardInterrupt
                if item == "ended":
                    threads -= 1
                else:
                    yield item
    finally:
        stop.set()


@contextlib.contextmanager
def _on_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """In the main thread, the first Ctrl-C calls `call` and interrupts nothing; a second one does."""

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        call()

    before = None
    with contextlib.suppress(ValueError):  # Python lets only the main thread set handlers
        before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@dataclass
class Outcome:
    """The pairs that got a paragraph, and those that were left out, with the reason of each."""

    written: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    too_expensive: bool = False


def describe_all(
    describer: Describer,
    samples: list[Sample],
    folder: Path,
    records: RecordFile,
    workers: int,
    stop: threading.Event,
    label: str,
) -> Outcome:
    """Writes the paragraph of each sample into `folder` as soon as it is there.

    Raises UserError when the server cannot be used, or gives no answer for several pairs in a row; the
    answers under way are waited for, and what is written is kept.
    """
    from tqdm import tqdm

    outcome, silent = Outcome(), 0
    failure: Exception | None = None  # the first that ends the run
    closed = False  # whether nothing more may be written
    about = {"prompt": describer.prompt_hash, "model": describer.chat.model}
    writing_lock = threading.Lock()

    def work(job: Job) -> str:
        """Describes and writes one pair: a thread begins no request before its last answer is kept."""
        try:
            paragraph = describer.describe(job)
        except LeftOut as error:
            with writing_lock:
                records.add(job.record(**about, left_out=str(error)))
            raise
        with writing_lock:
            if closed:
                raise Stopped
            records.add(job.record(**about, paragraph=text_hash(paragraph)))
            write_text(folder / f"{job.sample.name}.txt", paragraph + "\n", "the paragraph")
        return paragraph

    with tqdm(total=len(samples), desc=f"{label} paragraphs", unit="pair") as bar:
        try:
            for job, result in in_threads([Job(s) for s in samples], work, workers, stop):
                if isinstance(result, str):
                    outcome.written.append(job.sample.name)
                    silent = 0
                elif isinstance(result, LeftOut):
                    outcome.left_out[job.sample.name] = str(result)
                    tqdm.write(f"  left out {printable(job.sample.name)}: {result}")
                    silent = silent + 1 if result.unanswered else 0
                    if silent >= max(IN_A_ROW, workers) and failure is None:
                        failure = _gone(silent, describer.chat.base_url, result)
                        stop.set()
                elif isinstance(result, TooExpensive):
                    outcome.too_expensive = True
                    continue
                else:
                    failure = failure or result
                    stop.set()  # no request is sent any more; what was paid for is kept
                    continue
                bar.set_postfix_str(_progress(describer.budget))
                bar.update()
        finally:
            stop.set()
            with writing_lock:  # what is being written is finished, and nothing more begins
                closed = True
    if failure is not None:
        raise failure
    return outcome


def _gone(silent: int, base_url: str, error: LeftOut) -> UserError:
    """The error for a server that gave no answer for the last pairs, which then is not their fault."""
    return UserError(
        f"{base_url} gave no answer for {counted(silent, 'pair')} in a row, the last time: {error}; what is written "
        "is kept, and the next call continues"
    )


def _progress(budget: Budget) -> str:
    tokens = f"{sum(budget.used) / 1000:.1f}k tokens"
    return tokens + (f", cost {budget.cost(budget.used):.4f}" if budget.price else "")


def estimate(
    records: Iterable[dict[str, Any]],
    samples: list[Sample],
    task: str,
    prompt: str,
    model: str | None,
    image_format: ImageFormat,
) -> tuple[Usage, str]:
    """About how many tokens the samples take, and what the figure comes from.

    Where answers to the same prompt were recorded, of the same model if one is named, their mean is used.
    """
    known = [
        record["usage"]
        for record in records
        if "paragraph" in record
        and model in (None, record.get("model"))
        and record.get("prompt") == prompts.prompt_hash(prompt)
        and isinstance(record.get("usage"), dict)
    ]
    if known:
        means = (sum(u.get(k, 0) for u in known) / len(known) for k in ("input", "output"))
        usage = Usage(*(round(mean * len(samples)) for mean in means))
        return usage, f"the mean of the {counted(len(known), 'paragraph')} that there are"
    images = sum(image_format.tokens(path) for s in samples for path in (s.a, s.b))
    words = [prompt, *prompts.labels(task)]
    text = sum(map(len, words)) // 4 * len(samples)
    used = Usage(images + text, ANSWER_TOKENS * len(samples))
    return used, f"a token for {PATCH}x{PATCH} pixels or 4 letters; --limit 3 first measures it"
