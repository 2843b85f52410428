"""Whole jobs on an embedded broker: interrupted at any point, the output is exact."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock.batch import driver
from penstock.batch.backends import kafka
from penstock.batch.backends.kafka import KafkaBackend
from penstock.batch.begin import Begin
from penstock.batch.driver import Outcome, Runner, Stop
from penstock.batch.journal import read_journal
from penstock.batch.request import Request, check_request
from penstock.batch.state import JobFolder
from protocol.errors import Code, FleetError, Unavailable
from protocol.naming import Names
from protocol.ports import OutRecord, Published
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.penstock.batch.fake_fleet import FakeFleet, announce

NAMES = Names("t")


class Site:
    """A broker, a fleet, and the files of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broker = folder, MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.target = folder / "out.jsonl"
        self.make_bus: Callable[[], MemoryBus] = lambda: MemoryBus(self.broker)

    def write(self, count: int, poison: int = 0, name: str = "in.jsonl") -> Path:
        path = self.folder / name
        rows = [{"X": [13 if poison and line % poison == 0 else 1000 + line, 1]} for line in range(1, count + 1)]
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return path

    async def submit(self, source: Path, job: str = "j", stop: Stop | None = None, **more: Any) -> Outcome:
        request = Request("double", str(source), **({"target": str(self.target)} | more))
        check_request(request)
        folder = JobFolder(self.folder / "jobs", job)
        begin = Begin(request, folder, "kafka t")
        begin.open()
        backend = KafkaBackend(self.make_bus(), NAMES, MemoryStore(TransportSettings()), "memory")
        try:
            await backend.open()
            served = await backend.find("double", "")
            runner = Runner(begin, backend, served)
            try:
                runner.open_input()
                await runner.start()
                return await runner.run(stop or Stop(), lambda _: None)
            finally:
                runner.close()
        finally:
            folder.unlock()
            await backend.close()

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.target.read_bytes().splitlines()]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.bus.open()
    await announce(made.bus, NAMES)
    yield made
    await made.bus.close()


async def at_once(call: Any, *arguments: Any) -> Any:
    return call(*arguments)


def expected(count: int, poison: int = 0) -> list[tuple[int, object]]:
    return [
        (line, None if poison and line % poison == 0 else [2.0 * (1000 + line), 2.0]) for line in range(1, count + 1)
    ]


def found(lines: list[dict[str, Any]]) -> list[tuple[int, object]]:
    return [(entry["line"], entry["outputs"]["Y"] if "outputs" in entry else None) for entry in lines]


@pytest.mark.parametrize("unordered", [False, True])
async def test_a_file_in_a_file_out(site: Site, unordered: bool) -> None:
    fleet = FakeFleet(site.bus, NAMES)
    await fleet.start()
    outcome = await site.submit(site.write(500, poison=50), rows=16, unordered=unordered)
    lines = site.lines()
    if unordered:
        lines.sort(key=lambda entry: entry["line"])
    assert found(lines) == expected(500, poison=50)
    assert (outcome.end, outcome.progress.answered, outcome.progress.failed) == ("done", 490, 10)
    assert set(fleet.ids.values()) == {1}
    await fleet.stop()


