"""What remains after a restart, a full disk, and a kill."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.errors import ConfigError, Unavailable
from protocol.frames import pack
from protocol.ports import Assigned, ClaimState, FinishOutcome, OutRecord, Terminal
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.embedded.sqlite_broker import SqliteBroker
from protocol.transport.settings import TransportSettings
from tests.transport.bus_site import Owner, numbered, take, values
from tests.transport.disk import fill_the_disk, free_the_disk
from tests.transport.results_site import new_claim

TOPIC = "t.infer.m.1"


class Place:
    """A data folder, and what is open in it."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = TransportSettings(data_dir=data_dir, result_ttl=60.0)
        self.opened: list[SqliteBus | SqliteStore] = []

    async def bus(self, **options: int) -> SqliteBus:
        broker = SqliteBroker(self.folder / "bus.sqlite", **options) if options else None
        bus = SqliteBus(self.settings, broker)
        await bus.open()
        self.opened.append(bus)
        return bus

    async def store(self) -> SqliteStore:
        store = SqliteStore(self.settings)
        await store.open()
        self.opened.append(store)
        return store

    async def stop(self) -> None:
        for one in self.opened:
            await one.close()
        self.opened.clear()

    @property
    def folder(self) -> Path:
        assert self.settings.data_dir is not None
        return self.settings.data_dir

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "data")
    yield place
    await place.stop()


async def test_what_was_not_committed_comes_again_after_a_restart(place: Place) -> None:
    bus = await place.bus()
    await bus.ensure_topic(TOPIC, 2)
    records = [OutRecord(b"%d\xff" % n, [("raw", b"\xff\x00")], key=b"k", timestamp=5.5) for n in range(6)]
    await bus.publish(TOPIC, records, partition=1)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    before = await consumer.fetch(6, 0.0)
    await consumer.commit({1: 4})
    await place.stop()

    bus, owner = await place.bus(), Owner()
    assert await bus.ensure_topic(TOPIC, 9) == 2
    consumer = await bus.subscribe(TOPIC, TOPIC, "b", owner)
    assert owner.owned == {0: Assigned(0, 0, 0, 0), 1: Assigned(1, committed=4, end=6, start=4)}
    assert await consumer.fetch(6, 0.0) == before[4:]
    assert await bus.read_record(TOPIC, 1, 3) is None
    assert (await bus.publish(TOPIC, numbered(1), partition=1)).offset == 6


async def test_offsets_go_on_where_everything_was_committed(place: Place) -> None:
    bus = await place.bus()
    await bus.ensure_topic(TOPIC, 1)
    await bus.publish(TOPIC, numbered(5))
    await (await bus.subscribe(TOPIC, TOPIC, "a", Owner())).commit({0: 5})
    await place.stop()
    bus, owner = await place.bus(), Owner()
    await bus.subscribe(TOPIC, TOPIC, "a", owner)
    assert owner.owned[0] == Assigned(0, committed=5, end=5, start=5)
    assert (await bus.publish(TOPIC, numbered(1))).offset == 5


async def test_a_record_waits_for_every_group_over_a_restart(place: Place) -> None:
    bus = await place.bus()
    await bus.ensure_topic(TOPIC, 1)
    await bus.publish(TOPIC, numbered(5))
    groups = [await bus.subscribe(TOPIC, group, "a", Owner()) for group in "xyz"]
    await groups[0].commit({0: 5})
    await groups[1].commit({0: 2})
    await place.stop()
    bus = await place.bus()
    assert await bus.read_record(TOPIC, 0, 0) is not None
    for group, committed in (("x", 5), ("y", 2), ("z", 0)):
        owner = Owner()
        consumer = await bus.subscribe(TOPIC, group, "a", owner)
        assert owner.owned[0].committed == committed
        await consumer.commit({0: 3})
    assert await bus.read_record(TOPIC, 0, 1) is None
    assert await bus.read_record(TOPIC, 0, 3) is not None


async def test_a_compacted_topic_is_compacted_on_disk(place: Place) -> None:
    bus = await place.bus()
    await bus.ensure_topic("t.models", 1, compacted=True)
    for n in range(500):
        await bus.publish("t.models", [OutRecord(b"%d" % n, key=b"%d" % (n % 3))])
    await place.stop()
    bus = await place.bus()
    past = await anext(bus.follow("t.models"))
    assert [bytes(record.value) for record in past][-3:] == [b"497", b"498", b"499"]
    assert len(past) < 100
    assert (await bus.publish("t.models", [OutRecord(b"", key=b"0")])).offset == 500


async def test_dead_letters_are_bounded_on_disk(place: Place) -> None:
    bus = await place.bus(retention=100)
    await bus.ensure_topic("t.dead.m", 1)
    for _ in range(10):
        await bus.publish("t.dead.m", [OutRecord(bytes(30))])
    await place.stop()
    bus = await place.bus()
    assert [await bus.read_record("t.dead.m", 0, n) is not None for n in range(10)] == [False] * 7 + [True] * 3
    assert (await bus.publish("t.dead.m", numbered(1))).offset == 10


