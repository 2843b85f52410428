"""The bus on Kafka (3.6 or newer; the classic group protocol), through aiokafka.

`producer` sends, `consumer` is a group's member, `connection` has the brokers' options and the requests that aiokafka lacks.
Invariant: a process that makes a group rebalance, or is the first to hear of it, sends the other members a hint
(`rebalance_hints`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    InvalidPartitionsError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    TopicAlreadyExistsError,
)

from protocol.codec import as_bytes
from protocol.errors import NotFound, Unavailable
from protocol.ports import Listener, OutRecord, Published, Record
from protocol.runtime.outages import UNKNOWN, USUAL, Meanwhile, Watch, system_error
from protocol.runtime.tasks import BackgroundTasks
from protocol.transport.kafka.aiokafka_internals import (
    AIOKafkaClient,
    ConfigResource,
    ConfigResourceType,
    MetadataRequest,
    for_code,
)
from protocol.transport.kafka.connection import (
    MAX_BATCH,
    RETRY_BACKOFF,
    connection_options,
    leave_group,
    partition_count,
    translated,
)
from protocol.transport.kafka.consumer import KafkaConsumer
from protocol.transport.kafka.extents import fetch_extents
from protocol.transport.kafka.producer import Producer
from protocol.transport.kafka.reachability import Warnings, kafka_at
from protocol.transport.kafka.reader import Follower, fetch_committed, fetch_one
from protocol.transport.kafka.rebalance_hints import RebalanceHints
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

REPLICAS: Final = 3
CALL_TIMEOUT: Final = 10.0
HEALTH_TIMEOUT: Final = 2.0
FOLLOW_PAUSE: Final = 0.5
COMPACTED: Final = {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.1"}
_ERRORS: Final = (KafkaError, OSError, TimeoutError)


class KafkaBus:
    """`protocol.ports.Bus` on a Kafka cluster.

    Args:
        settings: how to reach it.
        hints: carries rebalance hints; without it members learn of a rebalance at their next heartbeat.
        meanwhile: what the process does while the cluster is away, for its log.
    """

    def __init__(
        self, settings: TransportSettings, hints: RebalanceHints | None = None, meanwhile: Meanwhile = USUAL
    ) -> None:
        self._settings = settings
        self._hints = hints
        self._is_listening = False
        self._hinting = BackgroundTasks("Kafka bus")
        self._producer = Producer(settings)
        self._consumers: set[KafkaConsumer] = set()
        self._open = False
        self._watch = Watch(kafka_at(settings.kafka), meanwhile.kafka, self._why_away, start=meanwhile.start)
        self._warnings = Warnings(self._watch.suspect)

    async def open(self) -> None:
        """See `Bus.open`."""
        connection_options(self._settings)
        limit = self._settings.connect_timeout
        async with self._watch.starting(limit, lambda line: system_error(line) or self._producer.failure):
            await self._producer.open()
        self._open = True
        self._watch.open()
        self._warnings.open()

    async def close(self) -> None:
        """See `Bus.close`; also closes the consumers that `subscribe` returned."""
        self._open = False
        self._warnings.close()
        self._watch.close()
        self._hinting.cancel()
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        self._consumers.clear()
        await self._producer.close()

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """See `Bus.publish`."""
        return await self._producer.publish(topic, as_bytes(records), partition)

    @property
    def immediate(self) -> None:
        """None: the broker is another process."""

    async def _ask(self, what: str, ask: Callable[[AIOKafkaClient], Awaitable[T]]) -> T:
        """A request other than publishing or consuming, retried until the call timeout."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                while True:
                    client = (await self._producer.inner()).client
                    try:
                        return await ask(client)
                    except KafkaError as exc:
                        if not exc.retriable:
                            raise
                        log.info("%s is retried: %r", what, exc)
                        await client.force_metadata_update()
                        await asyncio.sleep(RETRY_BACKOFF)
        except _ERRORS as exc:
            raise translated(exc, f"{what} at {self._settings.kafka}") from None

    # --- topics ---

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """See `Bus.ensure_topic`. Three replicas and `min.insync.replicas` 2 if there are enough brokers.

        Raises:
            Unavailable: no broker answers, or it refuses to create the topic.
        """

        async def ensure(client: AIOKafkaClient) -> int:
            if not (count := await partition_count(client, topic)):
                await self._create(client, topic, partitions, compacted)
                count = await partition_count(client, topic)
            if not count:
                raise LeaderNotAvailableError(f"{topic} was created, but the brokers do not know it yet")
            return count

        return await self._ask(f"creating topic {topic}", ensure)

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """See `Bus.raise_partitions`. Members notice it within `consumer.TOPIC_INTERVAL`."""

        async def ensure(client: AIOKafkaClient) -> int:
            if 0 < (count := await partition_count(client, topic)) < partitions:
                await self._enlarge(topic, partitions)
                if (count := await partition_count(client, topic)) < partitions:
                    raise LeaderNotAvailableError(f"{topic} has new partitions, but the brokers do not know them yet")
            return count

        count = await self._ask(f"adding partitions to {topic}", ensure)
        if not count:
            raise NotFound(f"topic {topic} at {self._settings.kafka}: there is no such topic")
        return count

    async def _enlarge(self, topic: str, partitions: int) -> None:
        admin = AIOKafkaAdminClient(**connection_options(self._settings))
        try:
            await admin.start()
            await admin.create_partitions({topic: NewPartitions(partitions)})
        except InvalidPartitionsError as exc:  # another worker was faster
            log.info("partitions of %s were not added: %s", topic, exc)
        finally:
            await admin.close()

    async def partitions(self, topic: str) -> int:
        """See `Bus.partitions`."""
        return await self._ask(f"looking up {topic}", lambda client: partition_count(client, topic))

    async def _create(self, client: AIOKafkaClient, topic: str, partitions: int, compacted: bool) -> None:
        admin = AIOKafkaAdminClient(**connection_options(self._settings))
        try:
            await admin.start()
            replicas = max(min(REPLICAS, len(client.cluster.brokers())), await _default_replicas(admin))
            config = {"max.message.bytes": str(MAX_BATCH), "min.insync.replicas": "2" if replicas >= REPLICAS else "1"}
            if compacted:
                config |= COMPACTED
            response = await admin.create_topics([NewTopic(topic, partitions, replicas, topic_configs=config)])
        finally:
            await admin.close()
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            if error not in (NoError, TopicAlreadyExistsError):
                raise error(f"{name}: {' '.join(filter(None, message))}")

    # --- consuming ---

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> KafkaConsumer:
        """See `Bus.subscribe`. Returns before any partition is assigned; the listener is called then.

        Raises:
            NotFound: there is no such topic.
            Unavailable: no broker answers.
        """
        count = await self._producer.partitions(topic)
        await self._listen()
        consumer = KafkaConsumer(
            self._settings, topic, group, member, listener, lambda: self._spawn_hint(group),
            lambda: self.ensure_topic(topic, count),
        )  # fmt: skip
        self._consumers = {other for other in self._consumers if not other.closed} | {consumer}
        return consumer

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """See `Bus.evict`.

        Raises:
            Unavailable: the group's coordinator cannot be reached.
        """
        await self._ask(
            f"evicting {', '.join(members)} from {group}", lambda client: leave_group(client, group, members)
        )
        await self._hint(group)

    async def _listen(self) -> None:
        if self._hints is not None and not self._is_listening:
            self._is_listening = True
            with contextlib.suppress(Unavailable):
                await self._hints.listen_rebalances(self._on_hint)

    def _on_hint(self, group: str) -> None:
        for consumer in self._consumers:
            if consumer.group == group:
                consumer.on_rebalance_hint()

    async def _hint(self, group: str) -> None:
        if self._hints is not None:
            try:
                await self._hints.publish_rebalance(group)
            except Unavailable as exc:
                log.info("the members of %s learn of the rebalance at their next heartbeat: %s", group, exc)

    def _spawn_hint(self, group: str) -> None:
        self._hinting.spawn(self._hint(group))

    async def follow(
        self, topic: str, start: Mapping[int, int] | None = None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """See `Bus.follow`. Reconnects after any failure of the brokers.

        Raises:
            NotFound: there is no such topic.
        """
        count = await self._producer.partitions(topic)
        follower = Follower(self._settings, topic, count, start)
        while True:
            try:
                async for records in follower.records():
                    yield records
            except _ERRORS as exc:
                log.warning("following %s was interrupted: %r", topic, exc)
                await asyncio.sleep(FOLLOW_PAUSE)

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """See `Bus.read_record`.

        Raises:
            Unavailable: no broker answers.
        """
        try:
            count = await self._producer.partitions(topic)
        except NotFound:
            return None
        if not 0 <= partition < count:
            return None
        place = TopicPartition(topic, partition)
        return await self._ask(f"reading {topic}/{partition}/{offset}", lambda client: fetch_one(client, place, offset))

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """See `Bus.committed`."""
        try:
            count = await self._producer.partitions(topic)
        except NotFound:
            return {}
        return await self._ask(
            f"reading the offsets of {group}", lambda client: fetch_committed(client, group, topic, count)
        )

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """See `Bus.extents`."""
        if not topics:
            return {}
        return await self._ask(
            f"looking up the ends of {len(topics)} topics", lambda client: fetch_extents(client, topics)
        )

    async def _why_away(self) -> str:
        return "" if await self.healthy() else UNKNOWN

    async def healthy(self) -> bool:
        """See `Bus.healthy`."""
        if not self._open:
            return False
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                client = (await self._producer.inner()).client
                await client.send(client.get_random_node(), MetadataRequest([]))
        except _ERRORS:
            return False
        return True


async def _default_replicas(admin: AIOKafkaAdminClient) -> int:
    """The cluster's `default.replication.factor`, which exceeds the visible brokers while one is down. 1 if it cannot be read."""
    node = (await admin.describe_cluster())["brokers"][0]["node_id"]
    asked = ConfigResource(ConfigResourceType.BROKER, str(node), {"default.replication.factor": None})
    (answer,) = await admin.describe_configs([asked])
    values = [entry[1] for error, _, _, _, entries, *_ in answer.resources if not error for entry in entries]
    return int(values[0] or 1) if values else 1
