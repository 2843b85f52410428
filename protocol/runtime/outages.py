"""What is logged while a server is away: one line every few seconds, and one when it is back.

From the first sign of an outage, every other line about the server is held. If the server turns out to answer they are written
after all; otherwise they are dropped, because the line about the outage stands for them. A line with a traceback is never held.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

from protocol.runtime.repeats import next_report

log = logging.getLogger("penstock.outages")
"""Its records have `outage`: the server's name, and whether it is away."""

CONFIRMED_BY: Final = 2
"""Consecutive failed checks after which the server counts as away: one of several brokers may be down."""
PAUSE: Final = 1.0
"""Seconds between two checks."""
ECHO: Final = 2.0
"""Seconds after its return in which lines about the server are still dropped: they are about calls from before."""
MAX_HELD: Final = 200
UNKNOWN: Final = "?"
_AT_START: Final = "nothing starts before it does"


@dataclasses.dataclass(frozen=True, slots=True)
class Meanwhile:
    """What a process does while a server is away, as the end of "… does not answer: "; "" if something else says it.

    Attributes:
        kafka, redis: while it serves.
        start: before it does.
    """

    kafka: str = "it is tried again until it answers"
    redis: str = "it is tried again until it answers"
    start: str = _AT_START


USUAL: Final = Meanwhile()


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A server that may be away.

    Attributes:
        name: of the product.
        where: its address, as errors have it.
        option: with which the address was given.
        loggers: whose lines are all about it; by prefix.
    """

    name: str
    where: str
    option: str
    loggers: tuple[str, ...]

    def line(self, elapsed: float, why: str, meanwhile: str) -> str:
        """The line about an outage after `elapsed` seconds, and its first one at 0."""
        since = f"has not answered for {elapsed:.0f} s" if round(elapsed) else "does not answer"
        reason = f" ({why.rstrip('.')})" if why else ""
        return (
            f"{self.name} at {self.where} {since}{reason}: {meanwhile}. Check that it runs, that this machine reaches it, and "
            f"that {self.option} names it"
        )

    def back(self, elapsed: float) -> str:
        """The line about its end."""
        return f"{self.name} at {self.where} answers again, after {elapsed:.0f} s"

    def concerns(self, record: logging.LogRecord) -> bool:
        """Whether a line is about this server."""
        entry = record.msg if isinstance(record.msg, dict) else {}  # structlog's
        if record.name == log.name or record.levelno >= logging.CRITICAL or record.exc_info or entry.get("exc_info"):
            return False
        if any(record.name == name or record.name.startswith(f"{name}.") for name in self.loggers):
            return True
        texts = [value for value in entry.values() if isinstance(value, str)] if entry else [record.getMessage()]
        return any(self.where in text for text in texts)


def system_error(text: str) -> str:
    """The system's error in a library's text, as "connection refused"; "" for none, and for TLS, which borrows its numbers."""
    found = re.search(r"\[Errno (-?\d+)\] ([^\[\]]+)|Error (-?\d+) connecting to \S+\. (.+)", text)
    if not found or "SSL" in text:
        return ""
    number, words = int(found[1] or found[3]), found[2] or found[4]
    return (os.strerror(number) if number > 0 else words.strip().rstrip(".")).lower()


class Hold:
    """The lines about one server, while it is not known to answer."""

    __slots__ = ("_held", "drops", "newest", "server")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.drops = False
        self.newest = ""
        self._held: list[tuple[logging.Handler, logging.LogRecord]] = []

    def drop(self) -> None:
        """Drop what is held and what comes."""
        self.drops = True
        self._held.clear()

    def takes(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        """Hold or drop the line; False if it is to be written."""
        if not self.server.concerns(record):
            return False
        self.newest = record.getMessage()
        if not self.drops:
            if len(self._held) >= MAX_HELD:
                return False
            self._held.append((handler, record))
        return True

    def release(self) -> None:
        """Write what is held."""
        held, self._held = self._held, []
        for handler, record in held:
            handler.handle(record)


_holds: Final[list[Hold]] = []


@contextlib.contextmanager
def _holding(server: Server) -> Iterator[Hold]:
    hold = Hold(server)
    _holds.append(hold)
    try:
        yield hold
    finally:
        _holds.remove(hold)
        hold.release()


class Hush(logging.Filter):
    """Keeps lines about servers that are away from a handler; add it as the first filter."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        return not any(hold.takes(self._handler, record) for hold in _holds)


