"""Redelivered records: all of a slice are looked up, not some."""

from __future__ import annotations

import asyncio

import pytest

from protocol.naming import ref
from tests.workers.fleet import NAMES, values
from tests.workers.serving import bench

TOPIC = NAMES.infer_topic("m", "1")


@pytest.mark.parametrize("count", [2, 5, 64, 65])
async def test_whatever_was_begun_before_runs_alone_the_last_of_a_slice_too(count: int) -> None:
    """In a batch it could kill this worker too, and the other requests with it."""
    async with bench() as b:
        await b.bus.ensure_topic(TOPIC, 1)
        requests = [b.caller.request(n) for n in range(count)]
        futures = await b.caller.publish(*requests)
        store = b.caller.transport.results
        await store.start([ref(request.principal, request.id) for request in requests], "w1", 300.0)

        await b.serve(worker="w2")
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*futures)

        assert values(replies) == [[n] for n in range(count)]
        assert b.instances[0].batches == [[n] for n in range(count)]
        assert {reply.timing.attempt for reply in replies} == {2}
