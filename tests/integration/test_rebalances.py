"""Workers that keep joining and leaving: five joins and five leaves in about fifteen seconds, on a real broker and a real store.

The bound: when a partition moves, only requests in its former owner's batches may run twice: at most `IN_BATCHES` for each
existing worker, and for each join. A leave that drains costs none.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import structlog.testing

from protocol.codec import decode_reply, encode_request
from protocol.messages import InferReply, InferRequest
from protocol.naming import Names
from protocol.ports import OutRecord, Wake
from protocol.tensors import from_array
from protocol.transport import Transport, open_transport
from protocol.transport.settings import TransportSettings
from tests.integration.repositories import executed, write_model
from tests.integration.test_kill import one_terminal_each
from workers.settings import WorkerSettings
from workers.worker import Worker

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(120)]

JOINS = 5
BETWEEN = 1.2
"""Seconds between two of them: five times the rate of ten joins and leaves a minute."""
SIZE = 16
BURST = 3
"""Requests at once, ten times a second. A batch takes longer than a rebalance, so that moved requests are really running."""
SETTLED = 10.0
"""Seconds within which everything is answered after the last join or leave: the session timeout."""
IN_BATCHES = 2 * SIZE
"""Requests of one worker: two batches in an instance."""

CODE = """
    import os
    import time

    class Model:
        def predict(self, X):
            with open(f"%s.{os.getpid()}", "a") as file:
                file.writelines(f"{number:.0f}\\n" for number in X[:, 0])
            time.sleep(0.5)
            return {"Y": X}
"""
CONFIG = f"""
backend: "python" max_batch_size: {SIZE}
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
parameters {{ key: "instance_isolation" value {{ string_value: "thread" }} }}
"""


class Site:
    """Workers in this process, each with its own connections, and their callers."""

    def __init__(self, kafka: str, redis: str, prefix: str, folder: Path) -> None:
        self.settings = TransportSettings(kafka=kafka, redis=redis, prefix=prefix, session_timeout=10.0)
        self.names = Names(prefix)
        self.folder = folder
        self.partitions = 4
        self.answers: dict[str, list[InferReply]] = collections.defaultdict(list)
        self.at: dict[str, list[float]] = collections.defaultdict(list)
        self.ids: list[str] = []
        self._workers: dict[Worker, Transport] = {}
        self._numbers = itertools.count()

    def model(self, repository: str, name: str) -> None:
        write_model(self.folder / repository, name, CODE % (self.folder / name))
        (self.folder / repository / name / "config.pbtxt").write_text(CONFIG)

    async def join(self, name: str, *repositories: str) -> Worker:
        transport = open_transport(self.settings)
        await transport.open()
        folders = tuple(self.folder / repository for repository in repositories)
        worker = Worker(
            WorkerSettings(
                model_repository=folders, worker=name, metrics_port=None, partitions=self.partitions, unload_grace=5.0
            ),
            transport,
            self.names,
        )
        self._workers[worker] = transport
        await worker.start()
        return worker

    async def leave(self, worker: Worker) -> None:
        await worker.drain(10.0)
        await worker.close()
        await self._workers.pop(worker).close()

    async def close(self) -> None:
        for worker in tuple(self._workers):
            await self.leave(worker)

    async def ask(self, transport: Transport, until: asyncio.Event) -> None:
        """The same load on both models, about half the capacity of two workers."""
        channel = self.names.gateway_channel("caller")
        await transport.results.listen(channel, self._on_wake)
        while not until.is_set():
            for model in ("moved", "still"):
                numbers = [next(self._numbers) for _ in range(BURST)]
                requests = [
                    InferRequest(
                        f"{model}-{number}",
                        model,
                        "1",
                        (from_array("X", np.array([[number]], np.float32)),),
                        reply_to=channel,
                    )
                    for number in numbers
                ]
                self.ids += [request.id for request in requests]
                records = [OutRecord(*encode_request(request)) for request in requests]
                await transport.bus.publish(self.names.infer_topic(model, "1"), records)
            await asyncio.sleep(0.1)

    def _on_wake(self, wakes: list[Wake]) -> None:
        for wake in wakes:
            if wake.payload is None:
                continue  # from a second answer, which was refused
            self.answers[wake.ref].append(decode_reply(wake.payload))
            self.at[wake.ref.split("-")[0]].append(time.monotonic())

    def runs(self, model: str) -> collections.Counter[int]:
        return collections.Counter(executed(self.folder / model))


@pytest.fixture
async def site(kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(kafka_bootstrap, redis_url, prefix, tmp_path)
    made.model("of-all", "moved")
    made.model("of-few", "still")
    yield made
    await made.close()


async def test_a_storm_of_joins_and_leaves(site: Site, redis_url: str) -> None:
    """Joins concern one of two models; the other one's group is not affected."""
    for number in range(2):
        await site.join(f"stays-{number}", "of-all", "of-few")
    caller = open_transport(site.settings)
    await caller.open()
    done = asyncio.Event()
    asking = asyncio.create_task(site.ask(caller, done))
    await asyncio.sleep(3 * BETWEEN)  # both groups have settled
    began, before = time.monotonic(), frozenset(site.ids)

    with structlog.testing.capture_logs() as logs:
        for number in range(JOINS):
            guest = await site.join(f"guest-{number}", "of-all")
            await asyncio.sleep(BETWEEN)
            await site.leave(guest)
            await asyncio.sleep(BETWEEN)
    ended = time.monotonic()

    done.set()
    await asking
    async with asyncio.timeout(SETTLED):
        while len(site.answers) < len(site.ids):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await caller.close()

    for name, replies in site.answers.items():
        (reply, *_) = replies
        assert reply.failure is None
        assert reply.outputs[0].array().tolist() == [[float(name.split("-")[1])]]
    one_terminal_each(redis_url, site.names, site.ids)

    moves = [entry["topic"] for entry in logs if entry["event"] == "partitions assigned"]
    assert site.names.infer_topic("still", "1") not in moves
    assert moves.count(site.names.infer_topic("moved", "1")) >= 2 * JOINS, "each join and each leave moved partitions"
    moved = site.runs("moved")
    still = {number: count for number, count in site.runs("still").items() if f"still-{number}" not in before}
    twice = sum(count - 1 for count in moved.values())
    gap = {model: longest(site.at[model], began, ended) for model in ("moved", "still")}
    print(f"{2 * JOINS} joins and leaves in {ended - began:.1f} s; of {len(moved)} requests {twice} ran again; {gap}")
    assert max(still.values()) == 1
    assert 0 < twice <= JOINS * 2 * IN_BATCHES, "nothing moved in mid-batch: this run proves nothing"


def longest(times: list[float], began: float, ended: float) -> float:
    """Seconds without an answer."""
    inside = [at for at in times if began <= at <= ended]
    return round(max(later - sooner for sooner, later in itertools.pairwise(inside)), 2)
