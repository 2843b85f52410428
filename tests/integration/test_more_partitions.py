"""Three workers on topics that have one partition: the topics get more while requests come, on a real broker and a real store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from protocol.codec import encode_request
from protocol.messages import InferRequest, Lane
from protocol.ports import OutRecord
from protocol.tensors import from_array
from protocol.transport import open_transport
from tests.integration.repositories import write_model
from tests.integration.test_kill import one_terminal_each
from tests.integration.test_rebalances import CODE, CONFIG, Site, site
from workers.lifecycle import partitions
from workers.worker import Worker

__all__ = ["site"]

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

WITHIN = 90.0
WORKERS = 3
RAISED = partitions.PER_WORKER * WORKERS


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_all_workers_serve_a_version_whose_topics_had_one_partition(
    site: Site, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "PATIENCE", 1.0)
    site.partitions = 1
    write_model(site.folder / "of-quick", "quick", CODE.replace("0.5", "0.005") % (site.folder / "quick"))
    (site.folder / "of-quick" / "quick" / "config.pbtxt").write_text(CONFIG)
    caller = open_transport(site.settings)
    await caller.open()
    channel = site.names.gateway_channel("caller")
    await caller.results.listen(channel, site._on_wake)
    topics = [site.names.request_topic("quick", "1", lane) for lane in (Lane.INTERACTIVE, Lane.BATCH)]
    numbers = itertools.count()

    async def ask(topic: str, partition: int) -> None:
        """As a gateway does once it knows the number of partitions."""
        number = next(numbers)
        inputs = (from_array("X", np.array([[number]], np.float32)),)
        request = InferRequest(f"quick-{number}", "quick", "1", inputs, reply_to=channel)
        site.ids.append(request.id)
        await caller.bus.publish(topic, [OutRecord(*encode_request(request))], partition=partition)

    async def keep_asking() -> None:
        while True:
            for topic in topics:
                await ask(topic, next(numbers) % await caller.bus.partitions(topic))
            await asyncio.sleep(0.05)

    for topic in topics:
        await caller.bus.ensure_topic(topic, 1)
    workers: list[Worker] = [await site.join(f"w{number}", "of-quick") for number in range(WORKERS)]
    servings = [serving for worker in workers for serving in worker.models.serving()]
    asking = asyncio.create_task(keep_asking())
    await until(lambda: all(serving.intake.owned and serving.batch_intake.owned for serving in servings))
    await until(lambda: all(serving.statistics.inference_count > 0 for serving in servings))
    await until(lambda: all(serving.statistics.lane.rows > 0 for serving in servings))
    asking.cancel()
    await asyncio.wait([asking])
    sent = [ref for ref in site.ids if ref in site.answers or ref != site.ids[-1]]  # the last may have been cut off
    await until(lambda: all(ref in site.answers for ref in sent))

    assert [await caller.bus.partitions(topic) for topic in topics] == [RAISED, RAISED]
    for serving in servings:
        assert len(serving.intake.owned) == len(serving.batch_intake.owned) == RAISED // WORKERS
    for name, replies in site.answers.items():
        (reply,) = replies
        assert reply.failure is None
        assert reply.outputs[0].array().tolist() == [[float(name.split("-")[1])]]
    one_terminal_each(redis_url, site.names, sent)
    await caller.close()
