"""Calls that arrive before their fleet's models."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.arrivals import wait_until
from protocol.messages import ModelState
from tests.gateway.fleet import ANY, Site, Worker, add_sub, floats, until

times = st.floats(0, 1000)


@given(st.booleans(), times, st.none() | times, st.floats(0, 60), times | st.just(math.inf))
def test_a_call_waits_for_a_model_that_may_come_within_model_wait_and_deadline(
    awaited: bool, now: float, began: float | None, model_wait: float, deadline: float
) -> None:
    end = wait_until(awaited=awaited, now=now, began=began, model_wait=model_wait, deadline=deadline)

    if end is None:
        assert not awaited or deadline <= now or (now if began is None else began) + model_wait <= now
    else:
        assert awaited
        assert now < end <= deadline
        assert end <= (now if began is None else began) + model_wait


async def test_the_first_callers_of_a_fleet_wait_for_its_models(fleet: Site) -> None:
    gateway = await fleet.gateway(model_wait=30.0, json_offload_bytes=5000)
    service = gateway.gateway.service
    calls = [
        asyncio.ensure_future(call)
        for call in (
            gateway.infer(),
            gateway.infer(idempotency_key="k"),
            gateway.infer(prefer="respond-async"),
            gateway.infer(add_sub(rows=8)),
            gateway.get("/v2/models/add_sub"),
            gateway.get("/v2/models/add_sub/config"),
        )
    ]
    await until(lambda: service.admission.polls == len(calls))
    assert (await gateway.get("/v2/models/add_sub/ready")).status_code == 404, (
        "who asks whether it is there is told at once"
    )

    await fleet.worker()

    assert [(await call).status_code for call in calls] == [200, 200, 202, 200, 200, 200]
    assert service.admission.polls == 0


async def test_a_model_that_is_being_loaded_is_waited_for_and_one_that_failed_is_not(fleet: Site) -> None:
    gateway = await fleet.gateway(model_wait=30.0)
    worker = Worker(await fleet.transport(), ANY)
    await worker.announce(ModelState.LOADING)
    await until(lambda: len(gateway.gateway.service.catalogue.all()) == 1)
    call = asyncio.ensure_future(gateway.infer(floats(2), "any"))
    await until(lambda: gateway.gateway.service.admission.polls == 1)

    await worker.announce(ModelState.UNAVAILABLE, "broken")

    assert (await call).status_code == 404
    answer = await gateway.post("/v2/models/any/versions/1/infer", content=b"{}")
    assert answer.status_code == 503
    assert "broken" in answer.json()["error"]


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "k"}])
async def test_a_call_waits_no_longer_than_its_deadline(fleet: Site, headers: dict[str, str]) -> None:
    gateway = await fleet.gateway(model_wait=30.0)

    answer = await gateway.infer(penstock_timeout_ms="40", **headers)

    assert answer.status_code == 404
    assert "unknown model: 'add_sub' is not found" in answer.json()["error"]


async def test_a_wrong_deadline_is_400_whether_the_model_is_there_or_not(fleet: Site) -> None:
    gateway = await fleet.gateway(model_wait=30.0)

    assert (await gateway.infer(penstock_timeout_ms="soon")).status_code == 400


async def test_patience_begins_when_the_gateway_is_ready_and_ends(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(model_wait=0.05)
    service = gateway.gateway.service
    assert service.arrivals._began is not None
    await until(lambda: service.arrivals.until("no", "", math.inf) is None)

    assert (await gateway.infer(model="no")).status_code == 404
    assert service.admission.polls == 0


async def test_a_client_that_goes_while_it_waits_for_a_model_is_not_waited_for(fleet: Site) -> None:
    gateway = await fleet.gateway(model_wait=30.0)
    call = asyncio.ensure_future(gateway.infer())
    await until(lambda: gateway.gateway.service.admission.polls == 1)

    call.cancel()

    await until(lambda: gateway.gateway.service.admission.polls == 0)
    worker = await fleet.worker()
    assert (await gateway.infer()).status_code == 200
    assert len(worker.ran) == 1


async def test_more_who_wait_for_models_than_may_are_429(fleet: Site) -> None:
    gateway = await fleet.gateway(model_wait=30.0, max_long_polls=2)
    calls = [asyncio.ensure_future(gateway.infer()) for _ in range(2)]
    await until(lambda: gateway.gateway.service.admission.polls == 2)

    assert (await gateway.infer()).status_code == 429
    await fleet.worker()
    assert [(await call).status_code for call in calls] == [200, 200]
