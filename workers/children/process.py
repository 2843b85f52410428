"""One child process of a worker: how it is started, heard and ended, whatever it does.

Invariants: the thread that started the process ends after it (to die with its parent means on Linux: with the *thread* that
started it); it is always waited for; processes that it started end with it; what it prints goes to the log, line by line, with the
model's name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import site
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import structlog

from workers.children.line import Broken, Line
from workers.children.messages import Told
from workers.execution import InstanceDied

MAX_LINE: Final = 8192
"""Bytes of one line of output; longer ones are cut in pieces."""
LAST_WORDS: Final = 1.0
"""Seconds that a child which has hung up gets to end by itself before it is killed."""

_PRIVATE: Final = (
    "PENSTOCK_KAFKA", "PENSTOCK_REDIS", "PENSTOCK_API_KEY", "PENSTOCK_SIGNING_SECRET", "PENSTOCK_HEARTBEAT_FD",
)  # fmt: skip
"""Variables, by their beginning, that are the worker's own affair."""
_LEVEL: Final = re.compile(rb"<(10|20|30|40|50)>")

log = structlog.get_logger(__name__)


class Child:
    """A process that obeys orders (`inside`); started at once, without waiting for it.

    Attributes:
        about: the model's name and so on, for the log.
        doomed: it was killed from here.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.doomed = False
        ours, theirs = socket.socketpair()
        self._line = Line(ours)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._on_end: Callable[[], None] | None = None
        threading.Thread(target=self._keep, args=(theirs,), name="child", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._ended.is_set()

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        process = self._process
        return None if process is None or self.ended else process.pid

    def ask(self, payload: bytes, descriptors: Sequence[int] = ()) -> tuple[Told, list[int]]:
        """Give an order and wait for the answer; one thread at a time.

        Raises:
            Broken: there is no answer, nor will there be one.
        """
        self._line.send(payload, descriptors)
        answer, received = self._line.receive()
        if not isinstance(answer, dict):
            raise Broken(f"an answer of type {type(answer).__name__}")
        return answer, received

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Call this, on any thread, once the process has ended, or now if it has."""
        with self._lock:
            if not self.ended:
                self._on_end = callback
                return
        callback()

    def kill(self) -> None:
        """End it now, with all processes that it started."""
        with self._lock:
            self.doomed = True
            if self._process is not None and not self.ended:
                _kill_group(self._process.pid)

    def end(self, grace: float) -> None:
        """Hang up and wait for its end; kill it after the grace. Frees the descriptors."""
        self._line.hang_up()
        if not self._ended.wait(grace):
            self.kill()
            self._ended.wait()
        self._line.close()

    def obituary(self, when: str, *, hung: bool = False) -> InstanceDied:
        """Wait for the end of a child that has broken off, and say how it ended."""
        self.end(LAST_WORDS)
        code = None if self._process is None else self._process.returncode
        if code is None:
            return InstanceDied(f"its process could not be started {when}", hung=hung)
        if hung:
            return InstanceDied(f"its process hung {when} and was killed", signal=signal.SIGKILL, hung=True)
        if code < 0:
            return InstanceDied(f"its process was ended by {signal_name(-code)} {when}", signal=-code)
        return InstanceDied(f"its process ended with exit code {code} {when}", exit_code=code)

    # --- the thread that lives as long as the process ----------------------------------------------------------------

    def _keep(self, theirs: socket.socket) -> None:
        try:
            self._process = self._start(theirs.fileno())
        except OSError as exc:
            log.error("a child process cannot be started", error=str(exc), **self.about)
        finally:
            theirs.close()
        if self._process is not None:
            self._outlive(self._process)
        with self._lock:
            self._ended.set()
            callback = self._on_end
        self._line.hang_up()  # a process that the child has started may hold the other end
        if callback is not None:
            callback()

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # all of it is ours
            [sys.executable, "-P", "-m", "workers.children", str(descriptor), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(descriptor,),
            env=environment(os.environ),
            start_new_session=True,  # a terminal's Ctrl-C is the worker's to handle
        )

    def _outlive(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        threading.Thread(target=self._log_output, args=(process.stdout,), name="child-output", daemon=True).start()
        if self.doomed:
            _kill_group(process.pid)
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is not given to others before `wait`
        else:
            process.wait()
        with self._lock:
            _kill_group(process.pid)
            process.wait()
            self._ended.set()

    def _log_output(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(MAX_LINE):
                level, text = logging.INFO, line
                found = _LEVEL.match(line)
                if found is not None:
                    level, text = int(found[1]), line[found.end() :]
                log.log(level, text.rstrip().decode(errors="backslashreplace"), **self.about)


def signal_name(number: int) -> str:
    """SIGSEGV and so on."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The worker's, as thread instances see it, but for what is secret, with this package in the path for the start.

    The path is only needed where the package is not installed, and it must lead to the same code as the worker's.
    """
    chosen = {name: value for name, value in given.items() if not name.startswith(_PRIVATE)}
    home = str(Path(__file__).parents[2])
    if home not in site.getsitepackages():
        chosen["PENSTOCK_CHILD_HOME"] = home
        chosen["PYTHONPATH"] = os.pathsep.join([home, *filter(None, [given.get("PYTHONPATH")])])
    return chosen


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
