"""Logs are read where no live worker is, and as seldom as the answer allows; the gateway's route says what is known."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from gateway.backlog import NOTHING
from protocol.errors import Unavailable
from protocol.messages import Heartbeat, InferRequest, ModelLoad, ModelState
from protocol.ports import OutRecord, Terminal
from protocol.tensors import Tensor
from protocol.transport.embedded.memory import MemoryBus
from tests.gateway.fleet import ADD_SUB, NAMES, Running, Site

TOPIC = NAMES.infer_topic("add_sub", "1")
BATCH = NAMES.batch_topic("add_sub", "1")


class CountingBus(MemoryBus):
    """Counts what is asked of it."""

    asked: collections.Counter[str]
    away = False

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        self.asked["extents"] += 1
        self.asked["topics"] += len(topics)
        if self.away:
            raise Unavailable("away")
        return await super().extents(topics)

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        self.asked["committed"] += 1
        return await super().committed(topic, group)

    async def read_record(self, topic: str, partition: int, offset: int) -> Any:
        self.asked["read_record"] += 1
        return await super().read_record(topic, partition, offset)


@pytest.fixture
async def cold(fleet: Site) -> tuple[Running, CountingBus]:
    """A gateway of a fleet whose only worker has announced its model and gone."""
    worker = await fleet.worker(ADD_SUB)
    await worker.stop()
    transport = await fleet.transport()
    await transport.directory.forget("w1")
    bus = CountingBus(fleet.broker)
    bus.asked = collections.Counter()
    await bus.open()
    fleet.stack.push_async_callback(bus.close)
    gateway = await fleet.gateway()
    reader = gateway.gateway.service.scaling._reader
    reader._bus = reader._records.bus = bus
    return gateway, bus


def request(rows: int, published: float) -> OutRecord:
    inputs = tuple(Tensor(name, "FP32", (rows, 16), bytes(64 * rows)) for name in ("INPUT0", "INPUT1"))
    message = InferRequest("r", "add_sub", "1", inputs, published=published)
    return OutRecord(b"", (), None, published, message, 100)


async def scaling(gateway: Running, **asked: str) -> Any:
    answer = await gateway.get("/v2/fleet/scaling", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_backlog_without_workers_is_told_with_rows_and_age(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    clock = gateway.gateway.service.clock
    await bus.publish(TOPIC, [request(4, clock() - 30.0)] * 3, partition=0)
    await bus.publish(TOPIC, [OutRecord(b"not a request")], partition=1)
    whole = await scaling(gateway)
    assert [(entry["model"], entry["version"], entry["lane"]) for entry in whole["models"]] == [
        ("add_sub", "1", "interactive"), ("add_sub", "1", "batch"),
    ]  # fmt: skip
    entry = whole["models"][0]
    assert (entry["backlog_requests"], entry["backlog_rows"], entry["ready_workers"], entry["wanted_workers"]) == (
        4,
        13,
        0,
        1,
    )
    assert 30_000 <= entry["oldest_age_ms"] < 60_000
    assert (entry["rows_per_second"], entry["time_to_drain_ms"]) == (0, None)
    one = await scaling(gateway, model="add_sub", version="01")
    assert (one["backlog_requests"], one["wanted_workers"], one["version"]) == (4, 1, "01")


async def test_requests_that_nobody_waits_for_wake_no_worker(cold: tuple[Running, CountingBus]) -> None:
    """One is cancelled, one has expired, one is answered; the claimed one needs its answer although its deadline has passed."""
    gateway, bus = cold
    service = gateway.gateway.service
    now, view = service.clock(), service.scaling
    accepted = await gateway.infer(prefer="respond-async")
    assert accepted.status_code == 202
    await view.refresh(0.0)
    assert view.lanes("add_sub")[0].backlog.requests == 1
    cancelled = await gateway.delete(accepted.headers["location"])
    assert cancelled.status_code == 200
    await view.refresh(0.0)
    assert view.lanes("add_sub")[0].backlog == NOTHING
    for number, (deadline, claimed) in enumerate(((now - 1.0, False), (now - 1.0, True), (now + 60.0, False))):
        record = request(2, now - 5.0)
        assert record.request is not None
        record.request = dataclasses.replace(record.request, id=f"r{number}", deadline=deadline, claimed=claimed)
        await bus.publish(TOPIC, [record], partition=2)
    await view.refresh(0.0)
    backlog = view.lanes("add_sub")[0].backlog
    assert (backlog.requests, backlog.rows) == (2, 4)
    await service.transport.results.finish([Terminal("r2", b"x", "", 60.0)])
    await view.refresh(0.0)
    assert view.lanes("add_sub")[0].backlog.requests == 1


async def test_of_many_records_the_oldest_of_some_partitions_are_looked_at(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    view = gateway.gateway.service.scaling
    for partition in range(4):
        await bus.publish(TOPIC, [request(3, 50.0 + partition)] * 20, partition=partition)
    await view.refresh(0.0)
    backlog = view.lanes("add_sub")[0].backlog
    assert (backlog.requests, backlog.rows) == (80, 240)
    assert bus.asked["read_record"] == 4


async def test_nothing_new_costs_one_question_for_all_topics(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    view = gateway.gateway.service.scaling
    await bus.publish(TOPIC, [request(1, 0.0)], partition=0)
    for _ in range(5):
        await view.refresh(0.0)
    assert bus.asked == {"extents": 5, "topics": 5 + 1, "committed": 1, "read_record": 1}
    await bus.publish(TOPIC, [request(1, 0.0)], partition=0)
    await view.refresh(0.0)
    await view.refresh(60.0)
    assert (bus.asked["committed"], bus.asked["read_record"], bus.asked["extents"]) == (2, 2, 6)


async def test_a_topic_whose_partitions_all_have_workers_is_not_read(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    service = gateway.gateway.service
    load = ModelLoad("add_sub", "1", ModelState.READY, (0, 1, 2, 3), batch_partitions=(0, 1, 2, 3))
    await service.transport.directory.beat(Heartbeat("w1", "1", "h", 1, service.clock(), (load,)))
    service.scaling.observe(await service.transport.directory.workers())
    await service.scaling.refresh(0.0)
    assert bus.asked["topics"] == 0


async def test_what_waited_before_its_worker_came_counts_no_more_when_partitions_move(
    cold: tuple[Running, CountingBus],
) -> None:
    """A partition has no owner for a moment of a rebalance. What its log said before the last worker drained it is no backlog."""
    gateway, bus = cold
    service = gateway.gateway.service
    view = service.scaling

    async def owns(*partitions: int) -> None:
        load = ModelLoad("add_sub", "1", ModelState.READY, partitions, batch_partitions=(0, 1, 2, 3), unanswered=0)
        await service.transport.directory.beat(Heartbeat("w1", "1", "h", 1, service.clock(), (load,)))
        view.observe(await service.transport.directory.workers())

    for partition in range(4):
        await bus.publish(TOPIC, [request(1, service.clock())] * 50, partition=partition)
    await view.refresh(0.0)
    assert view.lanes("add_sub")[0].backlog.requests == 200
    await owns(0, 1, 2)
    await view.refresh(0.0)
    assert view.lanes("add_sub")[0].backlog.requests == 50
    await owns(0, 1)
    view.update()
    assert view.lanes("add_sub")[0].backlog.requests == 50, "partition 2 was not read since it had a worker"
    await owns(0, 1, 2, 3)
    await view.refresh(0.0)
    await owns(0, 1)
    view.update()
    assert view.lanes("add_sub")[0].backlog == NOTHING


async def test_a_batch_topic_is_read_once_it_is_there(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    view = gateway.gateway.service.scaling
    await view.refresh(0.0)
    await bus.ensure_topic(BATCH, 2)
    await bus.publish(BATCH, [request(1000, 1.0)] * 2, partition=1)
    view.fleet.woken(BATCH, gateway.gateway.service.clock())
    await view.refresh(0.0)
    lane = view.lanes("add_sub")[1]
    assert (lane.backlog.requests, lane.backlog.rows) == (2, 2000)


async def test_while_no_broker_answers_the_route_says_so_and_the_gauges_stay(cold: tuple[Running, CountingBus]) -> None:
    gateway, bus = cold
    await bus.publish(TOPIC, [request(2, 0.0)], partition=0)
    await gateway.gateway.service.scaling.refresh(0.0)
    bus.away = True
    gateway.gateway.service.scaling._read_at = float("-inf")
    assert (await gateway.get("/v2/fleet/scaling")).status_code == 503
    assert gateway.metric('penstock_backlog_rows{lane="interactive",model="add_sub",version="1"}') == 2.0


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"model": "other"}, 404), ({"model": "add_sub", "version": "9"}, 404), ({"version": "1"}, 400),
     ({"model": "add_sub", "version": "x"}, 400), ({"model": "add_sub", "version": "²"}, 400), ({"model": "\x00"}, 404)],
)  # fmt: skip
async def test_what_does_not_exist_is_refused(fleet: Site, asked: dict[str, str], status: int) -> None:
    await fleet.worker(ADD_SUB)
    gateway = await fleet.gateway()
    answer = await gateway.get("/v2/fleet/scaling", params=asked)
    assert answer.status_code == status
    assert answer.json()["error"]
