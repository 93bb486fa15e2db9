"""The server of the page: one address on this machine, one temporary folder, nothing from outside."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from jfusion.errors import UserError

PREFIX = "jfusion-app"
KEPT = 3600.0  # seconds that an uploaded file or a result stays
SWEPT = 300.0  # seconds between two looks at them
TEXT = (b"json", b"text/html", b"text/event-stream", b"javascript")
# A browser that obeys this asks no other machine for anything.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'"
)
Message = MutableMapping[str, Any]


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """The folder of uploaded files and results; it is removed with all that is in it.

    What processes that were killed left is removed as well.
    """
    _remove_left(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{os.getpid()}-")).resolve()
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    done = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(folder, done), daemon=True)
    sweeper.start()
    try:
        yield folder
    finally:
        done.set()
        os.environ.pop("GRADIO_TEMP_DIR")
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}-*-*"):
        number = folder.name.split("-")[2]
        own = re.fullmatch("[0-9]{1,9}", number) and not Path(f"/proc/{number}").exists()
        with contextlib.suppress(OSError):
            if own and Path("/proc/self").exists() and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder)


def _sweep(folder: Path, done: threading.Event) -> None:
    """Removes files that are older than `KEPT`, until `done`."""
    while not done.wait(SWEPT):
        remove_old(folder, KEPT)


def remove_old(folder: Path, age: float) -> None:
    """Removes the files below `folder` that were last changed `age` seconds ago or more, and empty folders."""
    before = time.time() - age
    for path in sorted(folder.rglob("*"), key=lambda p: -len(p.parts)):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime <= before:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


class Curtain:
    """ASGI middleware: no address of the temporary folder leaves the server, and no other machine is asked.

    Gradio names files by their paths. Here they are replaced by an alias of the same length, and the
    alias by the path in what comes back.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: Path):
        self.app = app
        self.path = str(folder).encode()
        self.alias = (b"/-jfusion-files-" + b"-" * len(self.path))[: len(self.path)]

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        """Passes a request on, and its answer back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        alias, path = self.alias.decode(), self.path.decode()
        scope = dict(scope)
        scope["path"] = scope["path"].replace(alias, path)
        scope["query_string"] = scope["query_string"].replace(self.alias, self.path)
        scope.pop("raw_path", None)
        is_text = False

        async def passed_on() -> Message:
            message = await receive()
            if message.get("body") and _is_text(scope["headers"]):
                message["body"] = message["body"].replace(self.alias, self.path)
            return message

        async def passed_back(message: Message) -> None:
            nonlocal is_text
            if message["type"] == "http.response.start":
                is_text = _is_text(message["headers"])
                policy = (b"content-security-policy", POLICY.encode())
                refer = (b"referrer-policy", b"no-referrer")
                message["headers"] = [*message["headers"], policy, refer]
            elif is_text and message.get("body"):
                message["body"] = message["body"].replace(self.path, self.alias)
            await send(message)

        await self.app(scope, passed_on, passed_back)


def _is_text(headers: list[tuple[bytes, bytes]]) -> bool:
    kind = next((v for k, v in headers if k.lower() == b"content-type"), b"")
    return any(word in kind for word in TEXT)


def launch(blocks: Any, folder: Path, host: str, port: int | None, max_upload: float) -> str:
    """Starts the server in threads of its own, and returns its address.

    port: None for the first free one from 7860. max_upload: megabytes of a file. Raises UserError when
    the port is taken.
    """
    from starlette.middleware import Middleware

    from jfusion.app.page import HEAD, STYLE, theme, translated

    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["settings"],
            max_file_size=f"{max_upload:g}mb",
            app_kwargs={"middleware": [Middleware(Curtain, folder=folder)]},
            i18n=translated(),
            theme=theme(),
            css=STYLE,
            head=HEAD,
        )
    except OSError as error:
        what = f"port {port} of {host}" if port else f"a port from 7860 of {host}"
        remedy = "it is taken, or this machine has no such address; choose another --port or --host"
        raise UserError(f"the page cannot be served: {what} cannot be opened: {remedy}") from error
    return address
