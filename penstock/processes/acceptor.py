"""One acceptor process as its parent has it, and the spare that has imported everything and waits.

Importing takes a second or more of CPU time, on a busy machine several seconds; a spare takes a dead process' place at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from penstock.processes.channel import Channel
from protocol.runtime.tasks import BackgroundTasks
from workers.system import code_path


class Acceptor:
    """A process that was started and not yet told what to do.

    Attributes:
        process: of the operating system.
        channel: to it; the first message is "start", with its settings.
        on_message: gets its messages.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.channel = Channel(self._received)
        self.on_message: Callable[[str, Any], None] = lambda *_: None

    @classmethod
    async def start(cls, attach: Callable[[], socket.socket] | None) -> Acceptor:
        """Start a process.

        Args:
            attach: makes a new connection to the models of this process, and returns the child's end; None with a fleet.
        """
        ours, theirs = socket.socketpair()
        ends = [theirs] if attach is None else [theirs, attach()]
        descriptors = [end.fileno() for end in ends]
        try:
            process = await asyncio.create_subprocess_exec(
                *code_path.run_module("penstock.processes.child", str(os.getpid()), *map(str, descriptors)),
                env=code_path.with_code_path(os.environ),
                pass_fds=descriptors,
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent, which passes it on
            )
        except BaseException:
            ours.close()
            raise
        finally:
            for end in ends:
                end.close()
        acceptor = cls(process)
        await acceptor.channel.open(ours)
        return acceptor

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.returncode is None

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def _received(self, kind: str, value: Any) -> None:
        self.on_message(kind, value)


class Spare:
    """One acceptor process that waits to take a dead one's place.

    Args:
        attach: as for `Acceptor.start`.
    """

    def __init__(self, attach: Callable[[], socket.socket] | None) -> None:
        self._attach = attach
        self._waiting: Acceptor | None = None
        self._tasks = BackgroundTasks("spare acceptor")
        self._closed = False

    async def take(self) -> Acceptor:
        """The spare, or a new process if there is none."""
        waiting, self._waiting = self._waiting, None
        return waiting if waiting is not None and waiting.alive else await Acceptor.start(self._attach)

    def fill(self) -> None:
        """Start a spare, unless there is one."""
        if not self._closed and not self._tasks and (self._waiting is None or not self._waiting.alive):
            self._tasks.spawn(self._fill())

    async def close(self) -> None:
        """End the spare; there will be no other."""
        self._closed = True
        await self._tasks.join()
        if self._waiting is not None:
            self._waiting.signal(signal.SIGKILL)
            await self._waiting.process.wait()
            self._waiting.channel.close()

    async def _fill(self) -> None:
        self._waiting = await Acceptor.start(self._attach)
