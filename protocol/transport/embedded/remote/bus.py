"""The bus of a process that takes calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from protocol.codec import as_bytes
from protocol.errors import TooLarge, Unavailable, Unsupported
from protocol.frames import MAX_RECORD
from protocol.ports import Consumer, Listener, OutRecord, Published, Record
from protocol.transport.embedded.remote.calls import RemoteCalls, RemotePort


class RemoteBus(RemotePort):
    """The bus of a process that takes calls; see `protocol.ports.Bus`."""

    name = "bus"

    def __init__(self, calls: RemoteCalls) -> None:
        super().__init__(calls)
        self._follows = itertools.count(1)

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """See `Bus.ensure_topic`."""
        return int(await self._call("ensure_compacted" if compacted else "ensure_topic", topic, partitions))

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """See `Bus.raise_partitions`."""
        return int(await self._call("raise_partitions", topic, partitions))

    async def partitions(self, topic: str) -> int:
        """See `Bus.partitions`."""
        return int(await self._call("partitions", topic))

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """See `Bus.publish`."""
        records = as_bytes(records)
        for record in records:
            if record.size > MAX_RECORD:
                raise TooLarge(f"a record of {record.size} bytes is over the limit of {MAX_RECORD}")
        published: Published = await self._call("publish", topic, records, partition)
        return published

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """Not offered: groups of consumers are for workers.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("'subscribe' is not offered to the processes that take calls: workers are where the log is")

    async def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        """See `Bus.follow`. Ends when the other process closes its log."""
        number = next(self._follows)
        await self._call("follow", number, topic, start or {})
        try:
            while (records := await self._call("next", number)) is not None:
                yield records
        finally:
            if self._is_open and self._calls.is_open:
                # Nobody waits for it: this may be the end of a task.
                self._calls.call("unfollow", number).add_done_callback(_seen)

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """See `Bus.read_record`."""
        record: Record | None = await self._call("read_record", topic, partition, offset)
        return record

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """See `Bus.committed`."""
        offsets: Mapping[int, int] = await self._call("committed", topic, group)
        return offsets

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """See `Bus.extents`."""
        found: Mapping[str, Mapping[int, list[int]]] = await self._call("extents", list(topics))
        return {
            topic: {partition: (start, end) for partition, (start, end) in of.items()} for topic, of in found.items()
        }

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """Not offered, as `subscribe`.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("'evict' is not offered to the processes that take calls: workers are where the log is")

    async def healthy(self) -> bool:
        """Whether the other process is there and its log takes records."""
        try:
            return self._is_open and bool((await self._calls.call("healthy"))[0])
        except Unavailable:
            return False


def _seen(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