async def test_the_files_do_not_grow_for_ever(place: Place) -> None:
    bus, store = await place.bus(), await place.store()
    await bus.ensure_topic(TOPIC, 1)
    await store.listen("g", lambda wakes: None)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())

    async def one_round(first: int) -> None:
        await bus.publish(TOPIC, [OutRecord(bytes(2000))] * 100)
        records = await consumer.fetch(100, 1.0)
        await store.finish([Terminal(f"{first + record.offset}", b"x", "g", ttl=0.0) for record in records])
        await store.finish([Terminal(f"g{record.offset}", bytes(2000), "gone", ttl=0.0) for record in records])
        await consumer.commit({0: records[-1].offset + 1})

    for turn in range(40):
        await one_round(turn)
    await place.stop()
    assert place.size() < 2_000_000, "16 MB passed, and nothing of them is needed any more"


async def test_claims_and_terminals_are_there_after_a_restart(place: Place) -> None:
    store = await place.store()
    await store.listen("g", lambda wakes: None)
    for ref in ("open", "confirmed", "running", "done", "retriable", "trimmed"):
        await store.claim(new_claim(ref, "g"))
    await store.confirm("confirmed", published=True)
    assert await store.start(["running", "plain-running"], "w", 60.0) == [1, 1]
    await store.finish(
        [Terminal("done", b"\xff", "g"), Terminal("retriable", b"x", "g", retriable=True), Terminal("trimmed", b"x")]
    )
    await store.finish(
        [Terminal("delivered", b"x", "g"), Terminal("kept", b"\xfe", "h"), Terminal("short", b"x", "g", ttl=0.01)]
    )
    await store.finish([Terminal("plain-running", b"x", "g")])
    await store.trim(["trimmed"])
    refs = [
        "open",
        "confirmed",
        "running",
        "done",
        "retriable",
        "trimmed",
        "delivered",
        "kept",
        "plain-running",
        "never",
    ]
    before = await store.look(refs)
    await place.stop()

    store = await place.store()
    assert await store.look(refs) == before
    while await store.look(["short"]) != [None]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    outcomes = await store.finish([Terminal(ref, b"late") for ref in refs[3:9]])
    assert outcomes == [FinishOutcome.ALREADY_TERMINAL] * 6
    assert (await store.claim(new_claim("done"))).payload == b"\xff"
    states = {
        ref: (await store.claim(new_claim(ref, fingerprint=f))).state for ref, f in zip(refs[:5], "1" * 5, strict=True)
    }
    assert set(states.values()) == {ClaimState.MISMATCH}
    states = {ref: (await store.claim(new_claim(ref))).state for ref in refs[:5]}
    assert states == {
        "open": ClaimState.ATTACHED,
        "confirmed": ClaimState.ATTACHED,
        "running": ClaimState.ATTACHED,
        "done": ClaimState.DONE,
        "retriable": ClaimState.FRESH,
    }
    assert await store.start(["running"], "w", 60.0) == [1], "it is known who began it"
    assert await store.start(["running"], "w2", 60.0) == [2]


