"""Requests past aiokafka's tasks: which ones are, and which are left to aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.transport.kafka.aiokafka_exchange import Frames
from protocol.transport.kafka.aiokafka_produce import LONE
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.kafka.consumer import KafkaConsumer
from tests.transport.bus_site import Owner, numbered, take, values
from tests.transport.test_kafka import KafkaSite


class Received:
    """Stands for a connection: keeps the frames that it is given."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed = False
        self.malformed = b"malformed"

    def connected(self) -> bool:
        return not self.closed

    def close(self, **_: Any) -> None:
        self.closed = True

    def _handle_frame(self, frame: bytes) -> None:
        if frame == self.malformed:
            raise ValueError("malformed")
        self.frames.append(frame)


FRAMES = [b"", b"first", b"x" * 300, b"\0\0\0\4"]
STREAM = b"".join(len(frame).to_bytes(4) + frame for frame in FRAMES)


class TestFrames:
    @pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 64, 310, len(STREAM)])
    def test_however_they_arrive(self, piece: int) -> None:
        received = Received()
        frames = Frames(received, None)
        for at in range(0, len(STREAM), piece):
            frames.data_received(STREAM[at : at + piece])
        assert received.frames == FRAMES

    @pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff", (5).to_bytes(4) + b"first"])
    def test_what_cannot_be_read_closes_the_connection(self, bad: bytes) -> None:
        received = Received()
        received.malformed = b"first"
        Frames(received, None).data_received((1).to_bytes(4) + b"a" + bad + (1).to_bytes(4) + b"b")
        assert received.closed
        assert received.frames == [b"a"]


@pytest.mark.servers
class TestOnABroker:
    @pytest.fixture
    async def site(self, kafka_bootstrap: str, prefix: str) -> AsyncIterator[KafkaSite]:
        site = KafkaSite(kafka_bootstrap, prefix)
        yield site
        await site.close()

    async def test_groups_side_by_side_keep_their_order(self, site: KafkaSite) -> None:
        """Some are sent at once, those behind them by aiokafka's queue."""
        topic, bus = site.topic("beside"), await site.connect()
        await bus.ensure_topic(topic, 1)
        sizes = [*[1] * (LONE + 2), 3] * 3  # aiokafka's queue loses patience with many more
        groups = [numbered(size, sum(sizes[:at])) for at, size in enumerate(sizes)]
        published = await asyncio.gather(*(bus.publish(topic, group) for group in groups))
        assert [each.offset for each in published] == [sum(sizes[:at]) for at in range(len(sizes))]
        owner = Owner()
        consumer = await bus.subscribe(topic, topic, "w0", owner)
        await site.until(lambda: len(owner.owned) == 1, consumer)
        assert values(await take(consumer, sum(sizes))) == [record.value for group in groups for record in group]

    async def test_after_some_lone_records_the_next_is_sent_at_once(self, site: KafkaSite) -> None:
        topic, bus = site.topic("lone"), await site.connect()
        await bus.ensure_topic(topic, 1)
        sent_at_once = []
        for size in (2, *[1] * (LONE + 1), 2, *[1] * LONE):
            publishing = asyncio.ensure_future(bus.publish(topic, numbered(size)))
            await asyncio.sleep(0)
            sent_at_once.append(_in_flight(bus))
            await publishing
        rather_not = [False] * LONE
        assert sent_at_once == [*rather_not, True, True, *rather_not, True]

    async def test_a_cancelled_caller_leaves_the_partition_in_order(self, site: KafkaSite) -> None:
        topic, bus = site.topic("left"), await site.connect()
        await bus.ensure_topic(topic, 1)
        for at in range(LONE):
            await bus.publish(topic, numbered(1, at))
        leaving = asyncio.ensure_future(bus.publish(topic, numbered(1, LONE)))
        await asyncio.sleep(0)
        assert _in_flight(bus)
        leaving.cancel()
        assert (await bus.publish(topic, numbered(1, LONE + 1))).offset == LONE + 1

    async def test_a_usual_fetch_starts_no_task(self, site: KafkaSite) -> None:
        topic, bus = site.topic("usual"), await site.connect()
        await bus.ensure_topic(topic, 2)
        owner = Owner()
        consumer = await bus.subscribe(topic, topic, "w0", owner)
        await site.until(lambda: len(owner.owned) == 2, consumer)
        assert isinstance(consumer, KafkaConsumer)
        await bus.publish(topic, numbered(1))
        await take(consumer, 1)
        assert consumer._inner is not None
        (fetch,) = consumer._inner._fetcher._pending_tasks
        for at in range(5):
            await bus.publish(topic, numbered(1, at))
            await take(consumer, 1)
        assert consumer._inner._fetcher._pending_tasks == {fetch}


def _in_flight(bus: KafkaBus) -> bool:
    producer = bus._producer._producer
    return producer is not None and bool(producer._sender._in_flight)
