"""The publisher on a real bus; `test_publisher` is about groups that are held back."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from gateway.calls.pending import Call
from gateway.calls.publisher import Publisher
from gateway.metrics import GatewayMetrics
from protocol.errors import Code, FleetError, Unavailable
from protocol.ports import OutRecord
from protocol.transport.embedded.memory import MemoryBus


class Site:
    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.metrics = GatewayMetrics(CollectorRegistry())
        self.failed: list[tuple[str, FleetError]] = []
        self.publisher = Publisher(bus, self.metrics, lambda call, error: self.failed.append((call.ref, error)))

    async def values(self, topic: str) -> dict[int, list[bytes]]:
        """The values in each of the topic's partitions."""
        found: dict[int, list[bytes]] = {}
        for partition in range(4):
            offset = 0
            while (record := await self.bus.read_record(topic, partition, offset)) is not None:
                found.setdefault(partition, []).append(bytes(record.value))
                offset += 1
        return found


@pytest.fixture
async def site() -> Site:
    bus = MemoryBus()
    await bus.open()
    for topic in ("a", "b"):
        await bus.ensure_topic(topic, 4)
    return Site(bus)


def call(ref: str) -> Call:
    return Call(ref, "a", "m", "1", "", 1, 0.0, 0.0, lambda reply: None)


async def test_a_turn_of_the_loop_is_one_group_per_topic(site: Site) -> None:
    for number in range(5):
        site.publisher.enqueue("a", OutRecord(b"%d" % number), call("x"))
        site.publisher.enqueue("b", OutRecord(b"b%d" % number), call("x"))
    await site.publisher.close()

    assert list((await site.values("a")).values()) == [[b"0", b"1", b"2", b"3", b"4"]]
    assert list((await site.values("b")).values()) == [[b"b0", b"b1", b"b2", b"b3", b"b4"]]
    assert dict(site.metrics.publish_records.cumulative())["+Inf"] == 2


async def test_the_next_turn_is_the_next_partition(site: Site) -> None:
    for number in range(3):
        site.publisher.enqueue("a", OutRecord(b"%d" % number), call("x"))
        await site.publisher.close()

    assert sorted((await site.values("a")).values()) == [[b"0"], [b"1"], [b"2"]]


async def test_a_group_is_closed_before_it_grows_too_large(site: Site) -> None:
    for _ in range(5):
        site.publisher.enqueue("a", OutRecord(bytes(400_000)), call("x"))
    await site.publisher.close()

    assert sorted(len(values) for values in (await site.values("a")).values()) == [1, 2, 2]


async def test_everyone_is_told_his_place(site: Site) -> None:
    site.publisher.enqueue("a", OutRecord(b"first"), call("x"))
    places = await asyncio.gather(
        *[site.publisher.publish_and_wait("a", OutRecord(b"%d" % number)) for number in range(3)]
    )

    assert [(await site.bus.read_record("a", *place)).value for place in places] == [b"0", b"1", b"2"]  # type: ignore[union-attr]


async def test_a_failure_is_told_to_everyone_in_the_group(site: Site) -> None:
    await site.bus.close()
    site.publisher.enqueue("a", OutRecord(b""), call("one"))
    site.publisher.enqueue("a", OutRecord(b""), call("two"))
    with pytest.raises(Unavailable, match="not accepted"):
        await site.publisher.publish_and_wait("a", OutRecord(b""))

    assert [ref for ref, _ in site.failed] == ["one", "two"]
    assert {error.code for _, error in site.failed} == {Code.UNAVAILABLE}


async def test_a_topic_that_is_not_there_fails_only_its_own_group(site: Site) -> None:
    site.publisher.enqueue("nowhere", OutRecord(b""), call("lost"))
    site.publisher.enqueue("a", OutRecord(b"x"), call("fine"))
    await site.publisher.close()

    assert [ref for ref, _ in site.failed] == ["lost"]
    assert list((await site.values("a")).values()) == [[b"x"]]
