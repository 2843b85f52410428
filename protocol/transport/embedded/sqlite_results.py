"""The embedded result store with a SQLite file under it: claims, terminals, fences and totals survive the process.

Invariants:
- a decision is made in memory, and reaches the caller and the woken channels once it is on disk;
- after a failed write memory is ahead of the file: no decision is made before the file has been read again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from protocol.errors import Unavailable
from protocol.frames import pack, unpack
from protocol.totals import KeptTotals, Key
from protocol.transport.embedded.fence import Fences, Stream
from protocol.transport.embedded.memory import MemoryServer
from protocol.transport.embedded.sqlite_journal import SqliteJournal, Statement

T = TypeVar("T")

_SCHEMA: Final = (
    "CREATE TABLE fences (id INTEGER PRIMARY KEY, ref TEXT NOT NULL, expires REAL NOT NULL)",
    "CREATE TABLE streams (ref TEXT PRIMARY KEY, body BLOB NOT NULL)",
)
_ADDED: Final = (
    "CREATE TABLE IF NOT EXISTS totals (model TEXT, version TEXT, body BLOB NOT NULL, PRIMARY KEY (model, version))",
)
"""Files of earlier versions lack it, and those versions ignore it."""
_VERSION: Final = 1
_ADD_FENCE: Final = "INSERT INTO fences VALUES (?, ?, ?)"
_PUT_STREAM: Final = "INSERT OR REPLACE INTO streams VALUES (?, ?)"
_DROP_STREAM: Final = "DELETE FROM streams WHERE ref = ?"
_PUT_TOTALS: Final = "INSERT OR REPLACE INTO totals VALUES (?, ?, ?)"
_PRUNE: Final = "DELETE FROM fences WHERE id < ?"
_PRUNE_EVERY: Final = 4096
_RELOAD_AFTER: Final = 1.0


class SqliteServer(MemoryServer):
    """The shared state of all stores of one process, durable in one file; opened by the first store, closed by the last.

    Args:
        path: of the file.
        fsync: every acknowledged change survives a power loss, not only a kill.
    """

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        super().__init__()
        self.journal = SqliteJournal(path, _SCHEMA, _VERSION, fsync=fsync, added=_ADDED)
        self.journal.on_failure = self._reload_later
        self._lock = asyncio.Lock()
        self._users = 0
        self._pruned = 0
        self._reloading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Count one more store; the first one reads the file. Raises ConfigError as `SqliteJournal.open` does."""
        async with self._lock:
            if not self._users:
                self._restore(await self.journal.open(_load))
            self._users += 1

    async def close(self) -> None:
        """Count one store fewer; the last one writes pending operations and closes the file."""
        async with self._lock:
            self._users -= 1
            if not self._users:
                if self._reloading is not None:
                    self._reloading.cancel()
                await self.journal.close()

    async def healthy(self) -> bool:
        """Whether the file can be written, and memory agrees with it."""
        return await self.journal.healthy() and self._reloading is None

    async def durably(
        self,
        refs: Sequence[str],
        decide: Callable[[Fences, float], T],
        on_durable: Callable[[T], None] | None = None,
        count: Callable[[T], Collection[Key]] = lambda _: (),
    ) -> T:
        """Decide about these refs; returns once the decision is on disk, and calls `on_durable` then even if the caller is gone.

        `count` adds what the decision counts to `totals`, and returns whose have changed; they reach the disk with the decision.

        Raises:
            Unavailable: the file cannot be written; there is no decision.
        """
        if self._reloading is not None:
            raise Unavailable("the result store is rereading its file after a failed write", retry_after=1.0)
        fences, now = self.fences, time.time()
        made, before = fences.made, {ref: _signature(fences, ref) for ref in refs}
        decision = decide(fences, now)
        statements = self._changes(before, made)
        if changed := count(decision):
            rows = [(*key, pack(self.totals.totals[key])) for key in changed]
            statements.append((_PUT_TOTALS, rows))
        if gone := fences.expire(now, 2 * len(refs)):
            statements.append((_DROP_STREAM, [(ref,) for ref in gone]))

        def apply() -> T:
            if on_durable is not None:
                on_durable(decision)
            return decision

        return await self.journal.submit(statements, apply)

    def _changes(self, before: Mapping[str, object], made: int) -> list[Statement]:
        """The statements that bring the file up to the state in memory."""
        fences = self.fences
        statements: list[Statement] = []
        if fences.made > made:
            new = fences.newest(fences.made - made)
            statements.append((_ADD_FENCE, [(made + n, ref, expires) for n, (ref, expires) in enumerate(new)]))
        changed = [ref for ref, signature in before.items() if _signature(fences, ref) != signature]
        if changed:
            put = [(ref, _body(fences.streams[ref])) for ref in changed if ref in fences.streams]
            drop = [(ref,) for ref in changed if ref not in fences.streams]
            statements += [(_PUT_STREAM, put), (_DROP_STREAM, drop)]
        if fences.dropped - self._pruned >= _PRUNE_EVERY:
            self._pruned = fences.dropped
            statements.append((_PRUNE, [(self._pruned,)]))
        return statements

    # --- reading the file --------------------------------------------------------------------------------------------

    def _restore(self, saved: tuple[Fences, list[str], KeptTotals]) -> None:
        self.fences, expired, self.totals = saved
        self._pruned = self.fences.dropped
        # If this fails, they are dropped after the next start.
        dropping: asyncio.Future[None] = self.journal.submit([(_DROP_STREAM, [(ref,) for ref in expired])])
        dropping.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _reload_later(self) -> None:
        if self._reloading is None:
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while True:
            try:
                saved = await self.journal.query(_load)
            except Unavailable:
                await asyncio.sleep(_RELOAD_AFTER)
            else:
                self._reloading = None
                self._restore(saved)
                return


def _signature(fences: Fences, ref: str) -> object:
    """A value that changes with the saved form of a stream; None without one."""
    stream = fences.streams.get(ref)
    if stream is None:
        return None
    size = None if stream.payload is None else len(stream.payload)
    said = stream.lease, stream.confirmed, stream.place, stream.attempts, size, stream.fingerprint
    return stream.serial, stream.expires, len(stream.channels), *said


def _body(stream: Stream) -> bytes:
    fields = dataclasses.asdict(stream)
    del fields["serial"]
    return pack(fields)


def _load(database: sqlite3.Connection) -> tuple[Fences, list[str], KeptTotals]:
    """The file's streams, the refs of expired ones, and the totals. Runs in the journal's thread."""
    fences, expired, now = Fences(), [], time.time()
    for number, ref, expires in database.execute("SELECT * FROM fences ORDER BY id"):
        if not fences.made:
            fences.dropped = number
        fences.restore(ref, expires)
    for ref, body in database.execute("SELECT * FROM streams"):
        try:
            stream = Stream(serial=0, **unpack(body))
            stream.place = (stream.place[0], stream.place[1]) if stream.place else None
        except TypeError as error:
            raise ValueError(f"the stream of {ref} is not readable: {error}") from error
        if stream.expires > now:
            fences.restore(ref, stream)
        else:
            expired.append(ref)
    rows = database.execute("SELECT * FROM totals").fetchall()
    totals = {
        (model, version): {str(name): int(n) for name, n in unpack(body).items()} for model, version, body in rows
    }
    return fences, expired, KeptTotals(totals)
