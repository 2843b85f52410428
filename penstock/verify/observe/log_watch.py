"""Samples Kafka and Redis during a run: what is committed, and which requests were finished by then.

Invariant: committed offsets are read before the log, the dead letters and the streams. A record below a commit that is unfinished
in these later reads was unfinished when it was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from penstock.verify.observe.history import CommittedRecord, History, LogRecord, OffsetSample, StreamState
from penstock.verify.observe.raw import TROUBLE, RawKafka, RawRedis, dead_record, log_record
from penstock.verify.plan.plan import MODELS
from protocol import codec
from protocol.errors import FleetError
from protocol.naming import Names

EVERY: Final = 0.4
FENCES_LAST: Final = 240.0
"""Seconds for which the fence of a plain answer is certainly kept; a stream that disappears later has expired."""


class LogWatch:
    """Fills a history with samples."""

    def __init__(
        self, log: RawKafka, store: RawRedis, names: Names, clock: Callable[[], float], history: History
    ) -> None:
        self._log = log
        self._store = store
        self._names = names
        self._clock = clock
        self._history = history
        self._records: dict[tuple[str, int, int], LogRecord] = {}
        self._dead: set[tuple[str, int, int]] = set()
        self._passed: dict[tuple[str, int], int] = {}
        self._first_end: dict[str, float] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            with contextlib.suppress(*TROUBLE):
                await self.sample()
            await asyncio.sleep(EVERY)

    async def sample(self) -> OffsetSample:
        """Take one sample. Raises the errors of `TROUBLE` while its servers are being broken."""
        async with asyncio.timeout(60):
            await self._store.mark(self._clock())
            starts = await self._log.starts()
            committed = await self._log.committed()
            await self._log.follow(self._names.dead_topic(model) for model in MODELS)
            ends = await self._log.ends()
            at = self._clock()
            self._note(await self._log.read_to(ends))
            await self._look_at_passed(committed)
        mine = {place: end for place, end in ends.items() if place.topic in self._log.topics}
        sample = OffsetSample(
            at,
            {f"{topic}/{partition}": offset for (topic, partition), offset in committed.items()},
            {f"{place.topic}/{place.partition}": end for place, end in mine.items()},
            starts,
        )
        self._history.samples.append(sample)
        return sample

    async def look_at_all(self) -> None:
        """Read the streams of all known requests, at the end of the run."""
        refs = {record.ref for record in self._records.values()} | {seen.ref for seen in self._history.seen}
        refs |= {produced.ref for produced in self._history.produced}
        wanted = sorted(refs - {""})
        at = self._clock()
        found = await self._store.look(wanted, at)
        self._history.stored += found.values()
        # A terminal entry that disappeared before its fence expired.
        self._history.stored += [
            StreamState(name, at, terminal=False)
            for name in wanted
            if name not in found and at - self._first_end.get(name, -FENCES_LAST) < FENCES_LAST
        ]
        self._history.store_bytes = await self._store.weigh()

    def _note(self, records: list[Any]) -> None:
        for record in records:
            if record.topic in self._log.topics:
                made = log_record(record, number_of)
                self._records[made.topic, made.partition, made.offset] = made
                self._history.logged.append(made)
            else:
                letter = dead_record(record)
                self._history.dead.append(letter)
                self._dead.add((letter.topic, letter.partition, letter.offset))

    async def _look_at_passed(self, committed: dict[tuple[str, int], int]) -> None:
        fresh: list[LogRecord] = []
        for (topic, partition), offset in committed.items():
            start = self._passed.get((topic, partition), 0)
            places = [(topic, partition, at) for at in range(start, offset)]
            fresh += [self._records[place] for place in places if place in self._records]
        at = self._clock()
        found = await self._store.look([record.ref for record in fresh if record.ref], at)
        self._history.stored += found.values()
        for record in fresh:
            stored = found.get(record.ref)
            terminal = stored is not None and stored.terminal
            if terminal:
                self._first_end.setdefault(record.ref, at)
            dead_lettered = (record.topic, record.partition, record.offset) in self._dead
            self._history.passed.append(
                CommittedRecord(
                    record.topic,
                    record.partition,
                    record.offset,
                    at,
                    terminal,
                    dead_lettered,
                    stored.claimed if stored else 0.0,
                )
            )
        for place, offset in committed.items():
            self._passed[place] = max(offset, self._passed.get(place, 0))


def number_of(record: Any) -> int | None:
    """The input of a record; None if it is not a request."""
    try:
        request = codec.decode_request(
            record.value, record.headers, model="?", version="1", default_id="?", timestamp=record.timestamp / 1000
        )
        (number,) = (int(t.array().reshape(-1)[0]) for t in request.inputs if t.name == "NUMBER")
    except (FleetError, ValueError, IndexError):
        return None
    return number
