"""Answers on topics from a real fleet: workers are killed in the middle, a topic cannot be written, an answer is too large."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from redis.asyncio import Redis

from infra.local.kafka import Broker
from protocol.answers import decode_answer, partition_of
from protocol.codec import encode_request
from protocol.errors import Code
from protocol.messages import InferReply, InferRequest, Lane
from protocol.naming import Names
from protocol.ports import Record
from protocol.tensors import from_array
from tests.integration.fleet import Fleet, fleet, wait_for
from tests.integration.repositories import ADD, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

ROWS = 3000
WITHIN = 60.0


class Site:
    """One fleet, and a client of its broker.

    Attributes:
        producer: a plain client.
    """

    def __init__(self, running: Fleet, producer: AIOKafkaProducer, admin: AIOKafkaAdminClient) -> None:
        self.fleet, self.producer, self.admin = running, producer, admin
        self.names = Names(running.prefix)
        self.requests = self.names.infer_topic("add", "1")

    async def use_batch_lane(self) -> None:
        """Send to the batch topic from now on; this is its first use."""
        self.requests = self.names.batch_topic("add", "1")
        await self.admin.create_topics([NewTopic(self.requests, 4, 1)])

    async def send(self, name: str, number: float, job: str, *, rows: int = 1, json_body: bool = False) -> None:
        a, b = np.full((rows, 4), number, np.float32), np.ones((rows, 4), np.float32)
        reply_to = self.names.reply_to_topic(job)
        if json_body:
            inputs = [
                {"name": n, "datatype": "FP32", "shape": [rows, 4], "data": x.ravel().tolist()}
                for n, x in (("A", a), ("B", b))
            ]
            value, headers = (
                json.dumps({"inputs": inputs}).encode(),
                [("id", name.encode()), ("reply-to", reply_to.encode())],
            )
        else:
            value, headers = encode_request(
                InferRequest(name, "add", "1", (from_array("A", a), from_array("B", b)), reply_to=reply_to)
            )
        await self.producer.send(self.requests, value, headers=headers)

    async def create(self, job: str, partitions: int = 1, **config: str) -> None:
        topic = NewTopic(
            self.names.results_topic(job),
            partitions,
            1,
            topic_configs={k.replace("_", "."): v for k, v in config.items()},
        )
        await self.admin.create_topics([topic])

    async def set(self, job: str, **config: str) -> None:
        configs = {k.replace("_", "."): v for k, v in config.items()}
        resource = ConfigResource(ConfigResourceType.TOPIC, self.names.results_topic(job), configs)
        await self.admin.alter_configs([resource])

    async def answers(self, job: str, ids: Sequence[str], partitions: int = 1) -> Mapping[str, list[Record]]:
        """The records of every id, read until each has one."""
        topic = self.names.results_topic(job)
        found: dict[str, list[Record]] = {}
        missing = set(ids)
        consumer = AIOKafkaConsumer(bootstrap_servers=self.fleet.kafka, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
            end = time.monotonic() + WITHIN
            while missing:
                assert time.monotonic() < end, f"{len(missing)} answers are missing, such as {sorted(missing)[:3]}"
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    for each in records:
                        record = Record(
                            topic,
                            place.partition,
                            each.offset,
                            each.timestamp / 1e3,
                            each.value,
                            each.headers,
                            each.key,
                        )
                        name, _ = decode_answer(record)
                        found.setdefault(name, []).append(record)
                        missing.discard(name)
        finally:
            await consumer.stop()
        return found

    async def done(self) -> None:
        """Return once no record is left undone."""
        lag = lambda: sum(worker.metric("penstock_worker_lag_records") for worker in self.fleet.workers)  # noqa: E731
        await asyncio.to_thread(wait_for, "the lag to reach zero", lambda: lag() == 0)


@pytest.fixture(scope="module")
def running(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("answers")
    write_model(folder / "models", "add", ADD % (folder / "runs"))
    with fleet(kafka_bootstrap, redis_url, f"a{time.time_ns() % 10**9}", folder, folder / "models") as made:
        for _ in range(2):
            made.add_worker("--partitions", "4", "--batch-lane-max-ms", "200")  # its batches take 30 ms
        made.wait_ready(models=1)
        yield made


@asynccontextmanager
async def clients(running: Fleet) -> AsyncIterator[Site]:
    producer = AIOKafkaProducer(bootstrap_servers=running.kafka, enable_idempotence=True)
    admin = AIOKafkaAdminClient(bootstrap_servers=running.kafka)
    await producer.start()
    await admin.start()
    try:
        yield Site(running, producer, admin)
    finally:
        await producer.stop()
        await admin.close()


def one_answer(records: Sequence[Record]) -> InferReply:
    """The answer of one id; all its records must have the same bytes."""
    first = records[0]
    for other in records[1:]:
        assert (other.key, bytes(other.value), list(other.headers)) == (
            first.key,
            bytes(first.value),
            list(first.headers),
        )
    return decode_answer(first)[1]


@pytest.mark.parametrize("lane", list(Lane))
async def test_workers_that_are_killed_again_and_again_lose_no_answer(running: Fleet, lane: Lane) -> None:
    async with clients(running) as site:
        rows, job = 1, f"killed-{lane}"
        if lane is Lane.BATCH:
            await site.use_batch_lane()
            rows = 32  # two batches of the model
        await site.create(job, 3, cleanup_policy="compact")
        ids = {f"{lane}-{number}": number for number in range(ROWS // rows)}
        for name, number in ids.items():
            await site.send(name, number, job, rows=rows, json_body=number % 2 == 0)
        await site.producer.flush()
        dice = random.Random(7)
        reading = asyncio.create_task(site.answers(job, list(ids), 3))
        kills = 0
        while not reading.done() and kills < 8:
            await asyncio.sleep(dice.uniform(0.3, 0.9))  # a kill may come between any two steps
            victim = running.workers[kills % 2]
            if victim.working_pid != victim.process.pid:  # its supervisor has started it again
                victim.kill_worker()
                kills += 1
        found = await reading
        await site.done()
        found = await site.answers(job, list(ids), 3)
        assert set(found) == set(ids)
        for name, number in ids.items():
            reply = one_answer(found[name])
            assert reply.outputs[0].array().tolist() == [[number + 1] * 4] * rows
            assert found[name][0].partition == partition_of(name.encode(), 3)
        print(f"{kills} kills, {sum(len(records) > 1 for records in found.values())} answers came more than once")
        async with Redis.from_url(running.redis) as store:
            key = site.names.result_key(f"{lane}-{len(ids) - 1}")
            assert all(b"r" not in fields for _, fields in await store.xrange(key)), (
                "the payload is gone, the fence is there"
            )
            assert 0 < await store.pttl(key) <= 60_000


async def test_a_topic_that_takes_nothing_delays_no_other_answer_and_has_all_when_it_is_back(running: Fleet) -> None:
    async with clients(running) as site:
        await site.create("broken", max_message_bytes="50")
        stuck = [f"stuck-{number}" for number in range(20)]
        others = [f"other-{number}" for number in range(50)]
        for number, name in enumerate(stuck):
            await site.send(name, number, "broken")
        for number, name in enumerate(others):
            await site.send(name, number, "fine")
        found = await site.answers("fine", others)
        assert set(found) == set(others)
        ports = [worker.metrics_port for worker in running.workers]
        async with httpx.AsyncClient(timeout=5) as http:
            said = [(await http.get(f"http://127.0.0.1:{port}/v2/health/ready")).text for port in ports]
        assert any(f"'publish answers to {site.names.results_topic('broken')}' fails" in text for text in said), said
        await site.set("broken", max_message_bytes="1000000")
        found = await site.answers("broken", stuck)
        failures = [failure for name in stuck if (failure := one_answer(found[name]).failure) is not None]
        assert {failure.code for failure in failures} <= {Code.TOO_LARGE}
        assert len(failures) <= len(running.workers), (
            "each may be between a refused answer and its failure at that moment"
        )
        await site.done()


async def test_an_answer_above_the_topics_limit_is_a_failure_and_the_rest_are_answers(running: Fleet) -> None:
    async with clients(running) as site:
        await site.create("small", cleanup_policy="compact", max_message_bytes="700")
        await site.send("large", 1234567, "small", rows=16, json_body=True)
        for number in range(10):
            await site.send(f"small-{number}", number, "small", json_body=True)
        found = await site.answers("small", ["large", *[f"small-{number}" for number in range(10)]])
        failure = one_answer(found["large"]).failure
        assert failure is not None
        assert failure.code is Code.TOO_LARGE
        assert all(one_answer(found[f"small-{number}"]).failure is None for number in range(10))


def acl(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    literal = ResourcePatternType.LITERAL
    return AclBinding(ResourceType.TOPIC, topic, literal, "User:ANONYMOUS", "*", operation, permission)


AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@pytest.mark.parametrize("own_kafka", [AUTHORIZER], indirect=True)
@pytest.mark.parametrize("denied", [AclOperation.WRITE, AclOperation.ALL])
async def test_a_topic_that_the_worker_may_not_write_is_named_and_gets_its_answers_once_it_may(
    own_kafka: Broker, redis_url: str, tmp_path: Path, denied: AclOperation
) -> None:
    write_model(tmp_path / "models", "add", ADD % (tmp_path / "runs"))
    with fleet(own_kafka.bootstrap, redis_url, f"a{time.time_ns() % 10**9}", tmp_path, tmp_path / "models") as made:
        worker = made.add_worker("--partitions", "1")
        made.wait_ready(models=1)
        async with clients(made) as site:
            await site.create("closed")
            topic = site.names.results_topic("closed")
            operator = AdminClient({"bootstrap.servers": own_kafka.bootstrap})
            bindings = [
                acl(topic, denied, AclPermissionType.DENY), acl(topic, AclOperation.READ, AclPermissionType.ALLOW)
            ]  # fmt: skip
            for result in operator.create_acls(bindings).values():
                result.result()
            await site.send("stuck", 1, "closed")
            for number in range(30):
                await site.send(f"other-{number}", number, "open")
            await site.answers("open", [f"other-{number}" for number in range(30)])
            url = f"http://127.0.0.1:{worker.metrics_port}/v2/health/ready"
            wait_for(
                "readiness to name the topic", lambda: f"'publish answers to {topic}' fails" in httpx.get(url).text
            )
            wait_for("the lag of a heartbeat", lambda: worker.metric("penstock_worker_lag_records") > 0)

            everything = AclBindingFilter(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.LITERAL,
                None,
                None,
                AclOperation.ANY,
                AclPermissionType.ANY,
            )
            for result in operator.delete_acls([everything]).values():
                result.result()
            found = await site.answers("closed", ["stuck"])
            assert one_answer(found["stuck"]).failure is None
            await site.done()
