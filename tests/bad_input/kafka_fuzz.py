"""Hostile records through a real broker to a real worker, between good requests.

Every good request is answered correctly and once, commits reach the end, the worker lives on, is ready, and its memory is
bounded.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from penstock.client import Client
from protocol.codec import decode_reply
from protocol.errors import CodecError, FleetError
from protocol.naming import Names
from protocol.ports import Wake
from protocol.transport import Transport, open_transport
from protocol.transport.settings import TransportSettings
from tests.bad_input.kafka_records import GROUP, MODELS, PARTITIONS, Group, group
from tests.integration.fleet import Process, fleet
from tests.transport.strangers import CODECS, LARGE, Name

ROUND: Final = 50
"""Groups that are written before each check."""
WITHIN: Final = 90.0
"""Seconds within which a round must finish after its last record."""
START_WITHIN: Final = 240.0
"""Seconds: a worker yields the CPU until it serves, and other fuzzers may run meanwhile."""
MAX_RESIDENT: Final = 768 * 1024 * 1024
"""Bytes of the worker's process: unread, inflated, queued and outgoing data, beside 150 MB of its own."""
CONFIG: Final = """
backend: "{backend}" max_batch_size: 16
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }} ]
parameters {{ key: "instance_isolation" value {{ string_value: "{isolation}" }} }}
"""
DOUBLED: Final = """
class Model:
    def predict(self, X):
        return {"Y": 2 * X}
"""


@dataclasses.dataclass
class Outcome:
    """The results of a run.

    Attributes:
        records, good: how many were written, and how many of these expect an answer.
        codecs: batches by codec and transaction.
        resident: the worker's maximum memory.
        given_up: records in the dead letters.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    records: int = 0
    good: int = 0
    codecs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    resident: int = 0
    given_up: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.records} records in {self.seconds:.0f} s, {self.good} good, {self.given_up:.0f} in the dead letters, the"
            f" worker's memory up to {self.resident / 2**20:.0f} MiB, batches {dict(sorted(self.codecs.items()))}"
        )


class Writers:
    """Producers of every codec, and one of transactions."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap, self._prefix = bootstrap, prefix
        self._made: dict[tuple[str | None, bool], AIOKafkaProducer] = {}

    async def write(self, topic: str, each: Group) -> None:
        """The group as one batch."""
        producer = await self._producer(each.codec, transactional=bool(each.transaction))
        if not each.transaction:
            await self._send(producer, topic, each)
            return
        await producer.begin_transaction()
        await self._send(producer, topic, each)
        await (producer.abort_transaction() if each.transaction == "abort" else producer.commit_transaction())

    async def _send(self, producer: AIOKafkaProducer, topic: str, each: Group) -> None:
        batch = producer.create_batch()
        number = CODECS[each.codec] if each.codec else 0
        builder = _DefaultRecordBatchBuilderPy(2, number, int(bool(each.transaction)), -1, -1, -1, LARGE)
        for offset, record in enumerate(each.records):
            headers = [(Name(name), value) for name, value in record.headers]
            builder.append(offset, record.timestamp, record.key, record.value, headers)  # type: ignore[arg-type]
        made: Any = batch
        made._builder, made._relative_offset = builder, len(each.records)
        made._set_producer_state = builder.set_producer_state  # its own requires the builder in C
        await (await producer.send_batch(batch, topic, partition=each.partition))

    async def _producer(self, codec: str | None, *, transactional: bool) -> AIOKafkaProducer:
        producer = self._made.get((codec, transactional))
        if producer is None:
            options: dict[str, Any] = {"transactional_id": f"{self._prefix}-{codec}"} if transactional else {}
            producer = self._made[codec, transactional] = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                compression_type=codec,
                max_batch_size=LARGE,
                max_request_size=LARGE,
                **options,
            )
            await producer.start()
        return producer

    async def close(self) -> None:
        for producer in self._made.values():
            await producer.stop()


