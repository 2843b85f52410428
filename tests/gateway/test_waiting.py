"""A request for a model without a worker: scalers get a hint, and its caller is told what it waited for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.admission import Admission, Limits
from gateway.calls.waiting import EVERY, WaitingHints
from protocol.errors import Exhausted, Unavailable
from protocol.transport.embedded.memory import MemoryStore
from protocol.transport.settings import TransportSettings
from tests.gateway.fleet import ADD_SUB, NAMES, Site

TOPIC = NAMES.infer_topic("add_sub", "1")


async def test_a_hint_follows_an_acknowledgement_and_not_each(fleet: Site) -> None:
    await (await fleet.worker(ADD_SUB)).stop()
    gateway = await fleet.gateway()
    service = gateway.gateway.service
    heard: asyncio.Queue[str] = asyncio.Queue()
    await service.transport.directory.listen_waiting(heard.put_nowait)
    hints = WaitingHints(service.transport.directory)
    served = service.catalogue.get("add_sub", "1")
    hints.published(TOPIC)
    hints.expect(served)
    for _ in range(5):
        hints.published(TOPIC)
        hints.expect(served)
    assert await asyncio.wait_for(heard.get(), 5.0) == TOPIC
    hints._sent[TOPIC] -= 2 * EVERY
    hints.published(TOPIC)
    assert await asyncio.wait_for(heard.get(), 5.0) == TOPIC
    assert heard.empty()
    await hints.close()


async def test_a_store_that_does_not_answer_costs_only_the_hint(fleet: Site) -> None:
    await (await fleet.worker(ADD_SUB)).stop()
    gateway = await fleet.gateway()
    closed = MemoryStore(TransportSettings())
    hints = WaitingHints(closed)
    hints.expect(gateway.gateway.service.catalogue.get("add_sub", "1"))
    hints.published(TOPIC)
    await asyncio.wait(list(hints._tasks))
    with pytest.raises(Unavailable):
        await closed.hint_waiting(TOPIC)
    await hints.close()


async def test_a_call_that_expires_says_that_it_waited_for_a_worker(fleet: Site) -> None:
    worker = await fleet.worker(ADD_SUB)
    await worker.stop()
    gateway = await fleet.gateway()
    await gateway.gateway.service.transport.directory.forget("w1")
    await gateway.gateway._background._look_at_workers()
    answer = await gateway.infer(penstock_timeout_ms="30")
    assert answer.status_code == 504
    assert answer.json()["error"] == (
        "Request timeout expired: no answer within 30 ms; "
        "no worker serves model 'add_sub' version 1 now: the request waited for one"
    )


def test_a_refused_call_is_told_when_a_worker_should_be_there() -> None:
    admission = Admission(Limits(4, 1000, 1))
    admission.measure(0.0)
    admission.expected = lambda topic, waiting: {"cold": 7.2}.get(topic)
    for topic, seconds in (("cold", 8.0), ("warm", 60.0)):
        admission.admit(topic, 1)
        with pytest.raises(Exhausted) as refused:
            admission.admit(topic, 1)
        assert refused.value.retry_after == seconds
