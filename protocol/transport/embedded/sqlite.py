"""The durable transport of one process (`--data-dir`): the embedded bus and store, each with a SQLite file under it.

The live state is in memory. A change is acknowledged and delivered only once it is on disk, so that a kill at any moment (with
`fsync`, a power loss) loses nothing that was acknowledged; after a start, uncommitted records are delivered again. Heartbeats are
not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.ports import Claim, Claimed, FinishOutcome, Place, RequestState, Terminal
from protocol.totals import Key
from protocol.transport.embedded.fence import Fences, counted
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.embedded.sqlite_broker import SqliteBroker
from protocol.transport.embedded.sqlite_results import SqliteServer
from protocol.transport.settings import TransportSettings

BUS_FILE: Final = "bus.sqlite"
RESULTS_FILE: Final = "results.sqlite"


def _data_dir(settings: TransportSettings) -> Path:
    if settings.data_dir is None:
        raise ConfigError("the durable transport of one process needs --data-dir")
    return settings.data_dir


class SqliteBus(MemoryBus):
    """A bus on a durable embedded broker; see `protocol.ports.Bus`. Without a broker it creates one in `data_dir`.

    `open` raises ConfigError if the folder cannot be used, another process has it, or its file is damaged or not ours.
    """

    def __init__(self, settings: TransportSettings, broker: SqliteBroker | None = None) -> None:
        super().__init__(
            broker or SqliteBroker(_data_dir(settings) / BUS_FILE, settings.session_timeout, fsync=settings.fsync)
        )
        self._settings = settings

    def another(self) -> SqliteBus:
        """See `MemoryBus.another`."""
        assert isinstance(self._broker, SqliteBroker)
        return SqliteBus(self._settings, self._broker)

    @property
    def immediate(self) -> None:
        """None: it waits for its disk."""


class SqliteStore(MemoryStore):
    """Durable results, and the directory; see `protocol.ports.Results`. Without a server it creates one in `data_dir`.

    `open` raises ConfigError if the folder cannot be used, another process has it, or its file is damaged or not ours.
    """

    _server: SqliteServer

    def __init__(self, settings: TransportSettings, server: SqliteServer | None = None) -> None:
        super().__init__(settings, server or SqliteServer(_data_dir(settings) / RESULTS_FILE, fsync=settings.fsync))

    def another(self) -> SqliteStore:
        """See `MemoryStore.another`."""
        return SqliteStore(self._settings, self._server)

    @property
    def immediate(self) -> None:
        """None: it waits for its disk."""

    async def open(self) -> None:
        """Open or create the file with the first store."""
        if not self._is_open:
            await self._server.open()
            await super().open()

    async def close(self) -> None:
        """Stop listening; the last store closes the file."""
        if self._is_open:
            await super().close()
            await self._server.close()

    async def healthy(self) -> bool:
        """Whether the store is open and its file can be written."""
        return self._is_open and await self._server.healthy()

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`; wakes when the terminals are on disk."""
        self._check_open()
        outcomes, _ = await self._server.durably(
            [answer.ref for answer in answers],
            lambda fences, now: fences.finish(answers, now, self._result_ttl, self._server.wakes),
            lambda decision: self._wake(decision[1]),
            lambda decision: self._server.totals.count(*counted(answers, decision[0])),
        )
        return outcomes

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`; only what is on disk, except while the disk fails."""
        self._check_open()
        return await self._server.durably([], lambda _, __: self._server.totals.read(versions))

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`. Raises Unavailable when the store is full."""
        self._check_open()
        self._check_room()
        return await self._server.durably([claim.ref], lambda fences, now: fences.claim(claim, now))

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        self._check_open()
        await self._server.durably([ref], lambda fences, now: fences.confirm(ref, published, now, place))

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        self._check_open()
        return await self._server.durably(
            refs, lambda fences, now: [fences.start(ref, worker, ttl, now) for ref in refs]
        )

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`; reports only what is on disk."""
        self._check_open()
        return await self._server.durably(refs, lambda fences, now: [fences.look(ref, now) for ref in refs])

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`."""
        self._check_open()

        def decide(fences: Fences, now: float) -> None:
            for ref in refs:
                fences.trim(ref, now)

        await self._server.durably(refs, decide)

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        self._check_open()

        def decide(fences: Fences, now: float) -> None:
            for ref in refs:
                fences.release(ref, now)

        await self._server.durably(refs, decide)
