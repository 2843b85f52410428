"""The embedded broker with a SQLite file under it: topics, records and commits survive the process.

Invariants:
- a record gets its offset when it is submitted and becomes visible when it is on disk, both in the same order;
- the file holds at least the records that memory holds; rows that are no longer needed are deleted by the commit that drops them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from protocol.codec import as_bytes
from protocol.frames import pack, unpack
from protocol.ports import OutRecord, Published, Record
from protocol.transport.embedded.broker import RETENTION, MemoryBroker
from protocol.transport.embedded.consumer import Topic
from protocol.transport.embedded.groups import Group
from protocol.transport.embedded.partition_log import PartitionLog
from protocol.transport.embedded.sqlite_journal import SqliteJournal, Statement

_SCHEMA: Final = (
    """CREATE TABLE logs (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    compacted INTEGER NOT NULL, start INTEGER NOT NULL, UNIQUE (topic, partition))""",
    """CREATE TABLE records (id INTEGER PRIMARY KEY, timestamp REAL NOT NULL, key BLOB, headers BLOB NOT NULL,
    value BLOB NOT NULL)""",
    """CREATE TABLE commits (consumers TEXT, log INTEGER, next INTEGER NOT NULL,
    PRIMARY KEY (consumers, log)) WITHOUT ROWID""",
)
_VERSION: Final = 1
_OFFSET_BITS: Final = 40
"""A record's row is `log << 40 | offset`: every partition is appended to in one place and pruned by one range."""
_OFFSETS: Final = (1 << _OFFSET_BITS) - 1
_ADD_LOG: Final = "INSERT INTO logs VALUES (?, ?, ?, ?, 0)"
_ADD_RECORD: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"
_ADD_GROUP: Final = "INSERT OR IGNORE INTO commits VALUES (?, ?, ?)"
_COMMIT: Final = "INSERT OR REPLACE INTO commits VALUES (?, ?, ?)"
_MOVE_START: Final = "UPDATE logs SET start = max(start, ?) WHERE id = ?"
_PRUNE: Final = "DELETE FROM records WHERE id >= ? AND id < ?"
_DROP: Final = "DELETE FROM records WHERE id = ?"


@dataclasses.dataclass(slots=True)
class _Saved:
    topics: dict[str, Topic] = dataclasses.field(default_factory=dict)
    log_ids: dict[str, list[int]] = dataclasses.field(default_factory=dict)


