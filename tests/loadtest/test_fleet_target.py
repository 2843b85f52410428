from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import numpy as np
import pytest

from loadtest import arrivals, payloads
from loadtest.fleet_target import FleetTarget
from loadtest.openloop import Ticket, closed_loop, open_loop
from loadtest.payloads import Pool
from loadtest.samples import Outcome, Samples
from loadtest.targets import newest_ready
from protocol import codec, heartbeat_codec, naming
from protocol.errors import Code, NotFound
from protocol.messages import Announcement, Failure, InferReply, InferRequest, ModelState
from protocol.naming import Names
from protocol.ports import Assigned, OutRecord, Published, Terminal
from protocol.tensors import from_array
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.loadtest.conftest import add_and_subtract

NAMES = Names()
SETTINGS = TransportSettings()
TOPIC = NAMES.infer_topic("addsub", "1")
Answering = Callable[[InferRequest], InferReply | None]


class _Owner:
    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None: ...

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: Collection[int]) -> None: ...


class Fleet:
    """An embedded bus and store, and a worker that answers each record with `answering`."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.server = MemoryServer()
        self.answering: Answering = computed
        self.inline = True
        self.fetches: list[int] = []

    def transport(self) -> Transport:
        store = MemoryStore(SETTINGS, self.server)
        return Transport(MemoryBus(self.broker), store, store)

    def target(self, pool: Pool) -> FleetTarget:
        return FleetTarget(self.transport(), NAMES, "addsub", "1", pool)

    async def work(self, ready: asyncio.Event) -> None:
        transport = self.transport()
        await transport.open()
        await transport.bus.ensure_topic(TOPIC, 2)
        consumer = await transport.bus.subscribe(TOPIC, "group", "worker", _Owner())
        ready.set()
        while True:
            records = await consumer.fetch(64, 1.0)
            self.fetches.append(len(records))
            answers = []
            for record in records:
                request = codec.decode_request(
                    record.value, record.headers, model="addsub", version="1", default_id="?", timestamp=0.0
                )
                reply = self.answering(request)
                if reply is not None:
                    ref = naming.ref(request.principal, request.id)
                    answers.append(Terminal(ref, codec.encode_reply(reply), request.reply_to))
            await transport.results.finish(answers)


def computed(request: InferRequest) -> InferReply:
    arrays = {tensor.name: tensor.array() for tensor in request.inputs}
    outputs = tuple(from_array(name, array) for name, array in add_and_subtract(arrays).items())
    return InferReply("addsub", "1", outputs=outputs)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet, ready = Fleet(), asyncio.Event()
    worker = asyncio.create_task(fleet.work(ready))
    await ready.wait()
    yield fleet
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker


async def test_every_request_is_published_and_its_answer_checked(fleet: Fleet, pool: Pool) -> None:
    target, samples = fleet.target(pool), Samples()
    await open_loop(target, arrivals.schedule("poisson", 2000, 0.2), samples)
    assert samples.outcomes == {Outcome.OK: samples.total}
    assert samples.total == len(list(arrivals.schedule("poisson", 2000, 0.2)))
    assert not target.complaints


async def test_what_is_due_together_is_published_together(fleet: Fleet, pool: Pool) -> None:
    samples = Samples()
    await open_loop(fleet.target(pool), iter([0.0] * 32), samples)
    assert samples.outcomes == {Outcome.OK: 32}
    assert fleet.fetches[0] == 32


class Slow(MemoryBus):
    """A bus that acknowledges on command."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.acknowledged = asyncio.Event()
        self.groups: list[int] = []

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        self.groups.append(len(records))
        published = await super().publish(topic, records, partition)
        await self.acknowledged.wait()
        return published


