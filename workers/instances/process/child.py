"""One child process of a worker: how it is started, heard and ended, whatever it does.

Invariants: its end is always waited for; processes that it started end with it; what it prints goes to the log, line by line, with
the model's name.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

import structlog

from workers.instances.job import InstanceDied
from workers.instances.process.channel import Broken, Line
from workers.instances.process.forkserver import Copy, Template
from workers.instances.process.messages import Told

MAX_LINE: Final = 8192
"""Bytes of one line of output; longer ones are cut in pieces."""
LAST_WORDS: Final = 1.0
"""Seconds that a child which has hung up gets to end by itself before it is killed."""

_EXITED: Final = "; a model must raise an exception and not end its process (os._exit, or exit in a library)"
_KILLED: Final = "; Linux ends a process so when memory runs out: see dmesg, or the events of its container"
_LEVEL: Final = re.compile(rb"<(10|20|30|40|50)>")

log = structlog.get_logger(__name__)


class Child:
    """A process that obeys orders (`inside`); made at once, without waiting for it.

    Args:
        template: makes it.

    Attributes:
        about: the model's name and so on, for the log.
        doomed: it was killed from here.
    """

    def __init__(self, template: Template) -> None:
        self.about: dict[str, Any] = {}
        self.doomed = False
        ours, theirs = socket.socketpair()
        self._line = Line(ours)
        self._process: Copy | None = None
        self._code: int | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._on_end: Callable[[], None] | None = None
        threading.Thread(target=self._keep, args=(template, theirs), name="child", daemon=True).start()

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
        self.doomed = True
        process = self._process
        if process is not None:
            process.kill()

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
        code = self._code
        if code is None:
            return InstanceDied(f"its process could not be started {when}", hung=hung)
        if hung:
            return InstanceDied(f"its process hung {when} and was killed", signal=signal.SIGKILL, hung=True)
        if code < 0:
            hint = _KILLED if code == -signal.SIGKILL and not self.doomed else ""
            return InstanceDied(f"its process was ended by {signal_name(-code)} {when}{hint}", signal=-code)
        return InstanceDied(f"its process ended with exit code {code} {when}{_EXITED}", exit_code=code)

    # --- the thread that waits for its end ---------------------------------------------------------------------------

    def _keep(self, template: Template, theirs: socket.socket) -> None:
        reader, writer = os.pipe()
        try:
            self._process = template.copy(theirs.fileno(), writer)
        except Broken as exc:
            log.error("a child process cannot be started", error=str(exc), **self.about)
        finally:
            theirs.close()
            os.close(writer)
        threading.Thread(target=self._log_output, args=(os.fdopen(reader, "rb"),), name="output", daemon=True).start()
        if self._process is not None:
            if self.doomed:
                self._process.kill()
            self._code = self._process.wait()
        with self._lock:
            self._ended.set()
            callback = self._on_end
        self._line.hang_up()  # a process that the child has started may hold the other end
        if callback is not None:
            callback()

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
