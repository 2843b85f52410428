"""`Prefer: respond-async` and `/v2/requests`: accepted at one gateway, queried at any."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from gateway.ids import fingerprint, keyed_id
from protocol.errors import Code
from protocol.messages import Failure
from protocol.naming import ref
from protocol.ports import Claim
from protocol.transport import Transport
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.gateway.fleet import HALF, NAMES, Running, Site, add_sub, until

ASYNC = {"prefer": "respond-async"}
KEY = {"idempotency_key": "job-1"}


async def accepted(gateway: Running, **headers: str) -> tuple[str, str]:
    """(location, id) of an accepted request."""
    answer = await gateway.infer(add_sub(), **ASYNC, **headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["location"] == answer.headers["location"]
    return answer.headers["location"], answer.headers["penstock-request-id"]


async def test_accepted_polled_and_done(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()

    location, request_id = await accepted(gateway)
    queued = await gateway.get(location)
    worker.open.set()
    done = await gateway.get(location, params={"wait_s": "10"})

    assert queued.status_code == 202
    state = queued.json()
    assert (state["id"], state["state"], state["model_name"], state["model_version"]) == (
        request_id,
        "queued",
        "add_sub",
        "1",
    )
    assert 0 <= state["age_s"] < 5
    assert queued.headers["retry-after"] == "1"
    assert done.status_code == 200
    assert done.json()["outputs"][0]["data"] == [3.0 + 2 * i for i in range(16)]
    assert done.headers["penstock-request-id"] == request_id
    assert "reason=full" in done.headers["penstock-timing"]


async def test_an_answer_may_be_fetched_again_and_again(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    location, _ = await accepted(gateway)

    first, second = [await gateway.get(location, params={"wait_s": "10"}) for _ in range(2)]

    assert first.content == second.content
    assert len(worker.ran) == 1


async def test_a_running_request_says_so(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    location, request_id = await accepted(gateway)
    await (await fleet.transport()).results.start([ref("-", request_id)], "w1", 60.0)

    assert (await gateway.get(location)).json()["state"] == "running"


async def test_a_request_that_a_store_without_its_data_knows_only_from_its_worker_is_running(fleet: Site) -> None:
    gateway = await fleet.gateway()
    await (await fleet.transport()).results.start([ref("-", "lost")], "w1", 60.0)

    for wait in ("0", "0.03"):
        assert (await gateway.get("/v2/requests/lost", params={"wait_s": wait})).json()["state"] == "running"


async def test_the_result_outlives_the_gateway_that_accepted_it(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    one, other = await fleet.gateway(), await fleet.gateway()
    location, _ = await accepted(one)
    await one.stop()
    polled = asyncio.ensure_future(other.get(location, params={"wait_s": "10"}))
    await until(lambda: len(other.gateway.service.completion.pending) == 1)
    worker.open.set()

    assert (await polled).status_code == 200


async def test_a_long_poll_ends_when_its_time_is_over(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    location, _ = await accepted(gateway)

    for options in ({"params": {"wait_s": "0.03"}}, {"headers": {"prefer": "wait=0.03"}}):
        assert (await gateway.get(location, **options)).status_code == 202
    assert gateway.metric("penstock_gateway_inflight") == 0


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "1e9"])
async def test_a_wait_is_a_number_of_seconds(fleet: Site, wait: str) -> None:
    gateway = await fleet.gateway()

    assert (await gateway.get("/v2/requests/abc", params={"wait_s": wait})).status_code == 400


async def test_asynchronous_calls_have_no_deadline_unless_they_name_one(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    for headers in ({}, {"penstock_timeout_ms": "5000"}):
        location, _ = await accepted(gateway, **headers)
        await gateway.get(location, params={"wait_s": "10"})

    assert [request.deadline is None for request in worker.requests] == [True, False]
    assert all(request.claimed for request in worker.requests)


async def test_the_answer_comes_in_the_form_that_the_request_asked_for(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    body = add_sub(outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": True}}])

    location = (await gateway.infer(body, **ASYNC)).headers["location"]
    answer = await gateway.get(location, params={"wait_s": "10"})

    split = int(answer.headers["inference-header-content-length"])
    head = orjson.loads(answer.content[:split])
    assert ["data" in output for output in head["outputs"]] == [True, False]
    assert len(answer.content) - split == 64


async def test_an_asynchronous_failure_is_the_polls_error(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.fail = Failure(Code.MODEL_FAILED, "it broke")
    gateway = await fleet.gateway()
    location, _ = await accepted(gateway)

    answer = await gateway.get(location, params={"wait_s": "10"})

    assert (answer.status_code, answer.json()) == (500, {"error": "it broke"})


async def test_delete_cancels_what_is_queued(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway, other = await fleet.gateway(), await fleet.gateway()
    location, request_id = await accepted(gateway)

    cancelled = await other.delete(location)
    again = await gateway.delete(location)
    await until(lambda: request_id in worker.cancelled)
    worker.open.set()
    answer = await gateway.get(location)

    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert again.json()["state"] == "cancelled"
    assert (answer.status_code, answer.json()) == (499, {"error": "the request was cancelled"})
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 0)
    assert worker.ran == []


async def test_delete_of_a_finished_request_says_that_it_is_done(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    location, _ = await accepted(gateway)
    await gateway.get(location, params={"wait_s": "10"})

    assert (await gateway.delete(location)).json()["state"] == "done"
    assert (await gateway.get(location)).status_code == 200


async def test_delete_of_a_keyed_request_answers_those_who_wait(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    waiting = asyncio.ensure_future(gateway.infer(add_sub(), **KEY))
    await until(lambda: gateway.metric('penstock_gateway_claims_total{state="fresh"}') == 1)
    (call,) = gateway.gateway.service.completion.pending

    assert (await gateway.delete(f"/v2/requests/{call.ref}")).json()["state"] == "cancelled"
    answer = await waiting

    assert answer.status_code == 499
    assert call.ref in worker.cancelled
    worker.open.set()
    assert (await gateway.infer(add_sub(), **KEY)).status_code == 200


async def test_delete_means_the_run_that_was_claimed_also_by_a_clock_ahead_of_ours(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway, store = await fleet.gateway(), (await fleet.transport()).results
    ahead = round(gateway.gateway.service.clock()) + 60.0
    await store.claim(Claim("job", "f", "", 5.0, 60.0, "add_sub", "1", accepted=ahead))

    assert (await gateway.delete("/v2/requests/job")).json()["state"] == "cancelled"
    await until(lambda: bool(worker.cancelled))

    assert worker.cancelled == {"job": ahead}


async def test_delete_of_a_plain_call_by_its_id(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    waiting = asyncio.ensure_future(gateway.infer())
    await until(lambda: len(gateway.gateway.service.completion.pending) == 1)
    (call,) = gateway.gateway.service.completion.pending
    state = await gateway.get(f"/v2/requests/{call.ref}")

    assert (state.status_code, state.json()["state"]) == (202, "queued")
    assert (await gateway.delete(f"/v2/requests/{call.ref}")).json()["state"] == "cancelled"
    assert (await waiting).status_code == 499
    await until(lambda: call.ref in worker.cancelled)


async def test_a_keyed_requests_id_can_be_asked_for(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    first = await gateway.infer(add_sub(), **KEY)

    again = await gateway.get(f"/v2/requests/{first.headers['penstock-request-id']}")

    assert (again.status_code, again.content) == (200, first.content)


async def test_a_plain_requests_answer_is_not_kept(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    request_id = (await gateway.infer()).headers["penstock-request-id"]

    answer = await gateway.get(f"/v2/requests/{request_id}")

    assert answer.status_code == 410
    assert "no longer kept" in answer.json()["error"]


async def test_keyed_and_asynchronous_at_once(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    first, request_id = await accepted(gateway, **KEY)
    second, same_id = await accepted(gateway, **KEY)
    worker.open.set()

    assert request_id == same_id
    assert second == first, "who attaches gets a handle as well: it is found again where the store loses it"
    for location in (first, second):
        assert (await gateway.get(location, params={"wait_s": "10"})).status_code == 200
    assert (await gateway.infer(add_sub(), **ASYNC, **KEY)).status_code == 200
    assert (await gateway.infer(add_sub(9), **ASYNC, **KEY)).status_code == 422
    assert len(worker.ran) == 1


async def test_an_accepted_call_whose_first_gateway_died_before_publishing_runs(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(claim_lease=0.2)
    request_id = keyed_id("-", "add_sub", "", "job-1")
    mark = fingerprint(orjson.dumps(add_sub()), "")
    store = (await fleet.transport()).results
    await store.claim(Claim(ref("-", request_id), mark, "", 0.1, 60.0, "add_sub", "1", 1.0))

    location, _ = await accepted(gateway, **KEY)
    answer = await gateway.get(location, params={"wait_s": "10"})

    assert answer.status_code == 200
    assert worker.ran == [request_id]


async def test_raw_outputs_can_be_asked_for_by_accept(fleet: Site) -> None:
    await fleet.worker(HALF)
    gateway = await fleet.gateway()
    entry = {"name": "IN", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}}
    head = orjson.dumps({"inputs": [entry]})
    headers = {"inference_header_content_length": str(len(head))}
    location = (await gateway.infer(head + b"abcd", "half", **ASYNC, **headers)).headers["location"]

    assert (await gateway.get(location, params={"wait_s": "10"})).status_code == 400
    raw = await gateway.get(location, headers={"accept": "application/octet-stream"})

    assert raw.content.endswith(b"abcd")


@pytest.mark.parametrize("token", ["0" * 32, "a.b", "x" * 300, "a.b" * 3000, "%00", "..%2f..%2fetc"])
async def test_what_is_no_request_is_404(fleet: Site, token: str) -> None:
    gateway = await fleet.gateway()

    for call in (gateway.get, gateway.delete):
        assert (await call(f"/v2/requests/{token}")).status_code in (400, 404)


async def test_a_handle_is_for_the_caller_that_got_it(fleet: Site) -> None:
    await fleet.worker()
    anonymous = await fleet.gateway(signing_secret="shared")
    keyed = await fleet.gateway(signing_secret="shared", api_key="secret")
    location, _ = await accepted(anonymous)

    answer = await keyed.get(location, headers={"x-api-key": "secret"})

    assert answer.status_code == 404


async def lose_results(fleet: Site, gateway: Running) -> Running:
    """The same broker with a store that has lost everything, and a gateway on both."""
    fleet.server = MemoryServer()
    store = MemoryStore(TransportSettings(), fleet.server)
    transport = Transport(MemoryBus(fleet.broker), store, store)
    await transport.open()
    fleet.stack.push_async_callback(transport.close)
    return await fleet.gateway(transport)


async def test_a_lost_result_is_made_again_from_the_log(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    first = await fleet.gateway()
    location, request_id = await accepted(first)
    await worker.stop()
    second = await lose_results(fleet, first)
    lost = await second.get(location)
    again = await second.get(location)

    assert (lost.status_code, lost.json()["state"]) == (202, "queued")
    assert again.status_code == 202
    replacement = await fleet.worker(name="w2")
    answer = await second.get(location, params={"wait_s": "10"})
    assert answer.status_code == 200
    assert answer.headers["penstock-request-id"] == request_id
    assert set(replacement.ran) == {request_id}
    claims = second.metric('penstock_gateway_claims_total{state="fresh"}')
    assert claims == 1, "two polls publish a lost request once"


async def test_a_lost_result_whose_record_is_gone_is_410(fleet: Site) -> None:
    worker = await fleet.worker()
    first = await fleet.gateway()
    location, request_id = await accepted(first)
    await first.get(location, params={"wait_s": "10"})
    handle = first.gateway.service.keys.verify(location.rpartition("/")[2])
    bus = (await fleet.transport()).bus
    while await bus.read_record(handle.topic, handle.partition, handle.offset) is not None:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, lambda: None), 5)
    second = await lose_results(fleet, first)

    answer = await second.get(location)

    assert answer.status_code == 410
    assert worker.ran == [request_id]


async def test_an_asynchronous_call_that_cannot_be_published_is_503(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    await transport.bus.close()

    assert (await gateway.infer(add_sub(), **ASYNC)).status_code == 503
    assert gateway.metric("penstock_gateway_queued_bytes") == 0


async def test_output_names_that_fit_no_url_are_refused_before_anything_is_published(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    assert NAMES.infer_topic("add_sub", "1") == worker.topic
    body = add_sub(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}])

    assert (await gateway.infer(body, **ASYNC)).status_code == 202
