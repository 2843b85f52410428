"""One acceptor process and its successors: start, messages, death, restart."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from penstock.processes.acceptor import Acceptor, Spare
from penstock.processes.sums import families_of
from protocol.errors import Code, FleetError
from workers.system.backoff import Backoff

ANSWER_WITHIN: Final = 1.0
"""Seconds in which a process must answer its parent's question; then its last metrics count."""
KILL_AFTER: Final = 10.0
"""Seconds after the drain grace until a process that has not exited is killed."""

log = structlog.get_logger(__name__)


class Crew(Protocol):
    """What a process needs to know of all processes together: its parent's side."""

    def became_ready(self, number: int) -> None:
        """The process takes calls."""

    def counted(self, number: int, families: Any) -> None:
        """It told its metrics (`sums.families_of`)."""

    def died(self, number: int) -> None:
        """It is gone."""

    def published(self, number: int, key: str, value: bytes) -> None:
        """It tells the others something."""

    def away(self, number: int, server: str, away: bool, level: int, line: str) -> None:
        """For this process a server is away, or answers again; the line says it, and has a level of the standard library's."""

    def kept(self) -> Mapping[str, bytes]:
        """What the processes have published so far."""

    @property
    def spare(self) -> Spare:
        """Where a new process comes from."""


class Slot:
    """The place of one acceptor process, which is started again when it dies.

    Args:
        number: from 0.
        start: makes what a child gets first: its settings, as plain data.
        crew: told what happens.
        drain_grace: seconds that the child gets after SIGTERM.

    Attributes:
        ready: whether the living process takes calls.
        failure: why the last process could not start, if it said so.
    """

    def __init__(self, number: int, start: Callable[[], Mapping[str, Any]], crew: Crew, drain_grace: float) -> None:
        self.number = number
        self.ready = False
        self.failure: FleetError | None = None
        self._start = start
        self._crew = crew
        self._grace = drain_grace
        self._acceptor: Acceptor | None = None
        self._asked = asyncio.Event()
        self._answers: dict[str, asyncio.Future[Any]] = {}

    @property
    def pid(self) -> int | None:
        """The number of the living process."""
        acceptor = self._acceptor
        return acceptor.process.pid if acceptor is not None and acceptor.alive else None

    def stop(self, number: int) -> None:
        """Pass a signal on, and start no process again."""
        self._asked.set()
        if self._acceptor is not None:
            self._acceptor.signal(number)

    async def run(self, restarts: Callable[[int], bool]) -> int:
        """Keep a process alive until `stop`; returns its exit code, as a shell has it.

        Args:
            restarts: whether a process that ended with this code is started again; called for a death that nobody asked for.
        """
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._run_once()
            if self._asked.is_set() or not restarts(code):
                return code
            pause = backoff.after(loop.time() - began)
            log.error(
                "an acceptor process died; it is restarted",
                process=self.number,
                exit_code=code,
                error=None if self.failure is None else self.failure.message,
                pause=round(pause, 2),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()
            if self._asked.is_set():
                return 0

    def send(self, kind: str, value: object = None) -> None:
        """Send the process a message, if there is one."""
        if self._acceptor is not None:
            self._acceptor.channel.send(kind, value)

    async def ask(self, question: str) -> Any:
        """The process's answer; None if it does not answer in time or there is no process. A second caller gets the same answer."""
        if not self.ready:
            return None
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = asyncio.get_running_loop().create_future()
            self.send(question)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN):
                return await asyncio.shield(answer)
        return None

    # --- one process -------------------------------------------------------------------------------------------------

    async def _run_once(self) -> int:
        self.failure = None
        acceptor = self._acceptor = await self._crew.spare.take()
        acceptor.on_message = self._on_message
        acceptor.channel.send("start", self._start())
        for key, value in self._crew.kept().items():
            acceptor.channel.send("published", (key, value))
        if self._asked.is_set():
            acceptor.signal(signal.SIGTERM)
        try:
            return await self._exit_of(acceptor)
        finally:
            await acceptor.channel.wait_closed(ANSWER_WITHIN)  # its last metrics, or why it failed
            acceptor.channel.close()
            self.ready = False
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            self._crew.died(self.number)

    async def _exit_of(self, acceptor: Acceptor) -> int:
        waiting = asyncio.ensure_future(acceptor.process.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        await asyncio.wait((waiting, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        done, _ = await asyncio.wait((waiting,), timeout=self._grace + KILL_AFTER)
        if not done:
            log.error("an acceptor process does not exit; it is killed", process=self.number, pid=acceptor.process.pid)
            acceptor.signal(signal.SIGKILL)
        code = await waiting
        if code < 0 and self._asked.is_set() and not self.ready:
            return 0  # ended by the signal before it took a call
        return code if code >= 0 else 128 - code

    def _on_message(self, kind: str, value: Any) -> None:
        if kind == "started":
            self.ready = True
            self._crew.became_ready(self.number)
        elif kind == "failed":
            code, message = value
            self.failure = FleetError(message, code=Code(code))
        elif kind == "published":
            self._crew.published(self.number, *value)
        elif kind == "outage":
            self._crew.away(self.number, *value)
        elif kind == "metrics":
            self._crew.counted(self.number, families_of(value))
        if (answer := self._answers.pop(kind, None)) is not None and not answer.done():
            answer.set_result(value)