async def test_expired_streams_are_gone_from_the_disk(place: Place) -> None:
    store = await place.store()
    for n in range(20):
        await store.claim(new_claim(f"{n}", ttl=0.05))
        await store.finish([Terminal(f"plain{n}", bytes(10_000), "h", ttl=0.05)])
    await place.stop()
    await asyncio.sleep(0.06)
    await place.store()
    await place.stop()
    with contextlib.closing(sqlite3.connect(place.folder / "results.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM streams").fetchone() == (0,)


async def test_a_wake_comes_only_when_its_terminal_is_on_disk(place: Place) -> None:
    store, wakes = await place.store(), asyncio.Event()
    await store.listen("g", lambda _: wakes.set())
    finishing = asyncio.ensure_future(store.finish([Terminal("1", b"x", "g")]))
    await asyncio.sleep(0)
    finishing.cancel()
    await asyncio.wait_for(wakes.wait(), 5)
    await place.stop()
    store = await place.store()
    assert await store.finish([Terminal("1", b"late")]) == [FinishOutcome.ALREADY_TERMINAL]


async def test_a_record_is_fetched_only_when_it_is_on_disk(place: Place) -> None:
    bus = await place.bus()
    await bus.ensure_topic(TOPIC, 1)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    publishing = [asyncio.ensure_future(bus.publish(TOPIC, numbered(2, 2 * n))) for n in range(5)]
    await asyncio.sleep(0)
    assert await consumer.fetch(10, 0.0) == []
    for one in publishing[1:]:
        one.cancel()
    records = await take(consumer, 10)
    assert values(records) == [record.value for record in numbered(10)]
    assert [record.offset for record in records] == list(range(10))


# --- failures --------------------------------------------------------------------------------------------------------


async def test_a_full_disk_loses_nothing_that_was_acknowledged(place: Place) -> None:
    bus, store = await place.bus(), await place.store()
    broker, server = bus._broker, store._server
    assert isinstance(broker, SqliteBroker)
    await bus.ensure_topic(TOPIC, 1)
    await bus.publish(TOPIC, numbered(2))
    await store.claim(new_claim("a"))
    for journal in (broker.journal, server.journal):
        await journal.query(fill_the_disk)
    large = bytes(200_000)
    with pytest.raises(Unavailable, match=r"bus\.sqlite cannot be written: database or disk is full"):
        await bus.publish(TOPIC, [OutRecord(large)])
    with pytest.raises(Unavailable, match=r"results\.sqlite cannot be written: database or disk is full"):
        await store.finish([Terminal("a", large), Terminal("b", large)])
    for journal in (broker.journal, server.journal):
        await journal.query(free_the_disk)

    async with asyncio.timeout(5):
        while not (await bus.healthy() and await store.healthy()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [state and state.state for state in await store.look(["a", "b"])] == ["queued", None]
    assert await store.finish([Terminal("a", b"x"), Terminal("b", b"y")]) == [FinishOutcome.WRITTEN] * 2
    assert (await bus.publish(TOPIC, numbered(1))).offset == 2
    await place.stop()
    bus, store = await place.bus(), await place.store()
    assert [state and state.payload for state in await store.look(["a", "b"])] == [b"x", b"y"]
    assert await bus.read_record(TOPIC, 0, 2) is not None


async def test_one_process_per_folder(place: Place) -> None:
    await place.bus()
    await place.store()
    other = Place(place.folder)
    for opening in (other.bus(), other.store()):
        with pytest.raises(ConfigError, match="is in use by another process"):
            await opening


async def test_a_stream_that_cannot_be_read_names_the_file(place: Place) -> None:
    await place.store()
    await place.stop()
    with contextlib.closing(sqlite3.connect(place.folder / "results.sqlite")) as database, database:
        database.execute("INSERT INTO streams VALUES ('a', ?)", (pack({"surprise": 1}),))
    with pytest.raises(ConfigError, match=r"results\.sqlite is damaged .*the stream of a is not readable"):
        await place.store()


async def test_a_transport_needs_its_folder() -> None:
    for kind in (SqliteBus, SqliteStore):
        with pytest.raises(ConfigError, match="--data-dir"):
            kind(TransportSettings())


# --- kills -----------------------------------------------------------------------------------------------------------


def run_victim(folder: Path, first: int, lines: int) -> list[list[str]]:
    """Start a victim, read that many lines, kill it; returns everything it printed."""
    command = [sys.executable, "-m", "tests.transport.victim", str(folder), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as victim:
        assert victim.stdout is not None
        said = [victim.stdout.readline() for _ in range(lines)]
        victim.kill()
        said += victim.stdout.readlines()
    assert victim.returncode == -signal.SIGKILL
    return [line.split() for line in said if line.endswith("\n")]


class Acknowledged:
    """What victims reported as done."""

    def __init__(self) -> None:
        self.published: dict[tuple[int, int], bytes] = {}
        self.finished: list[str] = []
        self.confirmed: list[str] = []
        self.committed: dict[int, int] = {}

    def hear(self, what: str, words: list[str]) -> None:
        if what == "published":
            partition, offset, number = map(int, words)
            self.published.update({(partition, offset + n): b"%d" % (number + n) for n in range(3)})
        elif what == "finished":
            self.finished.append(words[0])
        elif what == "confirmed":
            self.confirmed.append(words[0])
        elif what == "committed":
            self.committed[int(words[0])] = int(words[1])


async def test_a_killed_process_loses_nothing_that_it_was_told(place: Place) -> None:
    acknowledged = Acknowledged()
    for life, lines in enumerate((150, 1, 260)):
        for what, *words in run_victim(place.folder, 100_000 * life, lines):
            acknowledged.hear(what, words)
    assert acknowledged.published
    assert acknowledged.finished
    assert acknowledged.committed

    bus, store, owner = await place.bus(), await place.store(), Owner()
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", owner)
    done = {partition: entry.committed for partition, entry in owner.owned.items()}
    assert all(done[partition] >= offset for partition, offset in acknowledged.committed.items())
    left = {(record.partition, record.offset): bytes(record.value) for record in await consumer.fetch(100_000, 0.0)}
    expected = {place: value for place, value in acknowledged.published.items() if place[1] >= done[place[0]]}
    assert {place: left.get(place) for place in expected} == expected

    refs = acknowledged.finished
    assert await store.finish([Terminal(ref, b"late") for ref in refs]) == [FinishOutcome.ALREADY_TERMINAL] * len(refs)
    assert [state and state.payload for state in await store.look(refs)] == [b"by %s" % ref.encode() for ref in refs]
    claims = [await store.claim(new_claim(ref, fingerprint="f")) for ref in acknowledged.confirmed]
    assert {claimed.state for claimed in claims} == {ClaimState.ATTACHED}
