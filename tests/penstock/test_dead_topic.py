"""The dead topics on a bus: the embedded one, and Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from penstock.dead import topic
from penstock.dead.redriving import Redrive, plan_redrives
from protocol.naming import Names
from protocol.ports import Bus, Record
from protocol.transport import open_transport
from protocol.transport.embedded.memory import MemoryBus
from protocol.transport.settings import TransportSettings
from tests.penstock.dead_letters import evidence, publish_dead_letter, request


@contextlib.asynccontextmanager
async def opened(bus: Bus) -> AsyncIterator[Bus]:
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


async def published(bus: Bus, name: str, count: int) -> list[Record]:
    records: list[Record] = []
    stream = bus.follow(name)
    async for some in stream:
        records += some
        if len(records) >= count:
            break
    await stream.aclose()  # type: ignore[attr-defined]  # every bus has a generator
    return records


async def redriven_twice(bus: Bus, names: Names) -> None:
    """Two letters, one of them garbage, are sent again, and nothing is sent a second time unless requested."""
    infer = names.infer_topic("m", "1")
    value, headers = request("r1", principal="bob", deadline=1.0, priority=3)
    await bus.ensure_topic(infer, 2)
    await publish_dead_letter(bus, names, value, headers, evidence(topic=infer, offset=7), key=b"\x00key")
    await publish_dead_letter(
        bus, names, b"\xc1garbage", (("x", b"\xff"),), evidence("undecodable", topic=infer, offset=8)
    )

    assert await topic.models_announced(bus, names) == ["m"]
    found = await topic.read_dead_topic(bus, names, "m")
    made = plan_redrives(found.letters, found.letters, found.notes, names, again=False)
    reported: list[topic.Sent] = []
    sent = await topic.send_again(bus, names, made.redrives, 0, reported.append)
    records = await published(bus, infer, 2)

    assert reported == sent
    assert [record.value for record in records] == [value, b"\xc1garbage"]
    assert [record.key for record in records] == [b"\x00key", None]
    assert {record.partition for record in records} == {0}
    kept = [pair for pair in headers if pair[0] not in ("id", "deadline")]
    assert [pair for pair in records[0].headers if pair[0] not in ("id", "redrive-of")] == kept
    assert dict(records[0].headers)["id"] == b"r1~r1"
    assert dict(records[0].headers)["redrive-of"] == b"r1"
    assert dict(records[1].headers)["x"] == b"\xff"
    assert dict(records[1].headers)["id"].startswith(f"{infer}-0-8-".encode())

    after = await topic.read_dead_topic(bus, names, "m")
    assert len(after.letters) == 2
    assert plan_redrives(after.letters, after.letters, after.notes, names, again=False).redrives == ()
    more = plan_redrives(after.letters, after.letters, after.notes, names, again=True).redrives
    assert more[0].id == "r1~r2"


async def test_letters_of_the_embedded_bus_are_sent_again_byte_for_byte() -> None:
    async with opened(MemoryBus()) as bus:
        await redriven_twice(bus, Names("penstock"))


async def test_letters_of_kafka_are_sent_again_byte_for_byte(kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    settings = TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix)
    async with opened(open_transport(settings).bus) as bus:
        assert await topic.models_announced(bus, settings.names) == []
        await redriven_twice(bus, settings.names)


async def test_there_are_no_letters_where_there_is_no_dead_topic() -> None:
    async with opened(MemoryBus()) as bus:
        assert (await topic.read_dead_topic(bus, Names(), "m")).letters == []


async def test_a_letter_that_cannot_be_sent_is_reported_and_does_not_stop_the_others() -> None:
    names = Names()
    async with opened(MemoryBus()) as bus:
        await bus.ensure_topic(names.infer_topic("m", "2"), 1)
        for number in (1, 2):
            value, headers = request(f"r{number}")
            await publish_dead_letter(bus, names, value, headers, evidence(topic=names.infer_topic("m", str(number))))
        letters = (await topic.read_dead_topic(bus, names, "m")).letters
        gone, there = await topic.send_again(bus, names, [Redrive(x, f"{x.id}~r1") for x in letters], 0, lambda _: None)

        assert (gone.published, "no topic" in gone.problem) == (None, True)
        assert there.problem == ""
        assert [note.id for note in (await topic.read_dead_topic(bus, names, "m")).notes] == ["r2~r1"]


async def test_a_partition_that_is_gone_is_not_missed() -> None:
    names, more = Names(), dict(evidence())
    async with opened(MemoryBus()) as bus:
        await bus.ensure_topic(names.infer_topic("m", "1"), 1)
        value, headers = request()
        await publish_dead_letter(bus, names, value, headers, tuple((more | {"dead-partition": b"9"}).items()))
        letters = (await topic.read_dead_topic(bus, names, "m")).letters
        (sent,) = await topic.send_again(bus, names, [Redrive(letters[0], "r1~r1")], 0, lambda _: None)

        assert sent.published is not None
        assert sent.published.partition == 0