def hush_unconfigured() -> None:
    """Filter what is written without any configured logging, too: for commands that print, and log nothing of their own."""
    handler = logging.lastResort
    if handler is not None and not any(isinstance(each, Hush) for each in handler.filters):
        handler.addFilter(Hush(handler))


class Watch:
    """Checks a server after a sign that it is away, and logs the outage.

    Args:
        server: which.
        meanwhile: what this process does without it; "" if something else says it.
        why: "" if the server answers now; otherwise the reason, or `UNKNOWN`.
        sleep: waits for so many seconds.
        start: as `meanwhile`, before the server was there for the first time.
    """

    def __init__(
        self,
        server: Server,
        meanwhile: str,
        why: Callable[[], Awaitable[str]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        start: str = _AT_START,
    ) -> None:
        self._server = server
        self.meanwhile = meanwhile
        self._start = start
        self._why = why
        self._sleep = sleep
        self._loop: asyncio.AbstractEventLoop | None = None
        self._check: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Check from now on."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Check no more."""
        self._loop = None
        if self._check is not None:
            self._check.cancel()

    def suspect(self) -> None:
        """There was a sign."""
        if self._loop is not None and self._check is None and not self._loop.is_closed():
            hold = Hold(self._server)
            _holds.append(hold)  # before the line that is the sign is written
            self._check = self._loop.create_task(self._follow(hold), name=f"outage of {self._server.name}")
            self._check.add_done_callback(lambda check: self._on_checked(check, hold))

    def _on_checked(self, check: asyncio.Task[None], hold: Hold) -> None:
        self._check = None
        _holds.remove(hold)
        hold.release()
        if not check.cancelled() and (error := check.exception()) is not None:
            log.error("the check of %s at %s failed", self._server.name, self._server.where, exc_info=error)

    async def _follow(self, hold: Hold) -> None:
        clock = asyncio.get_running_loop().time
        began, due = clock(), 0.0
        for _ in range(CONFIRMED_BY):
            if not (why := await self._why()):
                return
        hold.drop()
        while why:
            if (elapsed := clock() - began) >= due:
                self._say(elapsed if due else 0.0, why)
                due = next_report(elapsed)
            await self._sleep(PAUSE)
            why = await self._why()
        if self.meanwhile:
            self._log(logging.WARNING, self._server.back(clock() - began), away=False)
        await self._sleep(ECHO)

    def _say(self, elapsed: float, why: str) -> None:
        if self.meanwhile:
            line = self._server.line(elapsed, "" if why == UNKNOWN else why, self.meanwhile)
            self._log(logging.ERROR, line, away=True)

    def _log(self, level: int, line: str, *, away: bool) -> None:
        log.log(level, line, extra={"outage": (self._server.name, away)})

    @contextlib.asynccontextmanager
    async def starting(self, limit: float, why: Callable[[str], str]) -> AsyncIterator[None]:
        """Log, while the block connects for the first time, that the server does not answer yet.

        Args:
            limit: seconds after which the block gives up.
            why: the reason so far, of the newest line that was held; "" if there is none.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        said = False
        meanwhile = f"{self._start}; given up after {limit:g} s (--connect-timeout)"

        async def report(hold: Hold) -> None:
            nonlocal said
            due = PAUSE
            while True:
                await self._sleep(due - (clock() - began))
                hold.drop()
                if self._start:
                    said = True
                    line = self._server.line(clock() - began, why(hold.newest), meanwhile)
                    self._log(logging.WARNING, line, away=True)
                due = next_report(clock() - began)

        with _holding(self._server) as hold:
            task = asyncio.get_running_loop().create_task(report(hold), name=f"start of {self._server.name}")
            try:
                yield
            except BaseException:
                hold.drop()  # the error says it
                raise
            finally:
                task.cancel()
        if said:
            self._log(logging.WARNING, self._server.back(clock() - began).replace(" again", ""), away=False)