class Judge:
    """Collects the answers, and knows which are due."""

    def __init__(self, transport: Transport, names: Names, outcome: Outcome) -> None:
        self.channel = names.gateway_channel("fuzz")
        self._transport, self._outcome = transport, outcome
        self._due: dict[str, tuple[str, int]] = {}
        self._payloads: dict[str, set[bytes]] = collections.defaultdict(set)

    async def open(self) -> None:
        await self._transport.results.listen(self.channel, self._on_wake)

    def expect(self, each: Group) -> None:
        self._due |= {name: (each.model, number) for name, number in each.good.items()}

    def _on_wake(self, wakes: list[Wake]) -> None:
        for wake in wakes:  # also of a repetition, with the kept answer
            if wake.payload is not None and wake.ref in self._due:
                self._payloads[wake.ref].add(wake.payload)

    async def judge(self) -> None:
        """Check the answers once everything written so far is finished."""
        names = list(self._due)
        for at in range(0, len(names), 256):
            refs = names[at : at + 256]
            for name, state in zip(refs, await self._transport.results.look(refs), strict=True):
                if state is not None and state.payload:
                    self._payloads[name].add(state.payload)
        for name, (model, number) in self._due.items():
            if problem := self._wrong(name, model, number):
                self._outcome.problems.append(f"record {number}, a good request of {model}, {problem}")
        self._due = {}
        self._payloads.clear()

    def _wrong(self, name: str, model: str, number: int) -> str:
        payloads = self._payloads[name]
        if len(payloads) != 1:
            return f"has {len(payloads)} answers"
        (payload,) = payloads
        try:
            reply = decode_reply(payload)
        except CodecError as exc:
            return f"has an answer that cannot be read: {exc.message}"
        if reply.failure is not None:
            return f"failed: {reply.failure.message}"
        got = reply.outputs[0].array().tolist()
        right = [[float(number if model == "same" else 2 * number)]]
        return "" if got == right else f"was answered with {got}"


