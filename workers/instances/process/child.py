"""The worker's end of one child process: starting it, sending it commands, learning how it exited.

Invariants: every child is waited for; processes that it started end with it; its output goes to the log, line by line, with the
model's name.
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

from protocol.dead_letter import signal_name
from workers.backends.tracebacks import crash_place
from workers.instances.job import InstanceDied
from workers.instances.process.channel import Channel, ChannelBroken
from workers.instances.process.forkserver import ForkedProcess, Forkserver
from workers.instances.process.messages import Message

MAX_LINE: Final = 8192
"""Bytes of one line of output; longer ones are cut in pieces."""
EXIT_GRACE: Final = 1.0
"""Seconds that a child which has closed its channel gets to exit before it is killed."""

_EXITED: Final = "; a model must raise an exception and not end its process (os._exit, or exit in a library)"
_KILLED: Final = "; Linux kills processes this way when memory runs out: see dmesg, or the events of its container"
_CRASHED: Final = b"Fatal Python error: "
"""How Python's faulthandler begins what it prints; the process ends after it."""
_DUMP_LINES: Final = (
    b"\n", b"  File ", b"Current thread ", b"Thread 0x", b"Stack ", b"  <", b"  ...", b"Extension modules: ", b"Python runtime",
)  # fmt: skip
"""How its further lines begin."""
_DUMP: Final = 32 * 1024
"""Bytes of that."""
_LEVEL: Final = re.compile(rb"<(10|20|30|40|50)>")

log = structlog.get_logger(__name__)


class Child:
    """A process that runs one instance (`child_main`); the constructor does not wait for it.

    Args:
        forkserver: makes it.

    Attributes:
        about: the model's name and so on, for the log.
        killed: `kill` was called.
    """

    def __init__(self, forkserver: Forkserver) -> None:
        self.about: dict[str, Any] = {}
        self._crash = b""
        self._printed = threading.Event()
        self.killed = False
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self._process: ForkedProcess | None = None
        self._code: int | None = None
        self._lock = threading.Lock()
        self._exited = threading.Event()
        self._on_exit: Callable[[], None] | None = None
        threading.Thread(target=self._watch, args=(forkserver, theirs), name="child", daemon=True).start()

    @property
    def exited(self) -> bool:
        """Whether the process is gone."""
        return self._exited.is_set()

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        process = self._process
        return None if process is None or self.exited else process.pid

    def send_command(self, payload: bytes, descriptors: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Send a command and wait for the reply; one thread at a time.

        Raises:
            ChannelBroken: there is no reply and none will come.
        """
        self._channel.send_message(payload, descriptors)
        reply, received = self._channel.receive_message()
        if not isinstance(reply, dict):
            raise ChannelBroken(f"a reply of type {type(reply).__name__}")
        return reply, received

    def call_on_exit(self, callback: Callable[[], None]) -> None:
        """Call this, on any thread, once the process has exited, or now if it has."""
        with self._lock:
            if not self.exited:
                self._on_exit = callback
                return
        callback()

    def kill(self) -> None:
        """Kill it now, with all processes that it started."""
        self.killed = True
        process = self._process
        if process is not None:
            process.kill()

    def stop(self, grace: float) -> None:
        """Close the channel, wait for the exit, and kill the process after the grace. Frees the descriptors."""
        self._channel.shut_down()
        if not self._exited.wait(grace):
            self.kill()
            self._exited.wait()
        self._channel.close()

    def exit_error(self, when: str, *, hung: bool = False) -> InstanceDied:
        """Wait for the exit of a child whose channel has broken, and say how it exited."""
        self.stop(EXIT_GRACE)
        code = self._code
        if code is None:
            return InstanceDied(f"its process could not be started {when}", hung=hung)
        if hung:
            return InstanceDied(f"its process hung {when} and was killed", signal=signal.SIGKILL, hung=True)
        self._printed.wait(EXIT_GRACE)
        dump = self._crash.decode(errors="backslashreplace").strip()
        place = crash_place(dump)
        where = f" ({place})" if place else ""
        if code < 0:
            hint = _KILLED if code == -signal.SIGKILL and not self.killed else ""
            return InstanceDied(
                f"its process was ended by {signal_name(-code)} {when}{where}{hint}",
                signal=-code, trace=dump, place=place,
            )  # fmt: skip
        return InstanceDied(
            f"its process exited with code {code} {when}{where}{_EXITED}", exit_code=code, trace=dump, place=place
        )

    # --- the thread that waits for its exit --------------------------------------------------------------------------

    def _watch(self, forkserver: Forkserver, theirs: socket.socket) -> None:
        reader, writer = os.pipe()
        try:
            self._process = forkserver.fork(theirs.fileno(), writer)
        except ChannelBroken as exc:
            log.error("a child process cannot be started", error=str(exc), **self.about)
        finally:
            theirs.close()
            os.close(writer)
        threading.Thread(target=self._log_output, args=(os.fdopen(reader, "rb"),), name="output", daemon=True).start()
        if self._process is not None:
            if self.killed:
                self._process.kill()
            self._code = self._process.wait()
        with self._lock:
            self._exited.set()
            callback = self._on_exit
        self._channel.shut_down()  # a process that the child has started may hold the other end
        if callback is not None:
            callback()

    def _dumps(self, line: bytes) -> bool:
        """Whether the line belongs to a crash, which is one record: the one that says how the process died.

        It may be a process of the model that has crashed; then the model prints on.
        """
        if line.startswith(_CRASHED) or (self._crash and line.startswith(_DUMP_LINES)):
            self._crash = (self._crash + line)[:_DUMP]
            return True
        if self._crash:
            dump, self._crash = self._crash.decode(errors="backslashreplace").strip(), b""
            log.error("a process of the model crashed", exception=dump, **self.about)
        return False

    def _log_output(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(MAX_LINE):
                if self._dumps(line):
                    continue
                level, text = logging.INFO, line
                found = _LEVEL.match(line)
                if found is not None:
                    level, text = int(found[1]), line[found.end() :]
                log.log(level, text.rstrip().decode(errors="backslashreplace"), **self.about)
        self._printed.set()
