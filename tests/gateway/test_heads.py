"""Heads that were read before are not read again: what is remembered, how much, and that nobody notices."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest

from gateway.admission.budget import Budget
from gateway.rest.heads import MAX_BYTES, MAX_HEAD, Head, Heads
from tests.gateway.fleet import ANY, Running, Site, add_sub, raw_request, read_response
from tests.gateway.wire import BODY, exchange

HEAD = Head("m", "", {}, 7)


def known(gateway: Running) -> list[bytes]:
    return list(gateway.gateway._http._heads._heads)


def test_heads_of_unknown_models_and_long_ones_are_not_kept() -> None:
    heads = Heads(Budget(10**6), lambda model: model == "m")
    heads.learn(b"a", HEAD._replace(model="other"))
    heads.learn(b"b" * (MAX_HEAD + 1), HEAD)
    heads.learn(b"c", HEAD)

    assert [heads.find(raw) for raw in (b"a", b"b" * (MAX_HEAD + 1), b"c")] == [None, None, HEAD]


def test_heads_are_counted_and_bounded() -> None:
    budget = Budget(10**9)
    heads = Heads(budget, lambda _model: True)
    for number in range(5000):
        heads.learn(b"%d" % number, HEAD)
        assert 0 < budget.used <= MAX_BYTES
    assert heads.find(b"4999") is HEAD
    assert heads.find(b"0") is None


def test_no_head_is_kept_without_room() -> None:
    heads = Heads(Budget(1000), lambda _model: True)
    heads.learn(b"a", HEAD)

    assert heads.find(b"a") is None


async def test_requests_with_a_known_head_are_answered_however_they_are_cut(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    assert (await exchange(gateway, raw_request(BODY))).status == 200
    assert known(gateway) == [raw_request(BODY)[: -len(BODY)]]
    bodies = [BODY, BODY, b"[" * len(BODY), BODY[:-1], BODY, b"{" + BODY[1:]]
    expected = [200, 200, 400, 400, 200, 200]
    stream = b"".join(map(raw_request, bodies))
    chance = random.Random(7)
    whole = [0, *[sum(len(raw_request(body)) for body in bodies[:count]) for count in range(1, len(bodies) + 1)]]
    for cuts in (whole, *[sorted(chance.sample(range(len(stream)), 4)) for _ in range(20)]):
        reader, writer = await gateway.connect()
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            writer.write(stream[start:end])
            await writer.drain()
            await asyncio.sleep(0)
        assert [(await read_response(reader)).status for _ in bodies] == expected
        writer.close()


@pytest.mark.parametrize(
    "line",
    ["connection: close", "expect: 100-continue", "connection: upgrade\r\nupgrade: h2c", "transfer-encoding: chunked"],
)
async def test_heads_that_say_more_about_the_connection_are_not_kept(fleet: Site, line: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY) if "chunked" in line else BODY
    await exchange(gateway, raw_request(body, line))

    assert known(gateway) == []


async def test_a_known_head_is_authorised_again(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")
    for _ in range(2):
        assert (await exchange(gateway, raw_request(BODY))).status == 401
        assert (await exchange(gateway, raw_request(BODY, "x-api-key: secret"))).status == 200
    assert known(gateway) == [raw_request(BODY, "x-api-key: secret")[: -len(BODY)]]


@pytest.mark.parametrize("cuts", [(), (100_000,), (20_000, 90_000, 600_000), (602_500,)])
async def test_a_large_body_is_read_whole_and_the_next_request_after_it(fleet: Site, cuts: tuple[int, ...]) -> None:
    await fleet.worker()
    await fleet.worker(config=ANY)
    gateway = await fleet.gateway()
    data = bytes(range(32)) * 18_816
    head = orjson.dumps(
        {
            "inputs": [
                {"name": "IN", "datatype": "FP32", "shape": [150_528], "parameters": {"binary_data_size": 602_112}}
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    large = raw_request(head + data, f"inference-header-content-length: {len(head)}", path="/v2/models/any/infer")
    stream = large + raw_request(orjson.dumps(add_sub())) + large
    reader, writer = await gateway.connect()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        writer.write(stream[start:end])
        await writer.drain()
        await asyncio.sleep(0)
    first, second, third = [await read_response(reader) for _ in range(3)]
    writer.close()

    assert (first.status, second.status, third.status) == (200, 200, 200)
    assert first.body.endswith(data)
    assert third.body.endswith(data)


@pytest.mark.parametrize("space", range(1, 17, 5))
async def test_the_tensors_of_a_large_body_can_be_read_in_place(fleet: Site, space: int) -> None:
    """However long the JSON is: a model that needs aligned memory would copy them otherwise."""
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway()
    tensor = {"name": "IN", "datatype": "FP32", "shape": [50_000], "parameters": {"binary_data_size": 200_000}}
    head = orjson.dumps({"inputs": [tensor]}) + b" " * space
    answer = await gateway.infer(
        head + bytes(200_000),
        "any",
        inference_header_content_length=str(len(head)),
        content_type="application/octet-stream",
    )
    assert answer.status_code == 200
    (taken,) = worker.requests[-1].inputs
    assert taken.array().flags.aligned
    assert not taken.array().flags.writeable
