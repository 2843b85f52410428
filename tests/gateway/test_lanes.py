"""Calls in the batch lane, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.admission import Limits
from gateway.calls.lanes import lane_of, parse_lane
from protocol.errors import InvalidArgument, Unavailable
from protocol.messages import Lane
from protocol.naming import ref
from protocol.request_check import MAX_BATCH_LANE_ROWS
from protocol.transport import Transport
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.gateway.fleet import ADD_SUB, NAMES, Running, Site, Worker, add_sub, raw_request, read_response, until
from tests.gateway.test_recovery import AT_ONCE, Keeper, losing

BATCH = {"penstock-lane": "batch"}
TOPIC = NAMES.batch_topic("add_sub", "1")


async def batch_worker(fleet: Site, name: str = "b1") -> Worker:
    """A worker of the batch lane; its topic must exist."""
    worker = Worker(await fleet.transport(), ADD_SUB, name=name)
    worker.topic = TOPIC
    await worker.start()
    fleet.stack.push_async_callback(worker.stop)
    return worker


async def served(fleet: Site, **settings: Any) -> tuple[Running, Worker]:
    """A gateway, and a worker that serves the batch lane alone."""
    announcer = Worker(await fleet.transport(), ADD_SUB)
    await announcer.announce()
    worker = await batch_worker(fleet)
    return await fleet.gateway(**settings), worker


@pytest.mark.parametrize("header", [True, False])
async def test_a_call_in_the_batch_lane_is_published_to_its_topic_and_answered(fleet: Site, header: bool) -> None:
    gateway, worker = await served(fleet)

    body = add_sub() if header else add_sub(parameters={"lane": "batch", "kept": 7})
    answer = await gateway.infer(body, **(BATCH if header else {}))

    assert answer.status_code == 200, answer.text
    assert len(worker.ran) == 1
    assert worker.requests[0].parameters == ({} if header else {"kept": 7})
    assert gateway.metric('penstock_gateway_batch_requests_total{code="OK",model="add_sub",version="1"}') == 1
    assert gateway.metric('penstock_gateway_requests_total{code="OK",model="add_sub",version="1"}') == 0


async def test_interactive_is_the_default_and_may_be_named(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()

    for extra in ({}, {"penstock-lane": "interactive"}):
        assert (await gateway.infer(add_sub(), **extra)).status_code == 200
    assert (await gateway.infer(add_sub(parameters={"lane": "interactive"}))).status_code == 200

    assert len(worker.ran) == 3
    assert await (await fleet.transport()).bus.partitions(TOPIC) == 0


@pytest.mark.parametrize("lane", ["Batch", "", "batch,batch", "interactive;q=1", "x" * 10_000, "b\u00e4tch"])
async def test_another_lane_is_refused_and_both_are_named(fleet: Site, lane: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    by_header = await gateway.post(
        "/v2/models/add_sub/infer", content=orjson.dumps(add_sub()), headers={b"penstock-lane": lane.encode("latin-1")}
    )
    by_parameter = await gateway.infer(add_sub(parameters={"lane": lane}))

    for answer in (by_header, by_parameter):
        assert answer.status_code == 400
        assert "must be 'batch' or 'interactive'" in answer.json()["error"]
        assert len(answer.content) < 1000


@pytest.mark.parametrize("lane", [1, True, 0.5])
async def test_a_lane_of_another_type_is_refused(fleet: Site, lane: object) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await gateway.infer(add_sub(parameters={"lane": lane}))

    assert answer.status_code == 400
    assert "parameter 'lane' must be 'batch' or 'interactive'" in answer.json()["error"]


async def test_a_header_and_a_parameter_that_disagree_are_refused(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await gateway.infer(add_sub(parameters={"lane": "interactive"}), **BATCH)

    assert answer.status_code == 400
    assert "Penstock-Lane is 'batch', but parameter 'lane' is 'interactive'" in answer.json()["error"]


async def test_a_repeated_header_is_refused(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()

    writer.write(raw_request(orjson.dumps(add_sub()), "penstock-lane: interactive", "penstock-lane: batch"))
    answer = await read_response(reader)

    assert answer.status == 400
    assert "more than one penstock-lane header" in answer.json["error"]


async def test_more_rows_than_a_batch_are_taken_in_the_batch_lane_only(fleet: Site) -> None:
    gateway, worker = await served(fleet)

    wide = await gateway.infer(add_sub(rows=100), **BATCH)
    refused = await gateway.infer(add_sub(rows=100))

    assert wide.status_code == 200, wide.text
    assert worker.requests[0].inputs[0].shape == (100, 16)
    assert refused.status_code == 400
    assert "batch-size must be <= 8" in refused.json()["error"]


async def test_rows_are_bounded_in_the_batch_lane_too(fleet: Site) -> None:
    gateway, _ = await served(fleet)
    rows = MAX_BATCH_LANE_ROWS + 1
    head = orjson.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "FP32", "shape": [rows, 16], "parameters": {"binary_data_size": 64 * rows}}
                for name in ("INPUT0", "INPUT1")
            ]
        }
    )

    answer = await gateway.infer(
        head + bytes(128 * rows), **BATCH, **{"inference-header-content-length": str(len(head))}
    )

    assert answer.status_code == 400
    assert f"batch-size must be <= {MAX_BATCH_LANE_ROWS}" in answer.json()["error"]


async def test_an_unknown_model_is_unknown_in_both_lanes(fleet: Site) -> None:
    gateway, _ = await served(fleet)

    answer = await gateway.infer(add_sub(), model="nobody", **BATCH)

    assert answer.status_code == 404


async def test_the_topic_is_made_at_first_use_with_the_partitions_of_the_interactive_one(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    bus = (await fleet.transport()).bus
    assert await bus.partitions(TOPIC) == 0

    call = asyncio.create_task(gateway.infer(add_sub(), **BATCH))
    await until(lambda: len(gateway.gateway.service.completion.pending) == 1)
    await until(lambda: gateway.metric("penstock_gateway_publish_records_count") == 1)

    assert await bus.partitions(TOPIC) == 4
    await batch_worker(fleet)
    assert (await call).status_code == 200
    assert worker.ran == []


async def test_a_topic_that_cannot_be_created_is_503_and_is_tried_again_at_the_next_call(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    ensure, denied = transport.bus.ensure_topic, Unavailable(f"creating topic {TOPIC}: topic authorization failed")

    async def refuse(topic: str, partitions: int, *, compacted: bool = False) -> int:
        raise denied

    transport.bus.ensure_topic = refuse  # type: ignore[method-assign]  # a broker that denies it
    answer = await gateway.infer(add_sub(), **BATCH)
    asynchronous = await gateway.infer(add_sub(), **BATCH, prefer="respond-async")
    interactive = await gateway.infer(add_sub())
    transport.bus.ensure_topic = ensure  # type: ignore[method-assign]
    await batch_worker_after(fleet)
    again = await gateway.infer(add_sub(), **BATCH)

    assert (answer.status_code, asynchronous.status_code) == (503, 503)
    assert "topic authorization failed" in answer.json()["error"]
    assert interactive.status_code == 200
    assert again.status_code == 200
    assert gateway.gateway.service.admissions.batch.calls == 0


async def batch_worker_after(fleet: Site) -> None:
    await (await fleet.transport()).bus.ensure_topic(TOPIC, 4)
    await batch_worker(fleet)


async def test_a_topic_that_was_deleted_is_made_again(fleet: Site) -> None:
    gateway, _ = await served(fleet)
    assert (await gateway.infer(add_sub(), **BATCH)).status_code == 200
    topics = gateway.gateway.service.publisher._batch_topics
    assert topics is not None
    assert topics.ready(TOPIC)

    assert topics.missing(TOPIC)
    assert not topics.ready(TOPIC)
    assert not topics.missing(NAMES.infer_topic("add_sub", "1"))
    assert (await gateway.infer(add_sub(), **BATCH)).status_code == 200


async def test_a_keyed_call_in_the_batch_lane_runs_once(fleet: Site) -> None:
    gateway, worker = await served(fleet)

    first, second = [await gateway.infer(add_sub(), **BATCH, idempotency_key="k") for _ in range(2)]

    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert len(worker.ran) == 1


async def test_an_asynchronous_call_has_no_deadline_and_its_handle_names_the_batch_topic(fleet: Site) -> None:
    gateway, worker = await served(fleet)

    accepted = await gateway.infer(add_sub(), **BATCH, prefer="respond-async")
    done = await gateway.get(accepted.headers["location"], params={"wait_s": "10"})

    token = accepted.headers["location"].rpartition("/")[2]
    assert gateway.gateway.service.keys.verify(token).topic == TOPIC
    assert done.status_code == 200
    assert worker.requests[0].deadline is None


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_cancellation_reaches_the_workers_of_the_batch_topic(fleet: Site, by_id: bool) -> None:
    gateway, worker = await served(fleet)
    worker.open.clear()
    accepted = await gateway.infer(add_sub(), **BATCH, prefer="respond-async")
    request_id = accepted.headers["penstock-request-id"]

    cancelled = await gateway.delete(f"/v2/requests/{request_id}" if by_id else accepted.headers["location"])
    await until(lambda: worker.cancelled)
    worker.open.set()

    assert cancelled.json()["state"] == "cancelled"
    assert list(worker.cancelled) == [ref("-", request_id)]


async def test_a_disconnected_caller_cancels_at_the_workers_of_the_batch_topic(fleet: Site) -> None:
    gateway, worker = await served(fleet)
    worker.open.clear()
    _, writer = await gateway.connect()

    writer.write(raw_request(orjson.dumps(add_sub()), "penstock-lane: batch"))
    await until(lambda: gateway.gateway.service.admissions.batch.calls == 1)
    writer.transport.abort()
    await until(lambda: worker.cancelled)
    worker.open.set()

    assert gateway.gateway.service.admissions.batch.calls == 0


async def test_a_full_batch_lane_leaves_interactive_callers_their_room(fleet: Site) -> None:
    interactive = await fleet.worker()
    await (await fleet.transport()).bus.ensure_topic(TOPIC, 4)
    worker = await batch_worker(fleet)
    worker.open.clear()
    gateway = await fleet.gateway(max_queued_calls=4, max_queued_calls_per_model=4)
    service = gateway.gateway.service

    waiting = asyncio.create_task(gateway.infer(add_sub(), **BATCH))
    await until(lambda: service.admissions.batch.calls == 1)
    refused = await gateway.infer(add_sub(), **BATCH)
    answered = [await gateway.infer(add_sub()) for _ in range(4)]
    assert gateway.metric("penstock_gateway_batch_inflight") == 1
    worker.open.set()

    assert refused.status_code == 429
    assert "1 calls in the batch lane wait at this gateway; at most 1 may" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answered] == [200] * 4
    assert (await waiting).status_code == 200
    assert len(interactive.ran) == 4


async def test_a_full_interactive_lane_leaves_the_batch_lane_its_room(fleet: Site) -> None:
    interactive = await fleet.worker()
    interactive.open.clear()
    await (await fleet.transport()).bus.ensure_topic(TOPIC, 4)
    await batch_worker(fleet)
    gateway = await fleet.gateway(max_queued_calls=1, max_queued_calls_per_model=1)

    waiting = asyncio.create_task(gateway.infer(add_sub()))
    await until(lambda: gateway.gateway.service.admission.calls == 1)
    batch = await gateway.infer(add_sub(), **BATCH)
    interactive.open.set()

    assert batch.status_code == 200
    assert (await waiting).status_code == 200


def test_the_batch_lane_has_a_quarter_of_each_limit() -> None:
    assert Limits(4096, 512, 100).of_batch_lane() == Limits(1024, 128, 100, 0, "calls in the batch lane")
    assert Limits(1, 1).of_batch_lane().calls == 1


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.booleans(), st.floats()))
def test_no_other_value_is_a_lane(value: object) -> None:
    if value in ("batch", "interactive"):
        return
    with pytest.raises(InvalidArgument):
        parse_lane(value, "it")
    with pytest.raises(InvalidArgument):
        lane_of(None, {"lane": value})  # type: ignore[dict-item]  # what a stranger sends


def test_the_header_and_the_parameter_mean_the_same() -> None:
    for lane in Lane:
        assert lane_of(lane, {}) is lane_of(None, {"lane": lane.value}) is lane_of(lane, {"lane": lane.value}) is lane
    assert lane_of(None, {}) is Lane.INTERACTIVE


# --- lost answers -----------------------------------------------------------------------------------------------------


async def lose_results(fleet: Site) -> Running:
    """A gateway on the same broker, with a store that has lost everything."""
    fleet.server = MemoryServer()
    store = MemoryStore(TransportSettings(), fleet.server)
    transport = Transport(MemoryBus(fleet.broker), store, store)
    await transport.open()
    fleet.stack.push_async_callback(transport.close)
    return await fleet.gateway(transport)


async def test_a_lost_result_is_made_again_from_the_batch_topic(fleet: Site) -> None:
    gateway, worker = await served(fleet)
    worker.open.clear()
    accepted = await gateway.infer(add_sub(rows=20), **BATCH, prefer="respond-async")
    location, request_id = accepted.headers["location"], accepted.headers["penstock-request-id"]
    await worker.stop()
    other = await lose_results(fleet)

    assert (await other.get(location)).json()["state"] == "queued"
    replacement = await batch_worker(fleet, "b2")
    answer = await other.get(location, params={"wait_s": "10"})

    assert answer.status_code == 200
    assert answer.headers["penstock-request-id"] == request_id
    assert set(replacement.ran) == {request_id}
    assert replacement.requests[0].inputs[0].shape == (20, 16)


async def test_a_plain_call_whose_answer_was_lost_is_published_to_the_batch_topic_again(fleet: Site) -> None:
    announcer = Worker(await fleet.transport(), ADD_SUB)
    await announcer.announce()
    worker = await batch_worker(fleet)
    await (await fleet.transport()).bus.subscribe(TOPIC, "keeper", "k", Keeper())
    gateway = await fleet.gateway(**AT_ONCE)
    losing(worker, 1)

    answer = await gateway.infer(add_sub(), **BATCH, **{"penstock-timeout-ms": "5000"})

    assert answer.status_code == 200
    assert worker.ran == [answer.headers["penstock-request-id"]] * 2
