"""Large JSON has deadlines, a few processes, and a place in the budget."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator

import numpy as np
import orjson
import pytest

from gateway.admission.budget import Budget
from gateway.rest.json_pool import JsonPool
from protocol.errors import Code, DeadlineExceeded, Exhausted, FleetError
from protocol.messages import InferReply
from protocol.tensors import Tensor, from_array
from tests.gateway.fleet import ANY, Site, add_sub, floats, raw_request, until
from tests.gateway.turns import turns

SMALL = orjson.dumps(add_sub())
LARGE = orjson.dumps(floats(1_000_000))


@pytest.fixture
async def pool() -> AsyncIterator[JsonPool]:
    made = JsonPool(Budget(100_000_000), 1, time.monotonic)
    yield made
    await made.close()


async def stopped(pool: JsonPool) -> int:
    """Suspend the first process; returns its pid."""
    await pool.parse(SMALL, None, math.inf)
    pid = pool.processes[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return pid


async def test_a_deadline_holds_while_the_document_is_worked_on_and_while_it_waits(pool: JsonPool) -> None:
    pid = await stopped(pool)
    now = time.monotonic()
    asked = [asyncio.ensure_future(pool.parse(SMALL, None, now + 0.2)) for _ in range(5)]

    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 5
    assert time.monotonic() - now < 3.0
    os.kill(pid, signal.SIGCONT)
    assert (await pool.parse(SMALL, None, math.inf)).inputs
    assert pool.processes[0].pid == pid, "what was late did not cost the next caller a process"
    assert pool._budget.used == 0


async def test_what_is_late_is_not_begun(pool: JsonPool) -> None:
    with pytest.raises(DeadlineExceeded):
        await pool.parse(SMALL, None, time.monotonic() - 1)
    assert pool.processes[0].pid is None


async def test_a_large_document_does_not_block_a_small_one_where_there_are_two_processes() -> None:
    pool = JsonPool(Budget(100_000_000), 2, time.monotonic)
    pids = []
    for process in pool.processes:
        pool._idle = [process]
        await pool.parse(SMALL, None, math.inf)
        pids.append(process.pid)
    pool._idle = list(pool.processes)
    assert pids[1] is not None
    os.kill(pids[1], signal.SIGSTOP)
    slow = asyncio.ensure_future(pool.parse(LARGE, None, math.inf))
    await turns(3)

    assert (await pool.parse(SMALL, None, time.monotonic() + 20)).inputs
    assert not slow.done()
    os.kill(pids[1], signal.SIGCONT)
    assert (await slow).inputs
    await pool.close()


async def test_documents_in_work_draw_from_the_budget_and_give_back() -> None:
    budget = Budget(2 * len(LARGE))
    pool = JsonPool(budget, 2, time.monotonic)

    asked = [asyncio.ensure_future(pool.parse(LARGE, None, math.inf)) for _ in range(2)]
    await until(lambda: budget.used == 2 * len(LARGE))
    with pytest.raises(Exhausted):
        await pool.render(InferReply("m", "1", "", (from_array("A", np.zeros(10)),)), False, math.inf)
    for future in asked:
        assert (await future).inputs

    assert budget.used == 0
    await pool.close()


async def test_an_answer_for_which_there_is_no_room_is_refused_and_the_process_goes_on(pool: JsonPool) -> None:
    zeros = Tensor("A", "BOOL", (8_000_000,), bytes(8_000_000))  # "false," for every byte
    pool._budget.limit = 20_000_000

    with pytest.raises(Exhausted):
        await pool.render(InferReply("m", "1", "", (zeros,)), False, math.inf)

    pid = pool.processes[0].pid
    assert (await pool.parse(SMALL, None, math.inf)).inputs
    assert (pool.processes[0].pid, pool._budget.used) == (pid, 0)


async def test_json_that_becomes_more_than_a_record_is_413_and_never_comes_back(pool: JsonPool) -> None:
    data = b"0," * 3_000_000 + b"0"
    body = b'{"inputs":[{"name":"A","datatype":"FP64","shape":[3000001],"data":[%b]}]}' % data
    with pytest.raises(FleetError) as caught:
        await pool.parse(body, None, math.inf)
    assert caught.value.code is Code.TOO_LARGE


async def test_a_call_has_its_504_at_its_deadline_while_others_block_the_json_processes(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(json_offload_bytes=1000, json_processes=1)
    await gateway.infer(floats(500), "any")
    pid = gateway.gateway._http._frontend.json.processes[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ran = len(worker.ran)
    for headers in ({}, {"idempotency_key": "k"}, {"prefer": "respond-async"}):
        answer = await gateway.infer(floats(500), "any", penstock_timeout_ms="300", **headers)
        assert answer.status_code == 504
    os.kill(pid, signal.SIGCONT)

    assert (await gateway.infer(floats(500), "any")).status_code == 200
    assert len(worker.ran) == ran + 1
    await until(lambda: gateway.metric("penstock_gateway_queued_bytes") == 0)


async def test_a_client_that_goes_while_its_document_waits_holds_nothing(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(json_offload_bytes=1000, json_processes=1)
    await gateway.infer(floats(500), "any")
    frontend = gateway.gateway._http._frontend
    pid = frontend.json.processes[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    first, second = [await gateway.connect() for _ in range(2)]
    for _, writer in (first, second):
        writer.write(raw_request(orjson.dumps(floats(20_000)), path="/v2/models/any/infer"))
    await until(lambda: len(frontend.json._waiting) == 1)
    for _, writer in (first, second):
        writer.close()

    await until(lambda: not frontend._responses._tasks)
    assert gateway.metric("penstock_gateway_queued_bytes") == 0
    os.kill(pid, signal.SIGCONT)
    await until(lambda: not frontend.json._work)
    assert (await gateway.infer(floats(500), "any")).status_code == 200
    assert len(worker.ran) == 2


async def test_a_large_result_that_is_asked_for_is_written_beside_the_loop(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(json_offload_bytes=10_000)
    accepted = await gateway.infer(floats(10_000), "any", prefer="respond-async")
    pool = gateway.gateway._http._frontend.json
    begun = 0
    ask = pool.processes[-1].ask

    async def counted(*arguments: object) -> object:
        nonlocal begun
        begun += 1
        return await ask(*arguments)  # type: ignore[arg-type]

    pool.processes[-1].ask = counted  # type: ignore[assignment,method-assign]
    answer = await gateway.get(accepted.json()["location"] + "?wait_s=10")

    assert (answer.status_code, len(answer.json()["outputs"][0]["data"])) == (200, 10_000)
    assert begun == 1
