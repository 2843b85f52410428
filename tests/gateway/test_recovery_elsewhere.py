"""The record at a lost request's place may be another one: a topic was deleted and created again, or a log was truncated."""

from __future__ import annotations

import asyncio

import pytest

from gateway.calls.pending import Call
from gateway.calls.recovery import read_request
from protocol.codec import record_bytes
from protocol.ports import OutRecord
from tests.gateway.fleet import Running, Site, add_sub, until


async def two_calls(fleet: Site, gateway: Running) -> tuple[list[asyncio.Task[int]], list[Call]]:
    """Two calls that wait, with their records in the log."""

    async def status(value: float) -> int:
        return (await gateway.infer(add_sub(value))).status_code

    tasks = [asyncio.ensure_future(status(value)) for value in (1.0, 2.0)]
    pending = gateway.gateway.service.completion.pending
    await until(lambda: len([call for call in pending if call.place is not None]) == 2)
    return tasks, list(pending)


async def test_only_the_record_of_the_very_request_is_read(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    tasks, (one, other) = await two_calls(fleet, gateway)
    assert one.place is not None
    assert other.place is not None
    service = gateway.gateway.service

    record, request = await read_request(service, one.topic, one.place, one.ref)
    assert record is not None
    assert request is not None
    assert await read_request(service, one.topic, other.place, one.ref) == (None, None)
    worker.open.set()
    assert await asyncio.gather(*tasks) == [200, 200]


async def test_what_stands_at_the_place_of_a_lost_request_is_not_run_for_it(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(recover_after=0.0, offsets_max_age=0.0, sweep_after=0.05)
    tasks, (one, other) = await two_calls(fleet, gateway)
    topic = fleet.broker.topics[worker.topic]
    assert other.place is not None
    one.place = other.place
    topic.groups[worker.topic].committed.update({number: log.end for number, log in enumerate(topic.logs)})

    await until(lambda: one.left)
    assert await tasks[0] == 410
    worker.open.set()
    assert await tasks[1] == 200


@pytest.mark.parametrize(
    "headers",
    [[], [("id", b"")], [("id", b"x" * 300)], [("id", b"\xff")], [("id", b"ok"), ("principal", b"p" * 300)]],
    ids=["no id", "empty", "too long", "not text", "principal"],
)
async def test_a_strangers_record_at_the_place_of_a_lost_request_is_no_trouble(
    fleet: Site, headers: list[tuple[str, bytes]]
) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    tasks, (one, other) = await two_calls(fleet, gateway)
    service = gateway.gateway.service
    assert one.place is not None
    mine = await service.transport.bus.read_record(one.topic, *one.place)
    assert mine is not None
    published = await service.transport.bus.publish(one.topic, [OutRecord(record_bytes(mine)[0], headers)])

    place = (published.partition, published.offset)
    assert await read_request(service, one.topic, place, one.ref) == (None, None)
    assert await read_request(service, one.topic, (0, 10**9), other.ref) == (None, None)
    for task in tasks:
        task.cancel()


async def test_the_same_id_of_another_principal_is_another_request(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    tasks, (one, _) = await two_calls(fleet, gateway)
    service = gateway.gateway.service
    assert one.place is not None
    mine = await service.transport.bus.read_record(one.topic, *one.place)
    assert mine is not None
    value, headers = record_bytes(mine)
    theirs = [*headers, ("principal", b"key")]
    published = await service.transport.bus.publish(one.topic, [OutRecord(value, theirs)])

    place = (published.partition, published.offset)
    assert await read_request(service, one.topic, place, one.ref) == (None, None)
    assert (await read_request(service, one.topic, place, f"key/{one.ref}"))[0] is not None
    for task in tasks:
        task.cancel()
