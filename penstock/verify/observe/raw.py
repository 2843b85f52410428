"""Raw access to Kafka and Redis, for reads and for a producer of the run's own.

Invariant: of `protocol.transport` only the connection options are used, so that a fault in it cannot hide itself from the checker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.asyncio import Redis, Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

from penstock.verify.observe.history import DeadRecord, LogRecord, StreamState, digest
from protocol import codec
from protocol.dead_letter import DEAD_OFFSET, DEAD_PARTITION, DEAD_REASON, DEAD_TOPIC, EVIDENCE_HEADERS
from protocol.errors import FleetError
from protocol.messages import ANONYMOUS, InferReply
from protocol.naming import Names, ref
from protocol.transport.kafka.connection import connection_options
from protocol.transport.redis.address import Address
from protocol.transport.settings import TransportSettings

TERMINAL: Final = b"18446744073709551615-18446744073709551615"
TROUBLE: Final = (KafkaError, RedisError, OSError, TimeoutError)
"""Errors of a read while its server is being broken; it is repeated later."""
_IN_CALL: Final = 500


class RawKafka:
    """Kafka: every record of some topics, committed offsets, and a producer.

    Args:
        settings: how to connect.
        topics: the infer topics; each is also the name of its group.
    """

    def __init__(self, settings: TransportSettings, topics: Sequence[str]) -> None:
        self._options = connection_options(settings)
        self._names = settings.names
        self.topics = tuple(topics)
        self._consumer: Any = None
        self._admin: Any = None
        self.producer: Any = None
        self._assigned: set[TopicPartition] = set()
        self._unread: list[Any] = []

    async def open(self) -> None:
        """Connect; the topics must exist."""
        self._consumer = AIOKafkaConsumer(**self._options, enable_auto_commit=False, auto_offset_reset="earliest")
        self._admin = AIOKafkaAdminClient(**self._options)
        self.producer = AIOKafkaProducer(**self._options, acks="all")
        await self._consumer.start()
        await self._admin.start()
        await self.producer.start()

    async def close(self) -> None:
        """Disconnect."""
        for client, end in ((self._consumer, "stop"), (self.producer, "stop"), (self._admin, "close")):
            if client is not None:
                with contextlib.suppress(Exception):
                    await getattr(client, end)()

    async def follow(self, topics: Iterable[str]) -> None:
        """Also read these topics, from their start; those that do not exist yet are skipped."""
        followed = {place.topic for place in self._assigned}
        new = set(topics) - followed
        there = sorted(new & set(await self._admin.list_topics())) if new else []
        if not there:
            return
        positions = {place: await self._consumer.position(place) for place in self._assigned}
        for entry in await self._admin.describe_topics(there):
            self._assigned |= {TopicPartition(entry["topic"], part["partition"]) for part in entry["partitions"]}
        self._consumer.assign(list(self._assigned))
        for place in self._assigned:
            self._consumer.seek(place, positions.get(place, 0))

    async def committed(self) -> dict[tuple[str, int], int]:
        """Committed offsets of all groups, from their coordinators."""
        offsets: dict[tuple[str, int], int] = {}
        for topic in self.topics:
            found = await self._admin.list_consumer_group_offsets(topic)
            offsets |= {(place.topic, place.partition): at.offset for place, at in found.items() if at.offset >= 0}
        return offsets

    async def ends(self) -> dict[TopicPartition, int]:
        """Log ends of the followed partitions."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(self._assigned))
        return ends

    async def starts(self) -> dict[str, int]:
        """Log starts of the infer topics, by `topic/partition`."""
        mine = [place for place in self._assigned if place.topic in self.topics]
        found = await self._consumer.beginning_offsets(mine)
        return {f"{place.topic}/{place.partition}": offset for place, offset in found.items()}

    async def read_to(self, ends: dict[TopicPartition, int]) -> list[Any]:
        """All records since the last call up to these ends; the next call also returns records read by one that failed."""
        while behind := [place for place, end in ends.items() if await self._consumer.position(place) < end]:
            batches = await self._consumer.getmany(*behind, timeout_ms=500, max_records=2000)
            self._unread += [record for batch in batches.values() for record in batch]
        records, self._unread = self._unread, []
        return records

    async def forget(self) -> None:
        """Delete all topics of the run."""
        head = f"{self._names.prefix}."
        mine = [topic for topic in await self._admin.list_topics() if topic.startswith(head)]
        if mine:
            await self._admin.delete_topics(mine)


def log_record(record: Any, number_of: Callable[[Any], int | None]) -> LogRecord:
    """A record of an infer topic, as the judge needs it."""
    fields = {name: value for name, value in record.headers if value}
    stamps, deadline = fields.get("stamps", b""), fields.get("deadline", b"")
    accepted = int.from_bytes(stamps[:8], "big") / 1e6 if len(stamps) == 16 else 0.0
    return LogRecord(
        record.topic, record.partition, record.offset, _ref(fields), number_of(record), accepted,
        int(deadline) / 1e6 if deadline.isdigit() else 0.0, digest(record.value), record.timestamp / 1000,
    )  # fmt: skip


