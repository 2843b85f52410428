"""The batch lane of a served model version: rows, not records."""

from __future__ import annotations

import asyncio

import numpy as np

from protocol.messages import Lane
from tests.workers.fleet import IDENTITY
from tests.workers.serving import bench

BATCHING = IDENTITY + "dynamic_batching { }"


async def test_a_record_of_many_rows_runs_in_several_batches_and_is_answered_once() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        request = b.caller.rows(100)
        (reply,) = await b.caller.ask(request, lane=Lane.BATCH)
        assert reply.failure is None
        (output,) = reply.outputs
        assert output.shape == (100, 1)
        assert output.array().ravel().tolist() == list(range(100))
        batches = b.instances[0].batches
        assert sum(batches, []) == list(range(100))
        assert [len(batch) for batch in batches] == [1, 2, 4, 8] + [8] * 10 + [5]
        assert b.caller.counts[request.id] == 1
        assert serving.statistics.lane.rows == 100
        assert serving.statistics.success.count == 1
        assert serving.statistics.inference_count == 100
