"""Boundary cases: the last part of many, the other topic, the other of two times, bytes counted before."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.admission.admission import Admission, Limits
from gateway.calls.positions import Positions
from gateway.durable.claims import Claims
from gateway.durable.requests import Requests
from protocol.ports import OutRecord, Terminal
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus
from tests.gateway.fleet import Running, Site, add_sub, until
from tests.gateway.test_dispatcher import payload


async def calls_that_wait(gateway: Running, count: int) -> list[asyncio.Task[int]]:
    async def status() -> int:
        return (await gateway.infer()).status_code

    tasks = [asyncio.ensure_future(status()) for _ in range(count)]
    await until(lambda: len(gateway.gateway.service.completion.pending) == count)
    return tasks


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_a_sweep_of_many_looks_up_the_last_of_them(fleet: Site, count: int) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(sweep_batch=2, sweep_after=1000.0)
    tasks = await calls_that_wait(gateway, count)
    calls = list(gateway.gateway.service.completion.pending)
    await (await fleet.transport()).results.finish([Terminal(call.ref, payload(), "") for call in calls])
    for call in calls:
        call.sweep_at = 0.0

    await gateway.gateway._dispatcher.sweep()

    assert all(call.left for call in calls)
    assert await asyncio.gather(*tasks) == [200] * count


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
async def test_every_answer_that_was_delivered_is_trimmed_however_many(fleet: Site, count: int) -> None:
    gateway = await fleet.gateway(trim_batch=2)
    store = (await fleet.transport()).results
    refs = [f"-:{number}" for number in range(count)]
    await store.finish([Terminal(ref, payload(), "") for ref in refs])
    dispatcher = gateway.gateway._dispatcher
    dispatcher._trims += refs

    await dispatcher.trim()

    assert [state.payload for state in await store.look(refs) if state is not None] == [b""] * count


async def test_a_cancellation_means_the_run_that_was_accepted_and_none_that_comes_later(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    before = time.time()
    (task,) = await calls_that_wait(gateway, 1)
    task.cancel()
    await until(lambda: bool(worker.cancelled))
    (until_when,) = worker.cancelled.values()
    assert before - 1 <= until_when <= time.time()


async def test_a_claim_is_held_for_its_lease_and_kept_for_the_results_time(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(claim_lease=7.0, result_ttl=1000.0)
    waiting = asyncio.ensure_future(gateway.infer(add_sub(), idempotency_key="k"))
    streams = fleet.server.fences.streams
    await until(lambda: any(stream.confirmed for stream in streams.values()))
    (stream,) = streams.values()
    now = time.time()
    assert 0 < stream.lease - now <= 7
    assert 900 < stream.expires - now <= 1000
    worker.open.set()
    assert (await waiting).status_code == 200


class _Nobody:
    def assigned(self, epoch: int, partitions: object) -> None: ...

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: object) -> None: ...


async def _bus_with(topics: dict[str, int]) -> MemoryBus:
    """A bus with topics of one partition, whose groups have committed these offsets."""
    bus = MemoryBus(MemoryBroker())
    await bus.open()
    for topic, committed in topics.items():
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, [OutRecord(b"", ())] * 9)
        await _commit(bus, topic, committed)
    return bus


async def _commit(bus: MemoryBus, topic: str, offset: int) -> None:
    consumer = await bus.subscribe(topic, topic, "m", _Nobody())
    await consumer.commit({0: offset})


async def test_committed_offsets_are_those_of_their_own_topic() -> None:
    bus = await _bus_with({"one": 3, "other": 7})
    positions = Positions(bus)
    assert [await positions.committed(topic) for topic in ("one", "other", "one")] == [{0: 3}, {0: 7}, {0: 3}]
    await bus.close()


async def test_committed_offsets_are_asked_for_again_once_they_are_old() -> None:
    bus = await _bus_with({"one": 3})
    cached, uncached = Positions(bus), Positions(bus, max_age=0.0)
    for positions in (cached, uncached):
        assert await positions.committed("one") == {0: 3}
    await _commit(bus, "one", 5)
    assert await cached.committed("one") == {0: 3}
    assert await uncached.committed("one") == {0: 5}
    await bus.close()


def test_the_rate_of_answers_is_that_of_the_last_seconds() -> None:
    admission = Admission(Limits(100, 10_000, 100))
    admission.measure(0.0)
    for second in range(1, 4):
        for _ in range(10):
            admission.admit("t", 1)
            admission.leave("t", 1)
        admission.measure(float(second))
    assert admission.retry_after(100) == 10
    for second in range(4, 12):
        admission.measure(float(second))
    assert admission.retry_after(100) == 60


async def test_a_long_poll_that_is_given_up_leaves_nobody_waiting(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    service = gateway.gateway.service
    answer = await gateway.infer(add_sub(), prefer="respond-async")
    requests = Requests(service, Claims(service))
    poll = asyncio.ensure_future(requests.find(answer.headers["penstock-request-id"], "-", 30.0))
    await until(lambda: len(service.completion.pending) == 1)
    poll.cancel()
    await asyncio.wait([poll])
    assert len(service.completion.pending) == 0