class Worker:
    """The worker's process, its topics and its state; and a gateway for an honest caller."""

    def __init__(self, process: Process, gateway: Process, names: Names, bootstrap: str) -> None:
        self.process, self.gateway, self.names, self._bootstrap = process, gateway, names, bootstrap
        self.topics = [names.infer_topic(model, "1") for model in MODELS]
        self._pid = process.working_pid

    @contextlib.asynccontextmanager
    async def logs(self) -> AsyncIterator[AIOKafkaConsumer]:
        async with AIOKafkaConsumer(bootstrap_servers=self._bootstrap) as consumer:
            yield consumer

    async def take_any_time(self) -> None:
        """Make the topics accept records with any timestamp."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        anything = {f"message.timestamp.{side}.max.ms": str(2**63 - 1) for side in ("before", "after")}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, anything) for topic in self.topics])
        await admin.close()

    async def behind(self, consumer: AIOKafkaConsumer, transport: Transport) -> dict[str, int]:
        """Uncommitted offsets by partition."""
        left: dict[str, int] = {}
        for topic in self.topics:
            places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            ends = await consumer.end_offsets(places)
            committed = await transport.bus.committed(topic, topic)
            left |= {
                f"{topic}/{place.partition}": end - committed.get(place.partition, 0)
                for place, end in ends.items()
                if end > committed.get(place.partition, 0)
            }
        return left

    def resident(self) -> int:
        """Bytes of the serving process."""
        return int(psutil.Process(self._pid).memory_info().rss)

    def problems(self) -> list[str]:
        """Problems of the worker once no work is left."""
        found = []
        if self.process.process.poll() is not None:
            return [f"the worker ended: {self.process.tail()}"]
        if self.process.working_pid != self._pid:
            found.append(f"the worker crashed: {self.process.tail()}")
            self._pid = self.process.working_pid
        answer = httpx.get(f"http://127.0.0.1:{self.process.metrics_port}/v2/health/ready", timeout=10)
        if answer.status_code != 200:
            found.append(f"the worker is not ready: {answer.text}")
        with Client(self.gateway.url) as client:
            for model, factor in zip(MODELS, (1, 2), strict=True):
                try:
                    got = client.infer(model, {"X": np.array([[7]], np.float32)}, timeout=30).outputs["Y"].tolist()
                except FleetError as exc:
                    got = exc.message
                if got != [[7.0 * factor]]:
                    found.append(f"an honest caller of {model} got {got}")
        return found


def write_models(repository: Path) -> None:
    """The models of `kafka_records.MODELS`."""
    for model, backend, isolation in (("same", "identity", "thread"), ("doubled", "python", "process")):
        (repository / model / "1").mkdir(parents=True)
        (repository / model / "config.pbtxt").write_text(CONFIG.format(backend=backend, isolation=isolation))
    (repository / "doubled" / "1" / "model.py").write_text(DOUBLED)


@contextlib.contextmanager
def served(kafka: str, redis: str, prefix: str, folder: Path) -> Iterator[Worker]:
    """A worker of both models, ready."""
    write_models(folder / "models")
    with fleet(kafka, redis, prefix, folder, folder / "models") as running:
        running.add_gateway()
        process = running.add_worker("--partitions", str(PARTITIONS))
        running.wait_ready(models=len(MODELS), within=START_WITHIN)
        yield Worker(process, running.gateways[0], Names(prefix), kafka)


async def fuzz_records(
    kafka: str,
    redis: str,
    prefix: str,
    seed: int,
    first: int,
    count: int,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Write `count` records, beginning with number `first`, and check the results."""
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as folder,
        served(kafka, redis, prefix, Path(folder)) as worker,
    ):
        transport = open_transport(TransportSettings(kafka=kafka, redis=redis, prefix=prefix))
        await transport.open()
        judge, writers = Judge(transport, worker.names, outcome), Writers(kafka, prefix)
        began = time.monotonic()
        try:
            await judge.open()
            await worker.take_any_time()
            async with worker.logs() as consumer:
                for start in range(first, first + count, ROUND * GROUP):
                    await _round(
                        seed, start, min(first + count, start + ROUND * GROUP), worker, writers, judge, outcome
                    )
                    await _finish(worker, consumer, transport, outcome)
                    await judge.judge()
                    outcome.problems += worker.problems()
                    outcome.seconds = time.monotonic() - began
                    outcome.given_up = worker.process.metric("penstock_worker_dead_letters_total")
                    say(f"{outcome}, {len(outcome.problems)} problems")
                    if len(outcome.problems) > 20:
                        break
        finally:
            await writers.close()
            await transport.close()
    return outcome


async def _round(
    seed: int, start: int, end: int, worker: Worker, writers: Writers, judge: Judge, outcome: Outcome
) -> None:
    for number in range(start, end, GROUP):
        each = group(seed, number, judge.channel.encode(), min(GROUP, end - number))
        judge.expect(each)
        await writers.write(worker.names.infer_topic(each.model, "1"), each)
        outcome.records += len(each.records)
        outcome.good += len(each.good)
        outcome.codecs[f"{each.codec or 'plain'}{' ' if each.transaction else ''}{each.transaction}"] += 1
        outcome.resident = max(outcome.resident, worker.resident())


async def _finish(worker: Worker, consumer: AIOKafkaConsumer, transport: Transport, outcome: Outcome) -> None:
    """Wait until everything is committed; a late commit is a problem, as is too much memory."""
    end = time.monotonic() + WITHIN
    while left := await worker.behind(consumer, transport):
        outcome.resident = max(outcome.resident, worker.resident())
        if time.monotonic() > end:
            outcome.problems.append(f"not committed after {WITHIN:.0f} s: {left}; the log ends {worker.process.tail()}")
            break
        await asyncio.sleep(0.1)
    if outcome.resident > MAX_RESIDENT:
        outcome.problems.append(f"the worker took {outcome.resident / 2**20:.0f} MiB")