@pytest.mark.parametrize("seed", range(12))
async def test_killed_at_any_point_it_goes_on_exactly(site: Site, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is dropped as by SIGKILL: no checkpoint, no goodbye."""
    rng = random.Random(seed)
    monkeypatch.setattr(driver.asyncio, "to_thread", at_once)  # a thread would outlive this kill
    monkeypatch.setattr(driver, "CHECKPOINT", rng.choice([0.0, 0.001, 0.01, 1.0]))
    source = site.write(600, poison=rng.choice([0, 37]))
    tasks: list[asyncio.Task[Any]] = []
    left = [rng.randrange(1, 30)]

    def before() -> None:
        left[0] -= 1
        if left[0] == 0 and tasks:
            tasks[-1].cancel()
            left[0] = rng.randrange(1, 40)

    fleet = FakeFleet(site.bus, NAMES, rng, before)
    await fleet.start()
    kills = 0
    while True:
        unordered = bool(seed % 2)
        tasks.append(
            asyncio.create_task(site.submit(source, rows=8, window=rng.choice([100, 1000]), unordered=unordered))
        )
        try:
            outcome = await tasks[-1]
            break
        except asyncio.CancelledError:
            kills += 1
            if kills > 200:
                left[0] = 10**9
    await fleet.stop()
    lines = sorted(site.lines(), key=lambda entry: entry["line"]) if seed % 2 else site.lines()
    poison = 37 if any("error" in entry for entry in lines) else 0
    assert found(lines) == expected(600, poison)
    assert outcome.end == "done"
    assert kills > 0
    doubled = {name: count for name, count in fleet.ids.items() if count > 1}
    assert doubled == {}, "a record was published twice"


async def test_ctrl_c_finishes_what_is_in_flight_and_the_same_command_goes_on(site: Site) -> None:
    source, stop = site.write(400), Stop()
    answers = [0]

    def before() -> None:
        answers[0] += 1
        if answers[0] == 10:
            stop.ask()

    fleet = FakeFleet(site.bus, NAMES, before=before)
    await fleet.start()
    outcome = await site.submit(source, rows=4, window=40, stop=stop)
    assert outcome.end == ""
    assert 0 < outcome.progress.answered < 400
    assert outcome.progress.in_flight == 0
    assert len(site.lines()) == outcome.progress.answered
    outcome = await site.submit(source, rows=4, window=40)
    await fleet.stop()
    assert found(site.lines()) == expected(400)
    assert outcome.progress.answered == 400
    assert set(fleet.ids.values()) == {1}


async def test_sent_without_waiting_it_is_collected_by_the_same_command(site: Site) -> None:
    source = site.write(300)
    outcome = await site.submit(source, rows=16, waits=False)
    assert outcome.end == "sent"
    assert site.target.read_bytes() == b""
    fleet = FakeFleet(site.bus, NAMES)
    await fleet.start()
    outcome = await site.submit(source)
    await fleet.stop()
    assert outcome.end == "done"
    assert found(site.lines()) == expected(300)
    assert set(fleet.ids.values()) == {1}


async def test_an_errors_file_gets_the_lines_without_an_answer(site: Site) -> None:
    source = site.folder / "in.jsonl"
    source.write_text('{"X": [1, 2]}\nnot json\n\n{"X": [13, 0]}\n{"X": [1]}\n{"X": [3, 4]}')
    fleet = FakeFleet(site.bus, NAMES)
    await fleet.start()
    errors = site.folder / "errors.jsonl"
    outcome = await site.submit(source, errors=str(errors))
    await fleet.stop()
    assert [entry["line"] for entry in site.lines()] == [1, 6]
    wrong = [orjson.loads(line) for line in errors.read_bytes().splitlines()]
    assert [(entry["line"], entry["error"]["code"]) for entry in wrong] == [
        (2, "INVALID_ARGUMENT"), (4, "MODEL_FAILED"), (5, "INVALID_ARGUMENT"),
    ]  # fmt: skip
    assert outcome.progress.failed == 3


async def test_an_existing_output_of_another_job_is_refused(site: Site) -> None:
    source = site.write(3)
    site.target.write_text("precious\n")
    with pytest.raises(FleetError, match="is there already") as caught:
        await site.submit(source)
    assert caught.value.code is Code.ALREADY_EXISTS
    assert site.target.read_text() == "precious\n"


async def test_a_changed_input_is_refused_and_begun_again_with_force(site: Site) -> None:
    fleet = FakeFleet(site.bus, NAMES)
    await fleet.start()
    await site.submit(site.write(30))
    source = site.write(40)
    with pytest.raises(FleetError, match="has changed since it began: it has"):
        await site.submit(source)
    await site.submit(source, force=True)
    await fleet.stop()
    assert found(site.lines()) == expected(40)
    assert any(name.startswith("j_r2-") for name in fleet.ids)


async def test_lost_state_does_not_mix_two_runs_answers(site: Site) -> None:
    """The journal is gone, but the topic of answers is not: the name is refused, and `force` takes the next one."""
    fleet = FakeFleet(site.bus, NAMES)
    await fleet.start()
    source = site.write(10)
    await site.submit(source)
    (site.folder / "jobs" / "j" / "journal").unlink()
    site.target.unlink()
    with pytest.raises(FleetError, match="answers of an earlier run"):
        await site.submit(source)
    await site.submit(source, force=True)
    await fleet.stop()
    assert found(site.lines()) == expected(10)


async def test_a_cut_output_is_noticed(site: Site) -> None:
    fleet, stop = FakeFleet(site.bus, NAMES), Stop()
    await fleet.start()
    source = site.write(400)
    stop.ask()
    await site.submit(source, rows=4, window=40, stop=stop)
    saved = read_journal(site.folder / "jobs" / "j" / "journal")
    assert saved is not None
    if saved.output:
        os.truncate(site.target, saved.output - 1)
        with pytest.raises(FleetError, match="somebody has cut it"):
            await site.submit(source, rows=4)
    await fleet.stop()


async def test_two_submitters_of_one_job(site: Site) -> None:
    source = site.write(10)
    folder = JobFolder(site.folder / "jobs", "j")
    folder.lock()
    with pytest.raises(FleetError, match=f"is being submitted by process {os.getpid()}"):
        await site.submit(source)
    folder.unlock()


async def test_a_missing_model_is_said_before_the_first_row(site: Site) -> None:
    backend = KafkaBackend(MemoryBus(site.broker), NAMES, None, "memory")
    await backend.open()
    with pytest.raises(FleetError, match="model 'other' is not ready: no worker has announced it") as caught:
        await backend.find("other", "")
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(FleetError, match="version 2 of model 'double' is not ready: version 1 is READY"):
        await backend.find("double", "2")
    await backend.close()


class UncertainBus(MemoryBus):
    """Acknowledges half of what is published; of the rest, half is in the log nevertheless."""

    def __init__(self, broker: MemoryBroker, rng: random.Random) -> None:
        super().__init__(broker)
        self._rng = rng

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        luck = self._rng.random()
        if luck < 0.75:
            published = await super().publish(topic, records, partition)
        if luck > 0.5:
            raise Unavailable("not acknowledged")
        return published


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_not_acknowledged_is_looked_for_before_it_is_sent_again(
    site: Site, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "PAUSE", 0.0)
    rng = random.Random(seed)
    site.make_bus = lambda: UncertainBus(site.broker, rng)
    fleet = FakeFleet(site.bus, NAMES, rng)
    await fleet.start()
    outcome = await site.submit(site.write(400, poison=50), rows=4, window=100)
    await fleet.stop()
    assert outcome.end == "done"
    assert found(site.lines()) == expected(400, poison=50)
    assert set(fleet.ids.values()) == {1}
