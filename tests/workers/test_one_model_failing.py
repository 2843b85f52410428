"""A failure of one of a worker's models stops only that model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from protocol.errors import Unavailable
from protocol.ports import FinishOutcome, OutRecord, Published, Terminal
from protocol.transport.embedded.memory import MemoryStore
from tests.workers.fleet import CHANNEL, NAMES, fleet, until, values, write_model
from tests.workers.test_metrics import scrape

DEAD = NAMES.dead_topic("m")
GARBAGE = OutRecord(b"\xc1", [("id", b"odd"), ("reply-to", CHANNEL.encode())])


async def test_a_dead_topic_that_may_not_be_written_stops_its_model_alone(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "n")
    async with fleet(tmp_path) as f:
        transport = await f.transport()
        allowed: list[bool] = []
        right = transport.bus.publish

        async def publish(topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
            if topic == DEAD and not allowed:
                raise Unavailable(f"not authorized to write to {topic}")
            return await right(topic, records, partition)

        transport.bus.publish = publish  # type: ignore[method-assign]
        worker = await f.worker(transport)
        caller = await f.caller()
        await caller.transport.bus.publish(NAMES.infer_topic("m", "1"), [GARBAGE], 0)
        of = {serving.key[0]: serving for serving in worker.models.serving()}
        await until(lambda: of["m"].retry.failing == 1)

        assert values(await caller.ask(caller.request(1, model="n"))) == [[1]]
        assert of["m"].runner.room() == 0
        assert of["n"].runner.room() > 0
        (told,) = await worker.readiness()
        assert (
            "model 'm' version 1 takes no requests: 'publish dead letters' fails and is retried: not authorized" in told
        )
        shown = scrape(worker.registry)
        labels = (("call", "publish dead letters"), ("model", "m"), ("version", "1"))
        assert shown["penstock_worker_failing_calls"] == {labels: 1.0}
        assert shown["penstock_worker_failed_calls_total"][labels] >= 1.0

        allowed.append(True)
        assert values(await caller.ask(caller.request(2, model="m"))) == [[2]]
        await until(lambda: "odd" in caller.answers)
        assert await worker.readiness() == []


async def test_an_answer_that_cannot_be_stored_stops_its_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "n")
    async with fleet(tmp_path) as f:
        transport = await f.transport()
        down = [True]
        right = transport.results.finish

        async def finish(answers: Sequence[Terminal]) -> list[FinishOutcome]:
            if down and any(answer.ref == "stuck" for answer in answers):
                raise Unavailable("this one cannot be stored")
            return await right(answers)

        monkeypatch.setattr(MemoryStore, "immediate", None)
        transport.results.finish = finish  # type: ignore[method-assign,assignment]
        worker = await f.worker(transport)
        caller = await f.caller()
        (stuck,) = await caller.publish(caller.request(1, id="stuck"))
        await until(lambda: any(serving.retry.failing for serving in worker.models.serving()))
        assert values(await caller.ask(caller.request(2, model="n"))) == [[2]]
        assert "'finish' fails and is retried" in (await worker.readiness())[0]
        down.clear()
        assert values([await stuck]) == [[1]]
