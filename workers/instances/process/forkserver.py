"""The template of children: a process that has Python and this package loaded and copies itself, which takes milliseconds.

Copying is safe here, and only here: the template has one thread and no model, has at most imported a framework (`spares`), and
never runs anything but `copies`.
Invariants: the thread that started the template ends after it (to die with its parent means on Linux: with the *thread* that
started it); whoever waits for a copy is told its end, also when the template itself is gone, which no copy survives.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import site
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from workers.instances.process.channel import Broken, Line, packed

_PRIVATE: Final = (
    "PENSTOCK_KAFKA", "PENSTOCK_REDIS", "PENSTOCK_API_KEY", "PENSTOCK_SIGNING_SECRET", "PENSTOCK_HEARTBEAT_FD",
)  # fmt: skip
"""Variables, by their beginning, that are the worker's own affair."""
END_GRACE: Final = 2.0
"""Seconds that a template gets to end its copies and what they have started."""

log = structlog.get_logger(__name__)


class Copy:
    """A copied process, as the worker knows it.

    Attributes:
        pid: its number, until it has ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        # A descriptor of the process: its number may be another's by the time it is to be killed.
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                self._descriptor = os.pidfd_open(pid)

    def wait(self) -> int:
        """Its exit code once it has ended; negative for the number of a signal."""
        self._ended.wait()
        return self._code

    def kill(self) -> None:
        """End it now; the template ends the processes that it has started."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended.is_set():
                return
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def end(self, code: int) -> None:
        """It has ended."""
        with self._lock:
            self._code = code
            self._ended.set()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class Template:
    """One template process of a worker. All of it from any thread.

    Args:
        framework: module that it imports before the first copy; "" for none.
    """

    def __init__(self, framework: str = "") -> None:
        self._framework = framework
        ours, theirs = socket.socketpair()
        self._line = Line(ours)
        self._asking = threading.Lock()
        self._copies: dict[int, Copy] = {}
        self._made: queue.SimpleQueue[Copy | None] = queue.SimpleQueue()
        self._gone = False
        self._thread = threading.Thread(target=self._keep, args=(theirs,), name="template", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether it makes no copies any more."""
        return self._gone

    def copy(self, line: int, output: int) -> Copy:
        """A new child, which hears its orders on the descriptor `line` and prints to `output`.

        Raises:
            Broken: the template is gone.
        """
        with self._asking:
            self._line.send(packed({"do": "copy"}), (line, output))
            made = self._made.get()
        if made is None:
            self._made.put(None)
            raise Broken("the template process is gone")
        return made

    def close(self) -> None:
        """End it, and wait for that."""
        self._line.hang_up()
        self._thread.join()

    def _keep(self, theirs: socket.socket) -> None:
        try:
            process = _start(theirs.fileno(), self._framework)
        except OSError as exc:
            log.error("no child processes can be started", error=str(exc))
            process = None
        finally:
            theirs.close()
        with contextlib.suppress(Broken):
            while process is not None:
                self._hear(*self._line.receive())
        self._gone = True
        if process is not None:
            _end(process)
        for copy in self._copies.values():
            copy.end(-signal.SIGKILL)
        self._made.put(None)
        self._line.close()

    def _hear(self, told: dict[str, int], descriptors: list[int]) -> None:
        if "made" in told:
            copy = self._copies[told["made"]] = Copy(told["made"])
            self._made.put(copy)
        else:
            self._copies.pop(told["ended"]).end(told["code"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends by itself once it has ended all that its copies have started."""
    try:
        process.wait(END_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(descriptor: int, framework: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # all of it is ours
        [sys.executable, "-P", "-m", "workers.instances.process", str(descriptor), str(os.getpid()), framework],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=environment(os.environ),
        start_new_session=True,  # a terminal's Ctrl-C is the worker's to handle
    )


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The worker's, as thread instances see it, but for what is secret, with this package in the path for the start.

    The path is only needed where the package is not installed, and it must lead to the same code as the worker's.
    """
    chosen = {name: value for name, value in given.items() if not name.startswith(_PRIVATE)}
    home = str(Path(__file__).parents[3])
    if home not in site.getsitepackages():
        chosen["PENSTOCK_CHILD_HOME"] = home
        chosen["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [given.get("PYTHONPATH")])])
    return chosen
