"""`Idempotency-Key`: one run per key, at any gateway, however often it is sent."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from gateway.ids import keyed_id
from protocol.errors import Code
from protocol.messages import Failure
from protocol.naming import ref
from protocol.ports import Claim, ClaimState
from tests.gateway.fleet import Running, Site, add_sub, raw_request, read_response, until

KEYED = {"idempotency_key": "order-17"}


async def waiting(gateway: Running, count: int) -> None:
    """Return once this many calls wait at this gateway."""
    await until(lambda: len(gateway.gateway.service.completion.pending) >= count)


async def test_two_runs_of_a_client_that_numbers_from_one_execute_twice(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()

    answers = [await gateway.infer(add_sub(id=str(number))) for _ in range(2) for number in (1, 2)]

    assert [answer.json()["id"] for answer in answers] == ["1", "2", "1", "2"]
    assert len(set(worker.ran)) == 4
    assert len({answer.headers["penstock-request-id"] for answer in answers}) == 4


async def test_the_same_key_runs_once(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()

    first, second = [await gateway.infer(add_sub(), **KEYED) for _ in range(2)]

    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert first.headers["penstock-request-id"] == second.headers["penstock-request-id"]
    assert len(worker.ran) == 1


async def test_a_key_holds_across_gateways(fleet: Site) -> None:
    worker = await fleet.worker()
    one, other = await fleet.gateway(), await fleet.gateway()

    first = await one.infer(add_sub(), **KEYED)
    await one.stop()
    second = await other.infer(add_sub(), **KEYED)

    assert first.content == second.content
    assert len(worker.ran) == 1


@pytest.mark.parametrize("gateways", [1, 2])
async def test_a_key_attaches_to_the_request_in_flight(fleet: Site, gateways: int) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    one = await fleet.gateway()
    other = await fleet.gateway() if gateways == 2 else one

    first = asyncio.ensure_future(one.infer(add_sub(), **KEYED))
    await waiting(one, 1)
    second = asyncio.ensure_future(other.infer(add_sub(), **KEYED))
    await waiting(other, 3 - gateways)
    await until(lambda: other.metric('penstock_gateway_claims_total{state="attached"}') == 1)
    worker.open.set()

    a, b = await asyncio.gather(first, second)
    assert a.json() == b.json()
    assert len(worker.ran) == 1


async def test_a_key_belongs_to_model_and_requested_version(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    import orjson

    await gateway.infer(add_sub(), **KEYED)
    await gateway.post(
        "/v2/models/add_sub/versions/1/infer", content=orjson.dumps(add_sub()), headers={"idempotency-key": "order-17"}
    )

    assert worker.ran == [keyed_id("-", "add_sub", "", "order-17"), keyed_id("-", "add_sub", "1", "order-17")]


async def test_another_body_under_the_same_key_is_422(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    await gateway.infer(add_sub(1), **KEYED)

    answer = await gateway.infer(add_sub(2), **KEYED)

    assert answer.status_code == 422
    assert "another request body" in answer.json()["error"]
    assert len(worker.ran) == 1


async def test_another_body_is_422_while_the_first_is_in_flight(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    first = asyncio.ensure_future(gateway.infer(add_sub(1), **KEYED))
    await until(lambda: gateway.metric('penstock_gateway_claims_total{state="fresh"}') == 1)

    answer = await gateway.infer(add_sub(2), **KEYED)

    assert answer.status_code == 422
    worker.open.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none_is_400(fleet: Site, key: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    assert (await gateway.infer(add_sub(), idempotency_key=key)).status_code == 400


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.EXHAUSTED])
async def test_after_a_retriable_end_the_key_runs_again(fleet: Site, code: Code) -> None:
    worker = await fleet.worker()
    worker.fail = Failure(code, "not now")
    gateway = await fleet.gateway()
    assert (await gateway.infer(add_sub(), **KEYED)).status_code != 200
    worker.fail = None

    assert (await gateway.infer(add_sub(), **KEYED)).status_code == 200
    assert (await gateway.infer(add_sub(7), **KEYED)).status_code == 422


async def test_after_a_final_end_it_does_not(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.fail = Failure(Code.MODEL_FAILED, "no")
    gateway = await fleet.gateway()
    first = await gateway.infer(add_sub(), **KEYED)
    worker.fail = None

    again = await gateway.infer(add_sub(), **KEYED)

    assert (first.status_code, again.status_code) == (500, 500)
    assert worker.ran == []


async def test_a_deadline_ends_the_keyed_request_and_the_key_runs_again(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()

    late = await gateway.infer(add_sub(), penstock_timeout_ms="30", **KEYED)
    worker.open.set()
    again = await gateway.infer(add_sub(), **KEYED)

    assert (late.status_code, again.status_code) == (504, 200)


async def test_an_attached_callers_deadline_is_its_own(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    first = asyncio.ensure_future(gateway.infer(add_sub(), **KEYED))
    await until(lambda: gateway.metric('penstock_gateway_claims_total{state="fresh"}') == 1)

    late = await gateway.infer(add_sub(), penstock_timeout_ms="30", **KEYED)
    worker.open.set()

    assert late.status_code == 504
    assert (await first).status_code == 200
    assert not worker.cancelled


async def test_a_disconnect_cancels_only_unkeyed_calls(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    import orjson

    body = orjson.dumps(add_sub())
    _, keyed = await gateway.connect()
    keyed.write(raw_request(body, "idempotency-key: order-17"))
    await until(lambda: gateway.metric('penstock_gateway_claims_total{state="fresh"}') == 1)
    _, plain = await gateway.connect()
    plain.write(raw_request(body))
    await waiting(gateway, 2)

    for writer in (keyed, plain):
        writer.close()
        await writer.wait_closed()

    await until(lambda: len(worker.cancelled) == 1)
    assert keyed_id("-", "add_sub", "", "order-17") not in worker.cancelled
    worker.open.set()
    assert (await gateway.infer(add_sub(), **KEYED)).status_code == 200
    assert worker.ran == [keyed_id("-", "add_sub", "", "order-17")]
    assert gateway.metric("penstock_gateway_cancellations_total") == 1


async def test_a_claim_whose_gateway_died_before_publishing_is_taken_over(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(claim_lease=0.05)
    body = add_sub()
    import orjson

    from gateway.ids import fingerprint

    request_id = keyed_id("-", "add_sub", "", "order-17")
    store = (await fleet.transport()).results
    claim = Claim(
        ref("-", request_id),
        fingerprint(orjson.dumps(body), ""),
        "penstock:gateway:dead",
        0.05,
        60.0,
        "add_sub",
        "1",
        1.0,
    )
    assert (await store.claim(claim)).state is ClaimState.FRESH

    answer = await gateway.infer(body, **KEYED)

    assert answer.status_code == 200
    assert worker.ran == [request_id]


async def test_a_keyed_call_that_cannot_be_published_is_503_and_may_be_sent_again(fleet: Site) -> None:
    worker = await fleet.worker()
    transport = await fleet.transport()
    gateway, other = await fleet.gateway(transport), await fleet.gateway()
    await transport.bus.close()

    refused = await gateway.infer(add_sub(), **KEYED)
    again = await other.infer(add_sub(), **KEYED)

    assert (refused.status_code, again.status_code) == (503, 200)
    assert len(worker.ran) == 1


async def test_a_store_that_is_away_refuses_keyed_calls_only(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    await transport.results.close()

    assert (await gateway.infer(add_sub(), **KEYED)).status_code == 503
    assert gateway.metric("penstock_gateway_inflight") == 0


async def test_keys_of_different_callers_never_meet(fleet: Site) -> None:
    worker = await fleet.worker()
    anonymous, keyed = await fleet.gateway(), await fleet.gateway(api_key="secret")

    await anonymous.infer(add_sub(1), **KEYED)
    answer = await keyed.infer(add_sub(2), x_api_key="secret", **KEYED)

    assert answer.status_code == 200
    assert [request.principal for request in worker.requests] == ["-", "key"]


async def test_a_second_request_of_a_connection_can_be_keyed(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    import orjson

    reader, writer = await gateway.connect()
    body = orjson.dumps(add_sub())
    writer.write(raw_request(body) + raw_request(body, "idempotency-key: order-17") + raw_request(body))

    assert [(await read_response(reader)).status for _ in range(3)] == [200, 200, 200]
    assert worker.ran[1] == keyed_id("-", "add_sub", "", "order-17")
    writer.close()


async def test_the_answer_is_the_same_in_every_encoding(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    import gzip

    import orjson

    body = orjson.dumps(add_sub())
    plain = await gateway.infer(body, **KEYED)
    packed = await gateway.infer(gzip.compress(body), content_encoding="gzip", **KEYED)

    assert isinstance(packed, httpx.Response)
    assert packed.json() == plain.json()