async def test_what_is_due_while_two_groups_are_on_their_way_goes_together(fleet: Fleet, pool: Pool) -> None:
    bus, store = Slow(fleet.broker), MemoryStore(SETTINGS, fleet.server)
    target = FleetTarget(Transport(bus, store, store), NAMES, "addsub", "1", pool)
    left, all_answered = [6], asyncio.Event()

    def answered(ticket: Ticket, outcome: Outcome) -> None:
        left[0] -= 1
        if not left[0]:
            all_answered.set()

    await target.open(answered, 1)
    for number in range(6):
        target.send(Ticket(number, 0.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert bus.groups == [1, 1]
    bus.acknowledged.set()
    await all_answered.wait()
    assert bus.groups == [1, 1, 4]
    await target.close()


async def test_a_closed_loop_runs_over_the_bus_too(fleet: Fleet, pool: Pool) -> None:
    samples = Samples()
    await closed_loop(fleet.target(pool), 8, 0.1, samples)
    assert samples.outcomes[Outcome.OK] == samples.total > 8


async def test_a_large_answer_that_only_a_look_brings_is_read(fleet: Fleet) -> None:
    """The embedded store sends answers above 16 KB by pointer, as Redis does."""
    spec = [payloads.InputSpec(name, "FP32", (1, 8192)) for name in ("INPUT0", "INPUT1")]
    pool = payloads.build(spec, 4, reference=add_and_subtract)
    samples = Samples()
    await open_loop(fleet.target(pool), iter([0.0, 0.01, 0.02, 0.03]), samples)
    assert samples.outcomes == {Outcome.OK: 4}


@pytest.mark.parametrize(
    ("reply", "outcome", "complaint"),
    [
        (InferReply("addsub", "1", failure=Failure(Code.MODEL_FAILED, "boom")), Outcome.FAILED, "boom"),
        (InferReply("addsub", "1", failure=Failure(Code.EXHAUSTED, "full")), Outcome.REJECTED, "full"),
        (
            InferReply("addsub", "1", outputs=(from_array("OUTPUT0", np.zeros((1, 16), "f4")),)),
            Outcome.WRONG,
            "not the",
        ),
        (InferReply("addsub", "1"), Outcome.WRONG, "not the"),
    ],
)
async def test_what_is_not_right_is_counted_and_named(
    fleet: Fleet, pool: Pool, reply: InferReply, outcome: Outcome, complaint: str
) -> None:
    fleet.answering = lambda _: reply
    target, samples = fleet.target(pool), Samples()
    await open_loop(target, arrivals.schedule("constant", 100, 0.05), samples)
    assert samples.outcomes == {outcome: 5}
    assert complaint in next(iter(target.complaints))


async def test_a_topic_that_is_not_there_fails_the_request(fleet: Fleet, pool: Pool) -> None:
    target, samples = FleetTarget(fleet.transport(), NAMES, "nobody", "1", pool), Samples()
    await open_loop(target, iter([0.0, 0.0]), samples)
    assert samples.outcomes == {Outcome.FAILED: 2}
    assert any(complaint.startswith("failed publish:") for complaint in target.complaints)


def announcement(version: str, state: ModelState = ModelState.READY) -> Announcement:
    return Announcement("m", version, state, {"name": "m"}, "digest")


async def test_the_newest_ready_version_is_found_in_the_catalogue() -> None:
    bus = MemoryBus()
    await bus.open()
    await bus.ensure_topic(NAMES.catalogue_topic, 1, compacted=True)
    entries = [announcement(version) for version in ("2", "10", "9")]
    entries += [announcement("11", ModelState.LOADING), announcement("12"), announcement("12", ModelState.UNAVAILABLE)]
    for entry in entries:
        key, value = heartbeat_codec.encode_announcement(entry)
        await bus.publish(NAMES.catalogue_topic, [OutRecord(value, key=key)])
    assert (await newest_ready(bus, NAMES, "m")).version == "10"
    assert (await newest_ready(bus, NAMES, "m", "9")).version == "9"
    with pytest.raises(NotFound, match="version 11 of model 'm'"):
        await newest_ready(bus, NAMES, "m", "11")
    with pytest.raises(NotFound, match="model 'x'"):
        await newest_ready(bus, NAMES, "x")
    await bus.close()
