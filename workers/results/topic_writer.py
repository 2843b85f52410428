"""Publishes the answers of one topic of results, in the order in which they were put, and trims them in the store.

Invariants: an answer counts as delivered only once the broker has acknowledged it, or the store says that it was delivered before;
what is published is what the store kept first; a failing topic is retried until it succeeds, and no other topic waits for it.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from protocol.answers import encode_answer, partition_of, too_large, wants_json
from protocol.codec import decode_reply, encode_reply
from protocol.errors import RETRYABLE, Code, CodecError, NotFound, TooLarge, Unavailable
from protocol.messages import Failure, InferReply
from protocol.ports import OutRecord
from workers.context import Context
from workers.instances.job import Entry

MAX_GROUP: Final = 512
"""Answers that are published and trimmed together."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the answers of a group."""
MAX_BATCH: Final = 512 * 1024
"""Bytes of the records of one call of the bus, below Kafka's default of 1 MB for a topic; a larger record goes alone."""
MAX_CREATED: Final = 256
"""Topics of results that one worker creates; answers to further missing topics stay in the store."""
REFRESH: Final = 60.0
"""Seconds after which the number of partitions, and the topic's limit, are found out again."""
LARGE: Final = 256 * 1024
"""Bytes of answers above which another thread makes their JSON."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class Waiting:
    """An answer on its way to its topic.

    Attributes:
        entry: of the record that it answers.
        payload: the answer as the store takes it; b"" to ask the store.
        retriable: it is a failure after which the same id may run again.
        first: the store has kept this payload; otherwise it is asked for the one that it has.
        counted: bytes that it counts as while it waits.
    """

    entry: Entry
    payload: bytes = b""
    retriable: bool = False
    first: bool = False
    counted: int = 0


Outgoing = tuple[Waiting, OutRecord]


class TopicWriter:
    """One topic of results.

    Args:
        context: the model version's.
        topic: of results.
        creating: taken while the topic is looked up or created.
        on_delivered: gets answers whose records are done.

    Attributes:
        busy: `run` is running.
        retry: repeats its calls of store and broker; a failing one stops nothing else.
    """

    def __init__(
        self,
        context: Context,
        topic: str,
        creating: asyncio.Semaphore,
        on_delivered: Callable[[Sequence[Waiting]], None],
    ) -> None:
        self.topic = topic
        self.busy = False
        self.retry = context.retry.fresh()
        self._context = context
        self._creating = creating
        self._on_delivered = on_delivered
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._partitions = 0
        self._asked_at = 0.0
        self._refused = math.inf
        """Bytes of the smallest batch that the topic refused as too large: a refusal costs the bus a new connection."""
        self._takes_nothing = False
        """Not even a failure."""

    def put(self, answer: Waiting) -> None:
        """Publish this answer after the earlier ones; while it is not `busy`, `run` must follow."""
        self._waiting.append(answer)

    async def run(self) -> None:
        """Publish everything that waits, and what is put meanwhile."""
        self.busy = True
        try:
            while self._waiting:
                await self._deliver(self._next_group())
        finally:
            self.busy = False

    def _next_group(self) -> list[Waiting]:
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP and size < MAX_BYTES:
            group.append(self._waiting.popleft())
            size += len(group[-1].payload)
        return group

    async def _deliver(self, group: Sequence[Waiting]) -> None:
        wanted = await self._first_answers(group)
        if wanted:
            left = await self._records(wanted)
            if await self.retry.call(f"publish answers to {self.topic}", lambda: self._publish(left)):
                await self._trim(wanted)
        self._on_delivered(group)

    # --- what the store has ------------------------------------------------------------------------------------------

    async def _first_answers(self, group: Sequence[Waiting]) -> list[Waiting]:
        """The answers to publish, each as the store kept it first; those that were delivered before are left out."""
        asked = [answer for answer in group if not answer.first]
        if not asked:
            return list(group)
        refs = [answer.entry.ref for answer in asked]
        states = await self.retry.call("look up answers", lambda: self._context.results.look(refs))
        delivered = set()
        for answer, state in zip(asked, states, strict=True):
            if state is None or state.payload is None:
                answer.payload = answer.payload or _expired(answer.entry)
            elif state.payload:
                answer.payload = state.payload
            else:
                delivered.add(id(answer))
            answer.retriable = _is_retriable(answer.payload)
        return [answer for answer in group if id(answer) not in delivered]

    async def _trim(self, answers: Sequence[Waiting]) -> None:
        """Drop what was delivered; what cannot be dropped now expires soon.

        A claimed request stays: a gateway waits for it. A retriable failure leaves no fence, so that the same id may run again.
        """
        answers = [answer for answer in answers if not answer.entry.payload.claimed]
        store = self._context.results
        try:
            await store.trim([answer.entry.ref for answer in answers if not answer.retriable])
            if again := [answer.entry.ref for answer in answers if answer.retriable]:
                await store.release(again)
        except Unavailable as exc:
            log.info("delivered answers stay in the store until they expire", topic=self.topic, error=exc.message)

    # --- the topic ---------------------------------------------------------------------------------------------------

    async def _records(self, answers: Sequence[Waiting]) -> list[Outgoing]:
        def make() -> list[Outgoing]:
            return [(answer, encode_answer(answer.payload, answer.entry.payload)) for answer in answers]

        if sum([len(answer.payload) for answer in answers if wants_json(answer.entry.payload)]) > LARGE:
            return await asyncio.to_thread(make)
        return make()

    async def _publish(self, left: list[Outgoing]) -> bool:
        """Publish what is left, and remove what was acknowledged; False if there is no topic and none may be created."""
        count = await self._count()
        if not count:
            log.error(
                "answers stay in the store: there is no such topic, and this worker creates no more; create it",
                topic=self.topic, answers=len(left), created=MAX_CREATED,
            )  # fmt: skip
            return False
        parts: dict[int, list[Outgoing]] = {}
        for outgoing in left:
            parts.setdefault(partition_of(outgoing[1].key or b"", count), []).append(outgoing)
        left.clear()
        calls = [self._publish_part(part, partition) for partition, part in parts.items()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        for part, error in zip(parts.values(), errors, strict=True):
            if error is not None:
                left += part
        for error in errors:
            if isinstance(error, NotFound):
                self._partitions = 0  # it was deleted: the next attempt creates it again
            if error is not None:
                raise error
        return True

    async def _publish_part(self, part: Sequence[Outgoing], partition: int) -> None:
        for batch in _batches(part, min(MAX_BATCH, self._refused - 1)):
            await self._publish_batch(batch, partition)

    async def _publish_batch(self, batch: Sequence[Outgoing], partition: int) -> None:
        """Publish a batch; in halves if it is too large for the topic. A record that is too large alone becomes a failure."""
        # As it is before the topic is asked: another partition may find the topic mended meanwhile.
        blocked = self._takes_nothing
        size = sum([_bytes(record) for _, record in batch])
        if size < self._refused:
            try:
                await self._context.bus.publish(self.topic, [record for _, record in batch], partition)
            except TooLarge:
                self._refused = size
            else:
                return
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._publish_batch(batch[:middle], partition)
            await self._publish_batch(batch[middle:], partition)
        else:
            await self._publish_failure(*batch[0], partition, blocked)

    async def _publish_failure(self, answer: Waiting, record: OutRecord, partition: int, blocked: bool) -> None:
        try:
            await self._context.bus.publish(self.topic, [_too_large(answer, record)], partition)
            if blocked:  # until now: it was mended, and may take the next answer as it is
                self._takes_nothing, self._refused = False, math.inf
        except TooLarge as error:
            self._takes_nothing, self._refused = True, math.inf
            raise Unavailable(f"{error.message}; raise it, as not even a failure fits") from None

    async def _count(self) -> int:
        """How many partitions the topic has; 0 if it is missing and this worker creates no more.

        Raises:
            Unavailable: it cannot be looked up or created.
        """
        now = self._context.clock()
        if self._partitions and now < self._asked_at + REFRESH:
            return self._partitions
        async with self._creating:
            self._refused = math.inf
            count = await self._context.bus.partitions(self.topic)
            created = self._context.created_topics
            if not count and (self.topic in created or len(created) < MAX_CREATED):
                created.add(self.topic)
                count = await self._context.bus.ensure_topic(self.topic, 1)
        self._partitions, self._asked_at = count, now
        return count


def _batches(part: Sequence[Outgoing], limit: float) -> Iterator[Sequence[Outgoing]]:
    """The part in batches of at most `limit` bytes; a larger record goes alone."""
    start = size = 0
    for at, (_, record) in enumerate(part):
        more = _bytes(record)
        if at > start and size + more > limit:
            yield part[start:at]
            start, size = at, 0
        size += more
    yield part[start:]


def _bytes(record: OutRecord) -> int:
    """Bytes of a record, without those that the batch adds."""
    return len(record.value) + len(record.key or b"") + sum([len(n) + len(v or b"") for n, v in record.headers])


def _too_large(answer: Waiting, record: OutRecord) -> OutRecord:
    limit = "the topic's max.message.bytes is smaller"
    return too_large(decode_reply(answer.payload), answer.entry.payload, record.size, limit)


def _expired(entry: Entry) -> bytes:
    """The answer to a request whose answer the store lost before it was published."""
    request = entry.payload
    failure = Failure(Code.UNAVAILABLE, "the answer expired before it was published; send the request again")
    return encode_reply(InferReply(request.model, request.version, request.label, failure=failure))


def _is_retriable(payload: bytes) -> bool:
    try:
        failure = decode_reply(payload).failure
    except CodecError:
        return False
    return failure is not None and failure.code in RETRYABLE
