"""The same request in several records, whose partitions move while the first of them runs."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.fleet import until
from tests.workers.serving import bench


@pytest.mark.parametrize(("owned", "left"), [({0}, 2), ({0, 1}, 4), ({1}, 3), (set[int](), 1)])
async def test_repetitions_on_partitions_that_moved_are_dropped_and_no_others(owned: set[int], left: int) -> None:
    async with bench() as b:
        serving = await b.serve(partitions=2)
        (held,) = b.instances
        held.gate.clear()
        request = b.caller.request(7)
        await b.caller.publish(request, partition=0)
        await held.started()
        await b.caller.publish(request, partition=0)
        *_, last = await b.caller.publish(request, request, partition=1)
        runner = serving.runner
        await until(lambda: runner.in_flight == 4)

        runner.forget(owned)

        assert runner.in_flight == left
        held.gate.set()
        await asyncio.wait_for(last, 20)
        await until(lambda: runner.in_flight == 0)
        assert runner.room() == serving.runner._max_rows
        assert held.batches == [[7]]
