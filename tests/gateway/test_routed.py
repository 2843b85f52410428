"""Groups that are published to the partition of a chosen worker, and the calls that count there until they leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from gateway.calls.pending import Call
from gateway.calls.publisher import Publisher
from gateway.calls.routed import RoutedCalls
from gateway.metrics import GatewayMetrics
from gateway.routing.loads import WorkerLoad
from gateway.routing.router import Router
from protocol.errors import FleetError, NotFound, Unavailable
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.ports import OutRecord, Published
from tests.gateway.fleet import ADD_SUB, Site, add_sub, until
from tests.gateway.test_router import TOPIC, TWO, Known
from tests.gateway.turns import turns


class Log:
    """The publishing half of a bus with four partitions, of which this producer knows the first `known`."""

    immediate = None

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.known = 4
        self.error: FleetError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        await self.gate.wait()
        self.asked.append(partition)
        if self.error is not None:
            raise self.error
        if partition is not None and partition >= self.known:
            raise NotFound(f"{topic} has partitions 0 to {self.known - 1}, not {partition}")
        return Published(topic, 0 if partition is None else partition, 100, 0.0)


class Sender:
    def __init__(self, *loads: WorkerLoad) -> None:
        self.log = Log()
        self.router = Router(Known(loads), random.Random(1), 2.0)
        self.routed = RoutedCalls(self.router, lambda: 100.0)
        self.failed: list[Call] = []
        self.publisher = Publisher(
            self.log,  # type: ignore[arg-type]  # the half that a publisher uses
            GatewayMetrics(CollectorRegistry()),
            lambda call, _: self.failed.append(call),
            routed=self.routed,
        )

    async def send(self, rows: int = 1, call: Call | None = None) -> Call:
        call = call or Call("ref", TOPIC, "m", "1", "", 0, 1e12, 0.0, lambda _: None, rows=rows)
        self.publisher.enqueue(TOPIC, OutRecord(b"x"), call)
        await turns()
        return call

    def waiting(self) -> int:
        return sum(self.router.outstanding(TOPIC).values())


async def test_a_call_counts_from_its_publication_until_it_leaves() -> None:
    sender = Sender(*TWO)
    sender.log.gate.clear()

    call = await sender.send(rows=3)
    assert sender.waiting() == 3
    sender.log.gate.set()
    await turns()

    assert call.routed is not None
    assert call.place == (call.routed.number, 100)
    assert sender.router.outstanding(TOPIC) == {call.routed.number: 3}
    call.routed.left(3)
    call.routed.left(3)
    assert sender.waiting() == 0


async def test_without_a_choice_the_bus_chooses_and_its_choice_counts() -> None:
    sender = Sender()

    call = await sender.send()

    assert sender.log.asked == [None]
    assert sender.router.outstanding(TOPIC) == {0: 1}
    assert call.routed is not None


async def test_a_call_that_left_before_its_group_went_out_does_not_count() -> None:
    sender = Sender(*TWO)
    call = Call("ref", TOPIC, "m", "1", "", 0, 1e12, 0.0, lambda _: None, left=True)

    await sender.send(call=call)

    assert (sender.waiting(), call.routed) == (0, None)


async def test_a_partition_that_the_producer_does_not_know_is_left_to_it() -> None:
    sender = Sender(*TWO)
    sender.log.known = 0

    call = await sender.send()

    assert sender.log.asked[1:] == [None]
    assert (call.place, sender.router.outstanding(TOPIC)) == ((0, 100), {0: 1})


async def test_a_call_that_is_published_again_counts_once() -> None:
    sender = Sender(*TWO)
    call = await sender.send(rows=5)

    await sender.send(call=call)

    assert call.routed is not None
    assert sender.router.outstanding(TOPIC) == {call.routed.number: 5}


async def test_a_failed_group_is_counted_out_by_whoever_ends_its_calls() -> None:
    sender = Sender(*TWO)
    sender.log.error = Unavailable("no leader")

    call = await sender.send()

    assert sender.failed == [call]
    assert call.routed is not None
    call.routed.left(call.rows)
    assert sender.waiting() == 0


async def test_a_request_that_waits_for_its_acknowledgement_is_not_counted_after_it() -> None:
    sender = Sender(*TWO)

    place = await sender.publisher.publish_and_wait(TOPIC, OutRecord(b"x"))

    assert place[1] == 100
    assert sender.waiting() == 0


# --- in a gateway -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["queue", "spread"])
async def test_a_gateway_without_a_broker_chooses_nothing(fleet: Site, routing: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(routing=routing)

    assert (await gateway.infer(add_sub())).status_code == 200
    assert gateway.gateway.service.publisher._routed is None


async def test_a_gateway_reads_heartbeats_once_for_all_uses(fleet: Site) -> None:
    worker = await fleet.worker()
    transport = await fleet.transport()
    load = ModelLoad("add_sub", "1", ModelState.READY, (0, 1, 2, 3, 10**9))
    await transport.directory.beat(Heartbeat("w1", "1", "host", 1, worker._clock(), (load,)))
    bad = ModelLoad(["m"], 1, ModelState.READY)  # type: ignore[arg-type]  # what a stranger sends
    await transport.directory.beat(Heartbeat("w2", "1", "host", 1, worker._clock(), (bad,)))
    gateway = await fleet.gateway()
    service = gateway.gateway.service

    await until(lambda: service.capacity.workers(worker.topic))

    (known,) = service.capacity.workers(worker.topic)
    assert known.partitions == (0, 1, 2, 3, 10**9)
    assert service.capacity.partitions(worker.topic) == 4
    assert service.catalogue.get(ADD_SUB["name"], "1").workers == 1
    assert service.ready
