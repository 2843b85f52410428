"""The batch topic is read once somebody has made it, by real workers, also on instances that are processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from protocol.errors import Code, Unavailable
from protocol.messages import Lane
from protocol.ports import Consumer, Listener
from protocol.transport.embedded.memory import MemoryBus
from tests.workers.fleet import IDENTITY, NAMES, fleet, until, values, write_model
from tests.workers.serving import Bench, bench
from workers.serving import batch_topic

BATCHES = NAMES.batch_topic("m", "1")
MODEL = """
class Model:
    def predict(self, X):
        import os
        if (X == 13).any():
            os._exit(3)
        return {"Y": X + 1}
"""
PYTHON = IDENTITY.replace('"identity"', '"python"') + "dynamic_batching { }"


class Distant(MemoryBus):
    """As in another process: topics are not made ahead, and it may not answer."""

    down = False
    asked = 0
    joining: asyncio.Event | None = None
    joined: asyncio.Event

    @property
    def immediate(self) -> None:
        return None

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        consumer = await super().subscribe(topic, group, member, listener)
        if topic == BATCHES and self.joining is not None:
            self.joining.set()
            await self.joined.wait()
        return consumer

    async def partitions(self, topic: str) -> int:
        self.asked += 1
        if self.down:
            raise Unavailable("the broker is down, says the test")
        return await super().partitions(topic)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_topic, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(batch_topic, "LONGEST_PAUSE", 0.05)


async def distant(b: Bench) -> Distant:
    await b.bus.close()
    b.bus = bus = Distant(b.broker)
    await bus.open()
    return bus


async def test_a_topic_that_somebody_makes_later_is_read_from_its_start() -> None:
    async with bench() as b:
        bus = await distant(b)
        serving = await b.serve()
        bus.down = True
        await until(lambda: bus.asked > 2)
        assert not serving.reads_batches
        assert set(serving.members()) == {serving.topic}
        bus.down = False
        await b.bus.ensure_topic(BATCHES, 3)
        replies = await b.caller.ask(b.caller.rows(20), b.caller.rows(9), lane=Lane.BATCH)
        assert values(replies) == [list(range(20)), list(range(9))]
        assert set(serving.members()) == {serving.topic, BATCHES}
        assert serving.batch_intake.owned == {0, 1, 2}


async def test_a_version_that_waits_for_its_batch_topic_closes_at_once() -> None:
    async with bench() as b:
        await distant(b)
        serving = await b.serve()
        assert not serving.reads_batches
        b.serving.remove(serving)
        async with asyncio.timeout(2):
            await serving.close()


async def test_a_version_that_closes_while_it_joins_leaves_again() -> None:
    async with bench() as b:
        bus = await distant(b)
        bus.joining, bus.joined = asyncio.Event(), asyncio.Event()
        await bus.ensure_topic(BATCHES, 1)
        serving = await b.serve()
        b.serving.remove(serving)
        async with asyncio.timeout(5):
            await bus.joining.wait()
            closing = asyncio.ensure_future(serving.close())
            await asyncio.sleep(0)
            bus.joined.set()
            await closing
        assert b.broker.topics[BATCHES].groups[BATCHES].members == {}


async def test_a_worker_leaves_both_groups() -> None:
    async with bench() as b:
        await b.serve(worker="w1")
        await b.serve(worker="w2")
        first = b.serving.pop(0)
        await first.close()
        assert values(await b.caller.ask(b.caller.rows(20), lane=Lane.BATCH)) == [list(range(20))]


async def test_rows_run_in_child_processes_and_a_deadly_one_is_a_dead_letter(tmp_path: Path) -> None:
    write_model(tmp_path, "m", PYTHON, {"model.py": MODEL})
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        fine, deadly = await caller.ask(caller.rows(12), caller.rows(40), lane=Lane.BATCH)
        assert values([fine]) == [list(range(1, 13))]
        assert deadly.failure is not None
        assert deadly.failure.code is Code.MODEL_FAILED
        assert "in the dead letters (in rows " in deadly.failure.message
        assert values(await caller.ask(caller.rows(5), lane=Lane.BATCH)) == [list(range(1, 6))]
        (serving,) = worker.models.serving()
        assert serving.statistics.dead_letters["poison"] == 1
        await until(lambda: serving.batch_lane.in_flight == 0)


async def test_a_worker_says_that_its_batch_lane_is_slowed_and_stays_ready(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        (serving,) = worker.models.serving()
        serving.batch_lane.slowed = "the result store is 75% full; the batch lane goes on below 70%"
        assert await worker.readiness() == []
        assert worker.notes() == ["model 'm' version 1: the result store is 75% full; the batch lane goes on below 70%"]


async def test_a_version_that_is_replaced_hands_both_lanes_over(tmp_path: Path) -> None:
    slow = IDENTITY + 'parameters { key: "execute_delay_ms" value { string_value: "5" } }'
    write_model(tmp_path, "m", slow)
    async with fleet(tmp_path) as f:
        worker = await f.worker(model_control_mode="poll", repository_poll_secs=1000.0)
        caller = await f.caller()
        futures = await caller.publish(*[caller.rows(100) for _ in range(20)], lane=Lane.BATCH)
        await until(lambda: caller.answers)
        write_model(tmp_path, "m", slow + "dynamic_batching { }")
        await worker.models.poll()
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*futures)
        assert values(replies) == [list(range(100))] * 20
        assert set(caller.counts.values()) == {1}