class SqliteBroker(MemoryBroker):
    """An embedded broker that is durable in one file; opened by its first bus, closed by its last.

    Args:
        path: of the file.
        session_timeout, retention: see `MemoryBroker`.
        fsync: every acknowledged record survives a power loss, not only a kill.
    """

    def __init__(
        self, path: Path, session_timeout: float = 10.0, *, fsync: bool = False, retention: int = RETENTION
    ) -> None:
        super().__init__(session_timeout, retention=retention)
        self.journal = SqliteJournal(path, _SCHEMA, _VERSION, fsync=fsync)
        self.journal.on_failure = self._forget_reservations
        self._lock = asyncio.Lock()
        self._log_ids: dict[str, list[int]] = {}
        self._ends: dict[int, int] = {}

    async def open(self) -> None:
        """Count one more bus; the first one reads the file. Raises ConfigError as `SqliteJournal.open` does."""
        async with self._lock:
            if not self._users:
                saved = await self.journal.open(self._load)
                self.topics, self._log_ids = saved.topics, saved.log_ids
                self._ends.clear()
                self._size = sum(log.size for topic in self.topics.values() if topic.groups for log in topic.logs)
            await super().open()

    async def close(self) -> None:
        """Count one bus fewer; the last one writes pending operations and closes the file."""
        async with self._lock:
            await super().close()
            if not self._users:
                await self.journal.close()

    async def healthy(self) -> bool:
        """Whether the file can be written."""
        return await self.journal.healthy()

    async def ensure_topic(self, name: str, partitions: int, *, compacted: bool) -> int:
        """Create the topic if it does not exist; returns its number of partitions."""
        async with self._lock:
            if name not in self.topics:
                first = 1 + max((ids[-1] for ids in self._log_ids.values()), default=0)
                ids = list(range(first, first + partitions))
                await self.journal.submit([(_ADD_LOG, [(log, name, p, compacted) for p, log in enumerate(ids)])])
                self._log_ids[name] = ids
            return await super().ensure_topic(name, partitions, compacted=compacted)

    async def raise_partitions(self, name: str, partitions: int) -> int:
        """Give the topic at least so many partitions once they are on disk; returns how many it has then."""
        async with self._lock:
            topic, ids = self.topic(name), self._log_ids[name]
            if len(ids) < partitions:
                first = 1 + max(known[-1] for known in self._log_ids.values())
                added = list(range(first, first + partitions - len(ids)))
                rows = [(log, name, len(ids) + n, topic.compacted) for n, log in enumerate(added)]
                offsets = [(group_id, log, 0) for group_id in topic.groups for log in added]
                await self.journal.submit([(_ADD_LOG, rows), (_ADD_GROUP, offsets)])
                ids += added
            return self.apply_raise(topic, partitions)

    async def append(self, topic: Topic, partition: int, records: Sequence[OutRecord]) -> Published:
        """Add records once they are on disk."""
        self.check_room()
        records = as_bytes(records)
        now = time.time()
        log = self._log_ids[topic.name][partition]
        first = log << _OFFSET_BITS | self._ends.get(log, topic.logs[partition].end)
        self._ends[log] = (first & _OFFSETS) + len(records)
        rows = [
            (first + n, record.timestamp or now, record.key, pack(list(record.headers)), record.value)
            for n, record in enumerate(records)
        ]
        apply = functools.partial(self.apply_append, topic, partition, records, now)
        return await self.journal.submit([(_ADD_RECORD, rows)], apply)

    async def commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """Commit a group's offsets on disk; records that every group has committed are deleted."""
        commits: list[tuple[str, int, int]] = []
        prune: list[tuple[int, int]] = []
        starts: list[tuple[int, int]] = []
        for partition, asked in offsets.items():
            log = self._log_ids[topic.name][partition]
            offset = min(asked, topic.logs[partition].end)
            commits.append((group_id, log, offset))
            others = [group.committed.get(partition, 0) for name, group in topic.groups.items() if name != group_id]
            floor = min([offset, *others])
            if floor > topic.logs[partition].start and not topic.compacted:
                prune.append((log << _OFFSET_BITS, log << _OFFSET_BITS | floor))
                starts.append((floor, log))
        apply = functools.partial(self.apply_commit, topic, group_id, offsets)
        await self.journal.submit([(_COMMIT, commits), (_PRUNE, prune), (_MOVE_START, starts)], apply)

    async def add_group(self, topic: Topic, group_id: str) -> Group:
        """The group, created at its first use."""
        if group_id not in topic.groups:
            rows = [(group_id, log, topic.logs[p].start) for p, log in enumerate(self._log_ids[topic.name])]
            await self.journal.submit([(_ADD_GROUP, rows)])
        return await super().add_group(topic, group_id)

    def pruned(self, topic: Topic, partition: int, offsets: Sequence[int] = ()) -> None:
        """Delete the rows as well, later."""
        log = self._log_ids[topic.name][partition]
        head, start = log << _OFFSET_BITS, topic.logs[partition].start
        statements: list[Statement] = [(_PRUNE, [(head, head | start)]), (_MOVE_START, [(start, log)])]
        if offsets:
            statements = [(_DROP, [(head | offset,) for offset in offsets])]
        # If this fails, the rows are dropped after the next start.
        self.journal.submit(statements).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _forget_reservations(self) -> None:
        self._ends.clear()

    def _load(self, database: sqlite3.Connection) -> _Saved:
        """Everything in the file. Runs in the journal's thread."""
        saved = _Saved()
        places: dict[int, tuple[Topic, int]] = {}
        for log, name, partition, compacted, start in database.execute("SELECT * FROM logs ORDER BY id"):
            topic = saved.topics.setdefault(name, Topic(name, 0, compacted=bool(compacted)))
            saved.log_ids.setdefault(name, []).append(log)
            topic.add(PartitionLog(compacted=bool(compacted), start=start))
            places[log] = topic, partition
        for group_id, log, offset in database.execute("SELECT * FROM commits"):
            topic, partition = places[log]
            group = topic.groups.get(group_id) or self.new_group(topic, group_id)
            group.committed[partition] = offset
        database.executemany(
            _PRUNE, [(log << _OFFSET_BITS, log << _OFFSET_BITS | t.logs[p].start) for log, (t, p) in places.items()]
        )
        for row, timestamp, key, headers, value in database.execute("SELECT * FROM records ORDER BY id"):
            topic, partition = places[row >> _OFFSET_BITS]
            pairs = [(name, content) for name, content in unpack(headers)]
            record = Record(topic.name, partition, row & _OFFSETS, timestamp, value, pairs, key)
            topic.logs[partition].restore(record)
        return saved
