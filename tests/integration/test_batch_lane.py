"""The batch lane of a real fleet: its topic appears while workers run, and one of them is killed in the middle of its records."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from protocol.codec import decode_reply, encode_request
from protocol.messages import InferRequest, Lane
from protocol.naming import Names
from protocol.ports import OutRecord
from protocol.tensors import from_array
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from tests.integration.fleet import fleet, wait_for
from tests.integration.repositories import ADD, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

RECORDS = 20
ROWS = 500


async def test_a_killed_worker_loses_no_rows_and_doubles_no_answer(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "runs"))
    names = Names(prefix)
    topic = names.request_topic("add", "1", Lane.BATCH)
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, repository) as running:
        running.add_gateway()
        for _ in range(2):
            running.add_worker("--partitions", "4")
        running.wait_ready(models=1)
        transport = open_transport(TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix))
        await transport.open()
        assert await transport.bus.partitions(topic) == 0, "nobody has made it yet"
        await transport.bus.ensure_topic(topic, 4)

        def both_read() -> bool:
            return all(worker.metric("penstock_worker_batch_lane_partitions") == 2 for worker in running.workers)

        await asyncio.to_thread(wait_for, "both workers to read the batch topic", both_read)
        a = np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)
        for number in range(RECORDS):
            inputs = (from_array("A", a + number), from_array("B", a))
            request = InferRequest(f"r{number}", "add", "1", inputs, published=time.time())
            await transport.bus.publish(topic, [OutRecord(*encode_request(request))])
        victim = running.workers[0]
        rows = "penstock_worker_batch_lane_rows_total"
        await asyncio.to_thread(wait_for, "some rows to run", lambda: victim.metric(rows) > 2 * ROWS)
        victim.kill_worker()

        refs = [f"r{number}" for number in range(RECORDS)]
        async with asyncio.timeout(90):
            while not all(s and s.state == "done" for s in await transport.results.look(refs)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)  # nobody is told of plain answers
        for number, state in enumerate(await transport.results.look(refs)):
            assert state is not None
            assert state.payload is not None
            reply = decode_reply(state.payload)
            assert reply.failure is None
            (output,) = reply.outputs
            assert np.array_equal(output.array(), a + number + a)

        def all_committed() -> bool:
            return sum(worker.metric("penstock_worker_batch_lane_lag_records") for worker in running.workers) == 0

        await asyncio.to_thread(wait_for, "every record to be done", all_committed)
        await transport.close()
        codes = running.stop()
    assert (codes[0], codes[2]) == (0, 0)
