"""Where a bus suite runs, and what its tests share.

A crash is a member that stops without committing (`Site.crash`); a process of its own is a bus of its own (`Site.connect`).
Nothing here sleeps for a fixed time: tests wait for a condition, or for the deadline under test.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import pytest

from protocol.errors import Unavailable
from protocol.ports import Assigned, Bus, Consumer, OutRecord, Record

POLL = 0.02


class Site(abc.ABC):
    """One broker, and topic names that no other test uses.

    Attributes:
        session_timeout: seconds after which this broker considers a silent member dead.
        time_limit: seconds that any condition may take to become true.
    """

    session_timeout: float = 10.0
    time_limit: float = 20.0

    @abc.abstractmethod
    async def connect(self) -> Bus:
        """One more process's bus on the same broker, open; closed by the site at the end of the test."""

    @abc.abstractmethod
    def topic(self, name: str) -> str:
        """A topic's full name, unique to this test."""

    async def crash(self, consumer: Consumer) -> None:
        """The member stops as if its process had been killed: nothing is committed, and the group is not informed."""
        await consumer.close()

    async def until(self, condition: Callable[[], bool], *polling: Consumer) -> None:
        """Wait for a condition while these members keep polling without taking anything."""
        async with asyncio.timeout(self.time_limit):
            while not condition():
                await asyncio.gather(*(consumer.fetch(1, POLL, ()) for consumer in polling), asyncio.sleep(POLL / 4))


class Owner:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.owned: dict[int, Assigned] = {}
        self.epochs: list[int] = []
        self.arrivals = self.room = 0
        self.taken: list[Record] = []
        self.revocations: list[set[int]] = []

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        self.epochs.append(epoch)
        self.owned.update({entry.partition: entry for entry in partitions})

    def arrived(self, take: Callable[[int], list[Record]]) -> None:
        self.arrivals += 1
        self.taken += take(self.room)

    def revoked(self, partitions: Collection[int]) -> None:
        self.revocations.append(set(partitions))
        for partition in partitions:
            del self.owned[partition]


def numbered(count: int, first: int = 0) -> list[OutRecord]:
    return [OutRecord(b"record %d" % number) for number in range(first, first + count)]


def values(records: Sequence[Record]) -> list[bytes]:
    return [bytes(record.value) for record in records]


async def take(consumer: Consumer, count: int, time_limit: float = 20.0) -> list[Record]:
    """Fetch until there are `count` records; fewer when `time_limit` runs out."""
    records: list[Record] = []
    end = time.monotonic() + time_limit
    while len(records) < count and time.monotonic() < end:
        records += await consumer.fetch(count - len(records), min(0.5, time_limit))
    return records


async def nothing_comes(consumer: Consumer, seconds: float = 0.3) -> bool:
    return not await take(consumer, 1, seconds)


async def refused_or_harmless(call: Awaitable[object]) -> None:
    """A call of a member that no longer owns: it may raise `Unavailable`, or do nothing."""
    with contextlib.suppress(Unavailable):
        await call


class BusSuite:
    """Inherit, and define the fixture `site`."""

    @pytest.fixture
    async def bus(self, site: Site) -> Bus:
        return await site.connect()

    async def joined(
        self, site: Site, bus: Bus, topic: str, member: str, partitions: int, group: str | None = None
    ) -> tuple[Consumer, Owner]:
        """A member that owns `partitions` partitions."""
        owner = Owner()
        consumer = await bus.subscribe(topic, group or topic, member, owner)
        await site.until(lambda: len(owner.owned) == partitions, consumer)
        return consumer, owner
