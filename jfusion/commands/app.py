"""`jfusion app`: a page on this machine to fuse images, compare methods, and look at results and runs."""

from __future__ import annotations

import ipaddress
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jfusion.app import main_thread
from jfusion.config import CommandOptions, setting
from jfusion.errors import UserError

EPILOG = (
    "The page is at http://127.0.0.1:7860 or the next free port; Ctrl-C ends it and removes what was "
    "uploaded. docs/app.md says what it does, and how a program calls it."
)


@dataclass(frozen=True)
class Options(CommandOptions):
    """Where the page is served, and what it offers."""

    host: str = setting(
        "127.0.0.1",
        "the address that is listened on; 0.0.0.0: others who reach this machine may use the page",
        "ADDRESS",
    )
    port: int | None = setting(
        None, "default: the first free one from 7860", "PORT", least=1, below=65536
    )
    weights: Sequence[str] = setting(
        (),
        "checkpoints, run folders, or folders of runs that the page also offers (default: none)",
        "PATH",
    )
    runs: str = setting("exp", "the folder of runs that the page shows", "DIR")
    max_pixels: float = setting(100.0, "refuse images of more megapixels", "MEGAPIXELS", above=0)
    max_upload: float = setting(1000.0, "refuse files of more megabytes", "MEGABYTES", above=0)
    browser: bool = setting(False, "open the page in the browser")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            ipaddress.ip_address(self.host)
        except ValueError as error:
            raise UserError(
                f"--host must be an address such as 127.0.0.1, not {self.host!r}"
            ) from error


def run(options: Options) -> int:
    """Serves the page until Ctrl-C, or until the signal by which services are ended, which is no failure."""
    from jfusion.app import serve
    from jfusion.app.methods import Methods
    from jfusion.app.page import Page, build

    local = ipaddress.ip_address(options.host).is_loopback
    methods = Methods.of(options.weights)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as after & in a script: jobs would inherit it
        signal.signal(signal.SIGINT, lambda *_: None)
    with serve.temporary_folder() as folder:
        page = Page(folder, methods, options.max_pixels, local, Path(options.runs).absolute())
        blocks = build(page)
        address = serve.launch(blocks, folder, options.host, options.port, options.max_upload)
        print(f"jfusion app: {address.rstrip('/')} (Ctrl-C ends it)", flush=True)
        if not local:
            print("note: everybody who reaches this machine can use the page", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(address)
        try:
            main_thread.serve(ended)
        finally:
            blocks.close(verbose=False)
    return 0
