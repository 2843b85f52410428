"""A store that lost the answers of requests but kept its earlier entries for them, as in a failover that loses the last writes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.calls.positions import Positions
from protocol.errors import Unavailable
from protocol.messages import InferRequest
from protocol.naming import ref
from protocol.ports import Assigned, ClaimState
from protocol.transport.embedded.memory import MemoryBus
from tests.gateway.fleet import Running, Site, Worker, add_sub, until

ASYNC = {"prefer": "respond-async"}
KEY = {"idempotency_key": "job-1"}


class Keeper:
    """Another group on a topic: records that it has not committed stay in the log, as retention keeps them in Kafka."""

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        pass

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: Collection[int]) -> None:
        pass


AT_ONCE: dict[str, Any] = {"recover_after": 0.0, "offsets_max_age": 0.0, "sweep_after": 0.05}
"""Settings that detect lost answers at once."""


async def kept(fleet: Site) -> Worker:
    """A worker whose records stay in the log once they are done."""
    worker = await fleet.worker()
    await (await fleet.transport()).bus.subscribe(worker.topic, "keeper", "k", Keeper())
    return worker


async def done_with(fleet: Site, worker: Worker, records: int) -> None:
    """Return once the group has committed this many."""
    bus = (await fleet.transport()).bus

    async with asyncio.timeout(10):
        while sum((await bus.committed(worker.topic, worker.topic)).values()) < records:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def answered_and_lost(fleet: Site, gateway: Running, worker: Worker, **headers: str) -> tuple[str, str]:
    """(location, id) of a request that ran, was answered and is done; the store has only its beginning."""
    answer = await gateway.infer(add_sub(), **ASYNC, **headers)
    location, request_id = answer.headers["location"], answer.headers["penstock-request-id"]
    assert (await gateway.get(location, params={"wait_s": "10"})).status_code == 200
    await done_with(fleet, worker, 1)
    stream = fleet.server.fences.streams[ref("-", request_id)]
    handle = gateway.gateway.service.keys.verify(location.rpartition("/")[2])
    stream.payload, stream.lease = None, 0.0
    stream.confirmed, stream.place = True, (handle.partition, handle.offset)
    return location, request_id


async def test_an_end_that_was_lost_while_its_beginning_was_kept_is_made_again_once(fleet: Site) -> None:
    worker = await kept(fleet)
    one, other = await fleet.gateway(**AT_ONCE), await fleet.gateway(**AT_ONCE)
    location, request_id = await answered_and_lost(fleet, one, worker)
    worker.open.clear()

    states = [(await gateway.get(location)).json()["state"] for gateway in (one, other, one, other)]
    worker.open.set()
    answer = await other.get(location, params={"wait_s": "10"})

    assert states == ["queued"] * 4
    assert answer.status_code == 200
    assert answer.headers["penstock-request-id"] == request_id
    assert worker.ran == [request_id] * 2, "published again by one poll of four"


async def test_what_is_not_done_with_is_left_alone(fleet: Site) -> None:
    worker = await kept(fleet)
    worker.open.clear()
    gateway = await fleet.gateway(**AT_ONCE)
    location = (await gateway.infer(add_sub(), **ASYNC)).headers["location"]

    assert [(await gateway.get(location)).status_code for _ in range(3)] == [202] * 3
    worker.open.set()
    assert (await gateway.get(location, params={"wait_s": "10"})).status_code == 200
    assert len(worker.ran) == 1


async def test_a_lost_end_whose_record_is_gone_is_410_and_the_key_runs_again(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(**AT_ONCE)
    location, request_id = await answered_and_lost(fleet, gateway, worker, **KEY)

    for _ in range(2):
        answer = await gateway.get(location)
        assert (answer.status_code, "was lost" in answer.json()["error"]) == (410, True)
    assert (await gateway.infer(add_sub(), **KEY)).status_code == 200
    assert worker.ran == [request_id] * 2


async def test_a_keyed_call_that_attaches_to_a_lost_end_runs_it_again(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(**AT_ONCE)
    location, request_id = await answered_and_lost(fleet, gateway, worker, **KEY)

    answer = await gateway.infer(add_sub(), **KEY, penstock_timeout_ms="5000")

    assert answer.status_code == 200
    assert (await gateway.get(location)).content == answer.content
    assert worker.ran == [request_id] * 2


async def test_a_keyed_call_that_waits_while_its_end_is_lost_is_answered(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(claim_lease=0.05, **AT_ONCE)
    answers = losing(worker, 1)

    assert (await gateway.infer(add_sub(), **KEY, penstock_timeout_ms="5000")).status_code == 200
    assert len(answers) == 2


def losing(worker: Worker, count: int) -> list[Any]:
    """The first answers of a worker are lost, with their wake-ups; returns what it answered."""
    answered: list[Any] = []
    whole = worker._answer

    def answer(*fetched: Any) -> Any:
        answered.append(whole(*fetched))
        return answered[-1] if len(answered) > count else None

    worker._answer = answer  # type: ignore[method-assign]
    return answered


async def test_a_plain_call_whose_answer_and_wake_up_were_lost_is_answered(fleet: Site) -> None:
    worker = await kept(fleet)
    gateway = await fleet.gateway(**AT_ONCE)
    losing(worker, 1)

    answer = await gateway.infer(penstock_timeout_ms="5000")

    assert answer.status_code == 200
    assert worker.ran == [answer.headers["penstock-request-id"]] * 2


async def test_a_plain_call_whose_answer_and_record_are_gone_is_told_so(fleet: Site) -> None:
    losing(await fleet.worker(), 1)
    gateway = await fleet.gateway(**AT_ONCE)

    answer = await gateway.infer(penstock_timeout_ms="5000")

    assert (answer.status_code, "was lost" in answer.json()["error"]) == (410, True)
    assert gateway.metric("penstock_gateway_inflight") == 0


async def test_whoever_attaches_while_nothing_is_published_gets_no_202(fleet: Site) -> None:
    """The first gateway has a claim and cannot publish; when it dies, no 202 has been sent."""
    worker = await fleet.worker()
    gateway = await fleet.gateway(claim_lease=0.2, **AT_ONCE)
    claims = gateway.gateway._claims
    served = gateway.gateway.service.resolve("add_sub", "")
    first = await claims.claim(_request(gateway, served.version), "mark")
    second = asyncio.ensure_future(claims._claim_published(_request(gateway, served.version), "mark"))
    await until(lambda: gateway.metric('penstock_gateway_claims_total{state="attached"}') > 0)

    assert first.state is ClaimState.FRESH
    assert not second.done()
    assert (await second).state is ClaimState.FRESH, "once the lease is over"
    assert worker.ran == []


def _request(gateway: Running, version: str) -> Any:
    return InferRequest("same", "add_sub", version, (), accepted=gateway.gateway.service.clock(), claimed=True)


class Telling(MemoryBus):
    """Reports committed offsets once the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.let = asyncio.Event()
        self.fails = False

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        self.asked += 1
        await self.let.wait()
        if self.fails:
            raise Unavailable("no coordinator")
        return {0: 5}


async def test_offsets_are_read_once_for_all_who_ask() -> None:
    bus = Telling()
    positions = Positions(bus, max_age=60.0)
    asking = [asyncio.ensure_future(positions.passed("t", (0, offset))) for offset in range(3, 7)]
    asking.append(asyncio.ensure_future(positions.passed("t", (1, 0))))
    await until(lambda: bus.asked > 0)
    asking[0].cancel()
    bus.let.set()

    assert await asyncio.gather(*asking[1:]) == [True, False, False, False]
    assert await positions.passed("t", (0, 0))
    assert bus.asked == 1


async def test_a_broker_that_does_not_say_loses_nothing() -> None:
    bus = Telling()
    bus.fails = True
    bus.let.set()

    assert not await Positions(bus, max_age=0.0).passed("t", (0, 0))
