"""A client of the API `POST {base}/chat/completions`, which OpenAI and most local servers speak.

Only what all of them understand is sent: one user message of text and images, images as base64 data URLs.
Passing failures (HTTP 408, 409, 425, 429 and 5xx, a cut connection, an answer that is no JSON) are tried
again after a pause that doubles, or that the server names in Retry-After.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from jfusion.errors import UserError, counted, printable
from jfusion.version import __version__

SERVERS = (
    "https://api.openai.com/v1, http://localhost:11434/v1 (ollama), http://localhost:8080/v1 (llama.cpp), "
    "http://localhost:8000/v1 (vLLM), http://localhost:1234/v1 (LM Studio)"
)
LOCAL = ("localhost", "127.0.0.1", "::1")  # asked directly, whatever $http_proxy says
PASSING = {408, 409, 425, 429, *range(500, 600)}
LONGEST_PAUSE = 600  # seconds; a server that asks for more ends the run
MOST_BYTES = 8 << 20  # of an answer
_NO_IMAGES = re.compile(
    r"(image|vision|multimodal|mmproj)[^.]{0,60}not (be )?support|no image", re.I
)
_FILTERED = re.compile(r"content[_ ](filter|policy|management)|safety system|moderation", re.I)


class Usage(NamedTuple):
    """Tokens of requests and of answers, as the server counts them."""

    input: int = 0
    output: int = 0

    def plus(self, other: Usage) -> Usage:
        """The sum of both."""
        return Usage(self.input + other.input, self.output + other.output)

    def most(self, other: Usage) -> Usage:
        """The larger number of each."""
        return Usage(max(self.input, other.input), max(self.output, other.output))


NOTHING = Usage()


@dataclass(frozen=True)
class Answer:
    """The text of an answer, why it ended ("stop", "length", ...), and its tokens where they were sent."""

    text: str
    finish: str = "stop"
    usage: Usage | None = None


class Unanswered(Exception):
    """A request got no answer that can be used, for the reason that the text gives; others may get one."""


class OneImage(Exception):
    """The server does not take two images in one request."""


class Stopped(Exception):
    """The run ends, so the request was not sent again."""


class Chat:
    """One model of one server. Several threads may ask at once.

    base_url: such as http://localhost:11434/v1; key_variable: the environment variable that holds the
    API key; timeout: seconds for an answer; retries: how often a passing failure is tried again; stop: an
    event that ends all pauses. Raises UserError for an address or a key that cannot be used; no message
    shows the key.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_variable: str | None,
        timeout: float,
        retries: int,
        max_tokens: int,
        stop: threading.Event,
    ):
        self.base_url = _checked(base_url)
        self.model = model
        self._key = _key(key_variable)
        self._timeout, self._retries, self._stop = timeout, retries, stop
        self._limit = {"max_tokens": max_tokens}
        self._reached = False
        self._not_before = 0.0  # when the server takes requests again
        local = urllib.parse.urlsplit(self.base_url).hostname in LOCAL
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def models(self) -> list[str]:
        """The names of the models that the server offers; raises UserError when it does not answer."""
        try:
            status, content = self._try("models", None)
            if status != 200:
                self._refused(status, self._safe(_message(content)))
            return [str(model["id"]) for model in content["data"]]
        except Unanswered as error:
            raise UserError(f"{self.base_url} does not answer: {error}") from error
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.base_url} does not list its models; name one with --model"
            ) from error

    def ask(self, parts: list[dict[str, Any]]) -> Answer:
        """The answer to one user message of text and image parts.

        Raises Unanswered, OneImage, Stopped, and UserError for what no further request can get around:
        a wrong key or address, a model that is not there or takes no images.
        """
        images = sum(part["type"] == "image_url" for part in parts)
        while True:
            message, limit = {"role": "user", "content": parts}, self._limit
            body = {"model": self.model, "messages": [message], **limit}
            status, content = self._try("chat/completions", body)
            if status == 200:
                return self._answer(content)
            text = self._safe(_message(content))
            if "max_completion_tokens" in text and "max_tokens" in limit:
                self._limit = {"max_completion_tokens": limit["max_tokens"]}
                continue
            if status in (400, 413, 422, 500, 501) and images > 1 and "image" in text.lower():
                raise OneImage(text)
            self._refused(status, text)

    # ---- one request

    def _try(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """The status and the content of an answer that is final; passing failures are tried again."""
        for attempt in range(self._retries + 1):
            self._pause(max(0.0, self._not_before - time.monotonic()))
            try:
                status, headers, data = self._send(path, body)
                content = json.loads(data)
                text = _message(content)
            except (OSError, http.client.HTTPException) as error:
                self._check_reached(error)
                reason, wait = self._safe(getattr(error, "reason", error) or error), None
            except ValueError:
                if status not in PASSING and status != 200:
                    return status, {"error": data[:500].decode("utf-8", "replace")}
                reason, wait = (
                    f"HTTP {status}, and the answer is cut off or no JSON",
                    _after(headers),
                )
            else:
                final = "insufficient_quota" in text or _NO_IMAGES.search(text)
                whole = body is None or (isinstance(content, dict) and "choices" in content)
                if final or (whole if status == 200 else status not in PASSING):
                    return status, content
                reason, wait = f"HTTP {status}: {self._safe(text or content)}", _after(headers)
            if wait is not None and wait > LONGEST_PAUSE:
                raise UserError(
                    f"{self.base_url} asks to wait {wait:.0f} s ({reason}); run the command again then"
                )
            wait = wait if wait is not None else min(60, 2**attempt) * random.uniform(0.5, 1)
            self._not_before = max(self._not_before, time.monotonic() + wait)
        raise Unanswered(f"{reason} ({counted(self._retries + 1, 'time')})")

    def _check_reached(self, error: Exception) -> None:
        """Raises UserError for a server that was never reached, which no pause will change."""
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise UserError(f"{self.base_url}: {self._safe(cause)}; check --base-url") from error
        if not self._reached and isinstance(cause, ConnectionRefusedError | socket.gaierror):
            raise UserError(
                f"{self.base_url} cannot be reached ({self._safe(cause)}); start the server, or check "
                "--base-url"
            ) from error

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _send(self, path: str, body: dict[str, Any] | None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one HTTP request; raises OSError when there is no answer in time."""
        headers = {"User-Agent": f"jfusion/{__version__}", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base_url}/{path}", data, headers)
        deadline = time.monotonic() + self._timeout
        try:
            response = self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            response = error
        self._reached = True
        with response:
            return response.status, response.headers, _read(response, deadline)

    def _answer(self, content: Any) -> Answer:
        """The answer in the server's JSON; raises Unanswered when there is none in it."""
        try:
            choice = content["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason") or "stop")
            text = message.get("content") or ""
            if isinstance(text, list):  # parts, as some servers send them
                text = "".join(part.get("text", "") for part in text)
            if message.get("refusal"):
                text, finish = str(message["refusal"]), "refusal"
            return Answer(str(text), finish, _usage(content.get("usage")))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            text = self._safe(_message(content) or content)
            raise Unanswered(f"the answer holds no message: {text}") from error

    def _refused(self, status: int, text: str) -> NoReturn:
        """Raises the error for an HTTP status that is final."""
        if _FILTERED.search(text):
            raise Unanswered(f"refused by the server's filter: {text}")
        said = f"{self.base_url} answers HTTP {status}: {text}"
        if 300 <= status < 400:
            raise UserError(f"{said}; it leads elsewhere: pass that address with --base-url")
        if _NO_IMAGES.search(text):
            raise UserError(f"{said}; {self.model} takes no images: choose a vision model")
        remedies = {
            401: "set the environment variable that --api-key-env names to a valid key",
            403: "this key may not use the model; choose another --model, or another key",
            402: "there is no credit left; what is written is kept, so run the command again later",
            429: "there is no credit left; what is written is kept, so run the command again later",
            404: "check --base-url (it usually ends in /v1) and --model",
            413: "the images are too large for it; lower --max-edge",
        }
        raise UserError(f"{said}; {remedies.get(status, 'check --model and --base-url')}")

    def _safe(self, text: object) -> str:
        """What a server said, fit for one line of a message, without the key."""
        text = " ".join(str(text).split())
        for secret in filter(None, (self._key, urllib.parse.quote(self._key))):
            text = text.replace(secret, "[key]")
        return printable(text, 300)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would carry the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        """Returns None: the redirection is the answer."""


def _read(response: Any, deadline: float) -> bytes:
    """The body of an answer, at most `MOST_BYTES`, before the deadline; raises OSError."""
    blocks, size = [], 0
    while block := response.read1(1 << 16):
        blocks.append(block)
        size += len(block)
        if size > MOST_BYTES:
            raise OSError(f"the answer is longer than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out in the middle of the answer")
    return b"".join(blocks)


def _message(content: Any) -> str:
    """The words of an error in a server's JSON, with its code; "" where there is no error."""
    error = content.get("error", "") if isinstance(content, dict) else ""
    if isinstance(content, dict) and not error:
        error = content.get("message") or content.get("detail") or ""
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or ""
        return f"{error.get('message', error)}" + (f" ({code})" if code else "")
    return str(error)


def _after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks to wait: a number, or a date; None without one."""
    value = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _usage(value: Any) -> Usage | None:
    try:
        return Usage(int(value["prompt_tokens"]), int(value["completion_tokens"]))
    except (KeyError, TypeError, ValueError):
        return None


def _checked(base_url: str) -> str:
    """The address without a slash at its end. Raises UserError, which shows no password in it."""
    try:
        parts = urllib.parse.urlsplit(base_url.strip())
        plain = parts.username is None and not parts.query and not parts.fragment
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1)
    except ValueError:
        plain, valid = True, False
    if not plain:
        raise UserError(
            "--base-url must hold no user, password or query, which would be recorded; put a key into an "
            "environment variable (--api-key-env)"
        )
    if not valid or not re.fullmatch(r"[!-~]+", base_url.strip()):
        raise UserError(
            f"--base-url {printable(base_url)!r} is no address of a server such as {SERVERS}"
        )
    return base_url.strip().rstrip("/").removesuffix("/chat/completions")


def _key(variable: str | None) -> str:
    """The key in an environment variable, "" without one. Raises UserError that does not show it."""
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UserError(
            "--api-key-env takes the NAME of an environment variable, such as OPENAI_API_KEY, not a key"
        )
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(
            "the API key in the variable that --api-key-env names holds a space, a line break or a "
            "character that is not ASCII; set it again"
        )
    return key
