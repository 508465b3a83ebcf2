"""A process that reads untrusted files, with limits on time and memory.

The parent pickles an order into a socket and gets answers, one or several. The process imports only what its function
needs. It is started with `subprocess`, because `multiprocessing` and the libraries that build on it import the main
script in each worker, and with it all of Flask. Only Linux limits the memory; Windows cannot run this.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ENVIRONMENT = {  # of a worker
    "MALLOC_ARENA_MAX": "1",  # each arena reserves address space, and that is what is limited
    "MALLOC_MMAP_THRESHOLD_": str(2**22),  # bytes; what a large picture took goes back to the system at once
    "MALLOC_TRIM_THRESHOLD_": str(2**24),
    "OPENBLAS_NUM_THREADS": "1",
}
INHERITED = ("PATH", "HOME", "LANG", "LC_", "TMPDIR", "TZ", "PYTHON", "LD_LIBRARY_PATH", "COV")
"""Prefixes of the environment variables that a worker inherits. The others may hold keys."""
START_SECONDS = 60  # until a process that has not started is taken to hang


class OutOfTime(Exception):
    """An order took too much processor time, or its answer too long to come."""


class ProcessLost(Exception):
    """The process has ended, for a reason that is not its limit on time, or its answer made no sense (SIGABRT)."""

    def __init__(self, code: int):
        super().__init__(f"exit code {code}")
        self.code = code


class _Answers(pickle.Unpickler):
    """Reads answers, of tuples, exceptions and arrays only: a file may have taken over the process that sends them."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        if module in sys.modules and package in ("builtins", "captioning", "numpy"):  # an import would run code
            found = super().find_class(module, name)
            if package == "numpy":
                allowed = name in ("_frombuffer", "_reconstruct", "dtype", "ndarray")
            else:
                allowed = isinstance(found, type) and issubclass(found, (tuple, BaseException))
            if allowed:
                return found
        raise pickle.UnpicklingError(f"an answer contains {module}.{name}")


class WorkerProcess:
    """A process, seen from the parent.

    Args:
        module: its function `answer` takes an order's arguments and gives an iterator of answers.
        cpu_seconds: processor time that an order may take.
        wall_seconds: time after which a process that has not answered an order is taken to hang.
        memory: bytes that it may use on top of what it needs when it has started.
        files: descriptors of files that it may use, by the same numbers.
    """

    def __init__(
        self, module: str, *, cpu_seconds: float, wall_seconds: float, memory: int = 10**9, files: Sequence[int] = ()
    ):
        self.module, self.files = module, files
        self.cpu_seconds, self.wall_seconds, self.memory = cpu_seconds, wall_seconds, memory
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Raises OSError if no process can be started."""
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(START_SECONDS)
        self.ready = False
        self.answers = self.socket.makefile("rb")
        path = [str(Path(__file__).parents[1]), *sys.path]
        call = f"work({self.module!r}, {theirs.fileno()}, {self.cpu_seconds}, {self.memory})"
        code = f"import sys; sys.path[:] = {path}; from captioning.worker_process import work; {call}"
        with theirs, contextlib.ExitStack() as stack:
            stack.callback(self._close)
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *self.files],
                env={k: v for k, v in os.environ.items() if k.startswith(INHERITED)} | ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the parent alone
            )
            stack.pop_all()  # it has started

    def stop(self) -> int:
        """Ends the process, if there is one; returns its exit code."""
        if not self.process:
            return 0
        self.process.kill()
        self._close()
        code, self.process = self.process.wait(), None
        return code

    def _close(self) -> None:
        self.answers.close()
        self.socket.close()

    def resident(self) -> int | None:
        """Bytes of memory that the process holds, 0 where the system does not tell; None if there is no process."""
        if not self.process or self.process.poll() is not None:
            return None
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def send(self, order: tuple) -> None:
        """Raises as `receive`."""
        with self._reporting():
            if not self.ready:
                self.ready = _Answers(self.answers).load()  # the start must not count as time for the order
                self.socket.settimeout(self.wall_seconds)
            _send(self.socket, order)

    def receive(self) -> Any:
        """The next answer. An exception that the function raised is the last answer to its order.

        Raises:
            OutOfTime, ProcessLost: the process has been stopped.
        """
        with self._reporting():
            return _Answers(self.answers).load()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.stop()
            raise OutOfTime from None
        except Exception:  # a broken pickle can raise nearly anything, and the next answer would be to this order
            assert self.process
            try:
                code = self.process.wait(1)  # of a process that has ended
            except subprocess.TimeoutExpired:
                code = -signal.SIGABRT  # it lives, but its answer makes no sense
            self.stop()
            raise OutOfTime if code == -signal.SIGPROF else ProcessLost(code) from None


def ask(module: str, *order: Any, **limits: Any) -> Any:
    """The first answer of a process that is started for one order. The limits are those of `WorkerProcess`.

    Raises:
        OutOfTime, ProcessLost: the order exceeds a limit.
        Exception: what the function in the process raised.
    """
    worker = WorkerProcess(module, **limits)
    try:
        worker.start()
        worker.send(order)
        found = worker.receive()
    finally:
        worker.stop()
    if isinstance(found, Exception):
        raise found
    return found


def _send(connection: socket.socket, message: object) -> None:
    class Stream:
        write = staticmethod(connection.sendall)

    pickle.dump(message, Stream, pickle.HIGHEST_PROTOCOL)  # writes large bytes as they are: no copy is made


# In the process


def work(module: str, descriptor: int, cpu_seconds: float, memory: int) -> None:
    """Answers orders until the parent closes the socket or is gone."""
    import resource  # not on Windows, where this module can still be imported

    answer = import_module(module).answer
    for number in (signal.SIGINT, signal.SIGTERM):  # often sent to all processes of a service; the parent decides
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with the thread that started it
        most = memory + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)  # it cannot be raised
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else the decoders write a line for each broken picture
    connection = socket.socket(fileno=descriptor)
    orders = connection.makefile("rb")
    with contextlib.suppress(EOFError, OSError):
        _send(connection, True)  # it is ready
        while True:
            order = pickle.load(orders)
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # then SIGPROF ends the process
            try:
                for message in answer(*order):
                    _send(connection, message)
            except Exception as error:
                _send(connection, error)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
