"""ModelStreamInfer: one answer per request, in order; errors, ends and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.rpc import streaming
from protocol.proto import message_class
from tests.gateway.fleet import Site, until
from tests.gateway.rpc.stub import STREAM, Stub, infer_request, stub


def decode(raw: bytes) -> Any:
    return message_class("inference.ModelStreamInferResponse").FromString(raw)


async def collect(client: Stub, requests: list[Any], **options: Any) -> list[Any]:
    async def sent() -> AsyncIterator[bytes]:
        for request in requests:
            yield request if isinstance(request, bytes) else request.SerializeToString()

    call = client.channel.stream_stream(STREAM)(sent(), timeout=20, **options)
    return [decode(raw) async for raw in call]


async def test_answers_come_in_the_order_of_their_requests(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        answers = await collect(client, [infer_request(id=str(number)) for number in range(300)])
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(300)]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    assert {answer.error_message for answer in answers} == {""}
    assert all(len(answer.infer_response.raw_output_contents) == 2 for answer in answers)


async def test_an_error_is_one_answer_and_the_stream_goes_on(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        requests = [infer_request(id="a"), infer_request("nope", id="b"), b"\xff\xff", infer_request(id="c")]
        first, second, third, fourth = await collect(client, requests)
    assert (first.infer_response.id, fourth.infer_response.id) == ("a", "c")
    assert second.error_message == "Request for unknown model: 'nope' is not found"
    assert second.infer_response.id == "b"
    assert "not a ModelInferRequest" in third.error_message


async def test_the_first_error_ends_the_stream_if_that_is_asked_for(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        call = client.channel.stream_stream(STREAM)(metadata=(("triton_grpc_error", "true"),), timeout=20)
        await call.write(infer_request(id="a").SerializeToString())
        assert decode(await call.read()).infer_response.id == "a"
        await call.write(infer_request("nope", id="b").SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "Request for unknown model: 'nope' is not found",
        )


async def test_the_empty_final_response_is_accepted_and_half_close_ends_it(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    request = infer_request(id="e")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    async with stub(running) as client:
        (answer,) = await collect(client, [request])
        assert await collect(client, []) == []
    assert answer.infer_response.parameters["triton_final_response"].bool_param


async def test_a_cancelled_stream_cancels_all_its_requests(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        call = client.channel.stream_stream(STREAM)()
        for number in range(5):
            await call.write(infer_request(id=str(number)).SerializeToString())
        pending = running.gateway.service.completion.pending
        await until(lambda: len(pending) == 5)
        call.cancel()
        await until(lambda: len(pending) == 0)
        await until(lambda: len(worker.cancelled) == 5)
        worker.open.set()
        answer = await client.infer()
    assert answer.model_name == "add_sub"
    assert running.gateway.service.admission.calls == 0


async def test_only_so_many_requests_of_a_stream_are_read(fleet: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "IN_FLIGHT", 8)
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        asking = asyncio.ensure_future(collect(client, [infer_request(id=str(number)) for number in range(40)]))
        pending = running.gateway.service.completion.pending
        await until(lambda: len(pending) == 8)
        for _ in range(20):
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        assert len(pending) == 8
        worker.open.set()
        answers = await asking
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(40)]


async def test_an_idle_stream_ends_when_the_gateway_drains(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        call = client.channel.stream_stream(STREAM)()
        await call.write(infer_request(id="a").SerializeToString())
        assert decode(await call.read()).infer_response.id == "a"
        async with asyncio.timeout(4):
            await running.gateway.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