def dead_record(record: Any) -> DeadRecord:
    """A dead letter, as the judge needs it."""
    text = {name: (value or b"").decode(errors="replace") for name, value in record.headers if name in EVIDENCE_HEADERS}
    partition, offset = text.get(DEAD_PARTITION, ""), text.get(DEAD_OFFSET, "")
    return DeadRecord(
        text.get(DEAD_TOPIC, ""),
        int(partition) if partition.isdigit() else -1,
        int(offset) if offset.isdigit() else -1,
        digest(record.value),
        text.get(DEAD_REASON, ""),
    )


def _ref(fields: dict[str, bytes]) -> str:
    try:
        return ref(fields.get("principal", b"").decode() or ANONYMOUS, fields.get("id", b"").decode())
    except (FleetError, UnicodeDecodeError):
        return ""


class RawRedis:
    """Redis: result streams as they are.

    Attributes:
        losses: when it was seen to have lost data.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self._names: Names = settings.names
        self._redis: Any = _connected(settings.redis)
        self._canary = f"{settings.prefix}:verify"
        self._marks = 0
        self._marking = asyncio.Lock()
        self.losses: list[float] = []

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def ahead(self) -> float:
        """Seconds that Redis' clock is ahead of ours."""
        sent = time.time()
        seconds, micros = await self._redis.time()
        return float(seconds) + float(micros) / 1e6 - (sent + time.time()) / 2

    async def version(self) -> str:
        """Redis' own."""
        return str((await self._redis.info("server")).get("redis_version", ""))

    async def mark(self, at: float) -> None:
        """Increment a counter key, and note in `losses` when it decreased: a failover may lose only the latest writes."""
        async with self._marking:
            await self._to_primary()
            before = await self._redis.getset(self._canary, self._marks + 1)
            if int(before or 0) < self._marks:
                self.losses.append(at)
            self._marks += 1

    async def _to_primary(self) -> None:
        """Leave a primary that the Sentinels have replaced: one that hung answers again, without the writes since."""
        pool = self._redis.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            await pool.get_master_address()  # type: ignore[no-untyped-call]

    async def look(self, refs: Sequence[str], at: float) -> dict[str, StreamState]:
        """What each stream holds; refs without one are left out."""
        found: dict[str, StreamState] = {}
        await self._to_primary()
        for start in range(0, len(refs), _IN_CALL):
            part = refs[start : start + _IN_CALL]
            async with self._redis.pipeline(transaction=False) as pipe:
                for request in part:
                    pipe.xinfo_stream(self._names.result_key(request))
                replies = await pipe.execute(raise_on_error=False)
            for request, reply in zip(part, replies, strict=True):
                if isinstance(reply, Exception):
                    if "no such key" not in str(reply):
                        raise reply
                    continue
                found[request] = _stored(request, at, reply)
        return found

    async def weigh(self) -> int:
        """The size of all keys of the run, in bytes."""
        keys, total = await self._keys(), 0
        for start in range(0, len(keys), _IN_CALL):
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys[start : start + _IN_CALL]:
                    pipe.memory_usage(key)
                total += sum(size or 0 for size in await pipe.execute())
        return total

    async def _keys(self) -> list[bytes]:
        return [key async for key in self._redis.scan_iter(match=f"{self._names.prefix}:*", count=1000)]

    async def forget(self) -> None:
        """Delete all keys of the run."""
        keys = await self._keys()
        for start in range(0, len(keys), _IN_CALL):
            await self._redis.unlink(*keys[start : start + _IN_CALL])


def _connected(url: str) -> Any:
    """A client for this URL; with Sentinels it looks up the primary for every connection."""
    address = Address.parse(url)
    if address.sentinels is None:
        return Redis.from_url(url)
    sentinels = address.sentinels
    asked: Any = Sentinel(sentinels.hosts, sentinel_kwargs={**sentinels.login, **address.tls})  # type: ignore[no-untyped-call]
    own = {name: value for name, value in address.options.items() if name not in {"host", "port"}}
    return asked.master_for(sentinels.name, **own | address.tls)


def _stored(request: str, at: float, facts: dict[str, Any]) -> StreamState:
    newest = facts["last-generated-id"]
    first, last = facts["first-entry"], facts["last-entry"]
    stored = StreamState(request, at, terminal=newest in {TERMINAL, TERMINAL.decode()})
    if first:
        stored.claimed = int(_fields(first).get(b"a", 0)) / 1e6
    if stored.terminal and last and last[0] == newest:
        read_reply(stored, _fields(last).get(b"r", b""))
    return stored


def _fields(entry: Any) -> dict[bytes, bytes]:
    fields = entry[1]
    return dict(fields) if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))


def read_reply(stored: StreamState, payload: bytes) -> None:
    """Fill in the content of a terminal entry's payload."""
    try:
        reply: InferReply = codec.decode_reply(payload)
    except FleetError as error:
        stored.error = f"UNREADABLE: {error.message}"
        return
    if reply.failure is not None:
        stored.error = reply.failure.code.value
        return
    values = {tensor.name: int(tensor.array().reshape(-1)[0]) for tensor in reply.outputs}
    stored.answer, stored.run = values.get("ANSWER"), values.get("RUN")
