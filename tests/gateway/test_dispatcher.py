"""Answers reach their callers, with and without a wake-up."""

from __future__ import annotations

import asyncio
import math

import pytest

from protocol.codec import encode_reply
from protocol.messages import InferReply
from protocol.ports import Claim, Terminal
from protocol.tensors import Tensor
from tests.gateway.fleet import ANY, Running, Site, floats, until


async def one_call(gateway: Running) -> tuple[asyncio.Future[int], str]:
    """A call that waits, and its ref."""

    async def status() -> int:
        return (await gateway.infer()).status_code

    before = len(gateway.gateway.service.completion.pending)
    waiting = asyncio.ensure_future(status())
    await until(lambda: len(gateway.gateway.service.completion.pending) > before)
    return waiting, [call.ref for call in gateway.gateway.service.completion.pending][-1]


def payload(size: int = 4) -> bytes:
    return encode_reply(InferReply("add_sub", "1", outputs=(Tensor("OUT", "UINT8", (size,), bytes(size)),)))


async def test_an_answer_without_a_wake_up_is_swept(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    waiting, ref = await one_call(gateway)
    await (await fleet.transport()).results.finish([Terminal(ref, payload(), "")])

    assert await waiting == 200
    assert gateway.metric("penstock_gateway_swept_answers_total") == 1


async def test_an_answer_that_cannot_be_read_holds_up_nobody(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    (bad, bad_ref), (good, good_ref) = await one_call(gateway), await one_call(gateway)
    channel = gateway.gateway.service.channel
    await (await fleet.transport()).results.finish(
        [Terminal(bad_ref, b"\xc1nonsense", channel), Terminal(good_ref, payload(), channel)]
    )

    assert await asyncio.gather(bad, good) == [500, 200]


async def test_large_answers_come_by_pointer_and_are_trimmed(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()

    answers = await asyncio.gather(*[gateway.infer(floats(20_000), "any") for _ in range(5)])

    assert [answer.status_code for answer in answers] == [200] * 5
    assert gateway.metric("penstock_gateway_swept_answers_total") == 0
    store = (await fleet.transport()).results
    refs = [answer.headers["penstock-request-id"] for answer in answers]
    async with asyncio.timeout(10):
        while [state.payload for state in await store.look(refs) if state is not None] != [b""] * 5:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def test_a_keyed_answer_is_kept(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    first = await gateway.infer(floats(20_000), "any", idempotency_key="k")
    await gateway.gateway._dispatcher.trim()

    assert (await gateway.infer(floats(20_000), "any", idempotency_key="k")).content == first.content


async def test_a_store_that_is_away_is_survived_by_those_who_wait(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    waiting, ref = await one_call(gateway)
    await transport.results.close()
    await until(lambda: bool(gateway.gateway.service.not_ready))
    await until(lambda: gateway.metric('penstock_gateway_task_restarts_total{task="sweep"}') >= 1)
    await (await fleet.transport()).results.finish([Terminal(ref, payload(), gateway.gateway.service.channel)])

    await transport.results.open()

    assert await waiting == 200
    await until(lambda: not gateway.gateway.service.not_ready)


async def test_stray_wake_ups_are_nothing(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    store = (await fleet.transport()).results
    channel = gateway.gateway.service.channel
    for ref, size in (("nobody", 4), ("nobody", 4), ("large", 50_000)):
        await store.finish([Terminal(ref, payload(size), channel)])

    assert (await gateway.infer()).status_code == 200


@pytest.mark.parametrize("count", [1, 2, 7, 512, 513, 1100])
async def test_a_sweep_finds_the_answers_of_all_that_are_due(fleet: Site, count: int) -> None:
    gateway = await fleet.gateway()
    service, answered = gateway.gateway.service, []
    store = (await fleet.transport()).results
    refs = [f"r{number}" for number in range(count)]
    for request_ref in [*refs, "unanswered"]:
        await store.claim(Claim(request_ref, "f", "", 10.0, 60.0, "add_sub", "1", 1.0))
    await store.finish([Terminal(request_ref, payload(), "") for request_ref in refs])
    for request_ref in ["unanswered", *refs]:
        call = service.watch(request_ref, "", "", math.inf, lambda reply, ref=request_ref: answered.append(ref))
        call.registered, call.sweep_at = call.registered - 100, 0.0  # due now, and then not for eight seconds

    await until(lambda: len(answered) == count, 4.0)

    assert sorted(answered) == sorted(refs)
    assert "unanswered" in service.completion.pending
