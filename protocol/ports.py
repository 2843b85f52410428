"""What carries messages, as small protocols. Their docstrings are the contract; `tests/transport` runs one suite over every
implementation (memory, SQLite, Kafka, Redis).

The bus is a partitioned log: order within a partition, at-least-once delivery, a consumer group's committed offset per
partition. A crash between any two calls costs at most a redelivery, never a record. The results are one fenced stream per
request: at most one terminal entry is ever kept. The directory says who serves now; it may forget everything at any moment.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Protocol

from protocol.messages import Heartbeat
from protocol.tensors import Buffer

Headers = Sequence[tuple[str, bytes | None]]
"""In their order; a name may come twice, and a value may be null."""
Place = tuple[int, int]
"""Partition and offset of a record, within its topic."""
NOWHERE: Place = (-1, -1)
"""Where no record is."""


# --- bus -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class OutRecord:
    """A record to publish."""

    value: bytes
    headers: Headers = ()
    key: bytes | None = None
    timestamp: float = 0.0


@dataclasses.dataclass(slots=True)
class Record:
    """A record as it was fetched.

    Attributes:
        timestamp: seconds.
        headers: as they were written; in a name that is not UTF-8 the other bytes are given as `\\xff`.
        problem: why this is not what was written, or not all of it; "" nearly always. It is no request then, and one that stands
            for the records of a whole batch has their last offset.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float
    value: Buffer
    headers: Headers
    key: bytes | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """Where a batch of records was acknowledged: they hold `offset`, `offset + 1`, … of the partition."""

    topic: str
    partition: int
    offset: int
    timestamp: float


@dataclasses.dataclass(frozen=True, slots=True)
class Assigned:
    """One partition as it is given to a consumer.

    Attributes:
        committed: where to go on; 0 or the log's start where nothing was committed yet.
        end: the log's end at assignment; records below it may have been delivered before.
        start: the log's start; above `committed` means records were deleted unread.
    """

    partition: int
    committed: int
    end: int
    start: int = 0


class Listener(Protocol):
    """Told of ownership; called on the event loop, must not block."""

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        """From now on records of these partitions come.

        `epoch` grows by one with every rebalance seen by this consumer, and by more where what was in flight must not go on: the
        log of a partition may be another one.
        """

    def revoked(self, partitions: Collection[int]) -> None:
        """Records of these may now also go to another member; commits for them are refused or useless."""


class Consumer(Protocol):
    """One member of one group on one topic."""

    @property
    def member(self) -> str:
        """The member id that the group's coordinator gave; "" before the first join."""

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        """At most `max_records`, in order within each partition; [] after `timeout` seconds without any.

        Args:
            max_records: bound over all partitions.
            timeout: seconds.
            partitions: only from these; None means from all owned. An empty collection returns nothing after `timeout`, yet
                counts as polling: a full worker keeps its membership.
        """

    def backlog(self) -> int:
        """Records known (from the last fetches, no I/O) to be in the owned partitions behind what `fetch` returned."""

    def positions(self) -> Mapping[int, int]:
        """Per owned partition the offset at which the next fetch begins: whatever `fetch` has not returned below it is a gap, such
        as an aborted transaction's records or a marker."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read per partition.

        Raises:
            Unavailable: it may not have happened (rebalance, coordinator away); commit again later or drop.
        """

    async def lag(self) -> int:
        """Records in the owned partitions at or behind the committed offsets."""

    async def close(self) -> None:
        """Stop fetching; a static member stays in its group until its session times out or `Bus.evict` removes it."""


class Bus(Protocol):
    """A partitioned, durable log."""

    async def open(self) -> None:
        """Connect, with retries and jitter.

        Raises:
            Unavailable: the broker did not answer in the configured time; names it.
        """

    async def close(self) -> None:
        """Send what is buffered and disconnect."""

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """Create the topic where it does not exist; returns its number of partitions."""

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """Append all records to one partition, in order; returns once acknowledged (`acks=all`).

        With `partition=None` every call takes the next partition; a group of records stays together.

        Raises:
            Unavailable: not acknowledged; the records may or may not be in the log.
            TooLarge: a record is over the limit.
            NotFound: there is no such topic.
        """

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """Join the group as the static member `member` (`group.instance.id`); where nothing is committed, from the log's start."""

    def follow(self, topic: str) -> AsyncIterator[Sequence[Record]]:
        """Every record of a (small, compacted) topic from its start, then the new ones as they come, for ever. Those that cannot
        be read are left out.

        Yields an empty list once when the end that was there at the start has been reached.
        """

    async def read(self, topic: str, partition: int, offset: int) -> Record | None:
        """That one record, or None where the topic no longer (or not yet) has it, or it cannot be read."""

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """Where the group goes on, by partition; without those in which it has committed nothing.

        Raises:
            Unavailable: the group's coordinator cannot be asked.
        """

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """Send LeaveGroup for dead static members (`group.instance.id`), so that the others own their partitions at once."""

    async def healthy(self) -> bool:
        """Whether the broker answers now."""


# --- results ---------------------------------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """What became of a terminal write."""

    WRITTEN = 0
    ALREADY_TERMINAL = 1
    OLDER_ATTEMPT = 2


@dataclasses.dataclass(slots=True)
class Answer:
    """A terminal entry to write.

    Attributes:
        ref: which request (`naming.ref`).
        payload: `codec.encode_reply`.
        reply_to: channel to wake besides those in the stream, or "".
        ttl: seconds the fence outlives this write; the store takes its result TTL instead where the stream is claimed, or the
            answer wakes nobody.
        retriable: the failure lets the same `Idempotency-Key` run again (`errors.RETRYABLE`).
        accepted: when the published request was accepted, 0 where that is not known. A retriable end of one that is older than
            the stream's claim is refused: the key was claimed again, and the record left over from before must not end it.
        claimed: the record says that its stream was claimed: the result TTL counts, also where the claim has expired meanwhile.
    """

    ref: str
    payload: bytes
    reply_to: str = ""
    ttl: float = 300.0
    retriable: bool = False
    accepted: float = 0.0
    claimed: bool = False


@dataclasses.dataclass(slots=True)
class Wake:
    """A hint that a request has its terminal; `payload` is None where it was too large to come along."""

    ref: str
    payload: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """The runs of a request that were accepted until then need not run.

    A key runs again after a cancellation, and a cancellation may come late: it names the runs that it means, so that it never ends
    a later one.

    Attributes:
        until: seconds on the fleet's clock. It arrives in whole microseconds, as records' stamps do, so that the two compare.
    """

    ref: str
    until: float


class ClaimState(enum.Enum):
    """What a keyed or asynchronous call finds."""

    FRESH = 0
    """It is yours: publish, then confirm."""
    ATTACHED = 1
    """Another call is in flight; your channel will be woken."""
    DONE = 2
    """The terminal is there already."""
    MISMATCH = 3
    """The key was used with another body."""


@dataclasses.dataclass(slots=True)
class Claim:
    """The accepting gateway's entry `0-1`.

    Attributes:
        fingerprint: a digest of the body; another one under the same key is refused.
        reply_to: channel to wake.
        lease: seconds the claim holds without the broker's acknowledgement.
        ttl: seconds the stream outlives this call.
        model, version, accepted: shown to whoever asks for the request's state.
        lost: the record there is done with, as its group's committed offset says. Where the stream has no terminal and knows of no
            other record, it has lost its end: the request is published again, by one caller at a time. `NOWHERE` does that only
            where the stream knows of no record at all, for which there has been time enough.
    """

    ref: str
    fingerprint: str
    reply_to: str
    lease: float
    ttl: float
    model: str
    version: str
    accepted: float
    lost: Place | None = None


@dataclasses.dataclass(slots=True)
class Claimed:
    """The store's answer to a claim.

    Attributes:
        state: what the call found.
        payload: the terminal's, only with DONE.
        published: with ATTACHED: the request is in the log, as its gateway or a worker has said.
        place: with ATTACHED: where its newest record is, if that is known.
    """

    state: ClaimState
    payload: bytes | None = None
    published: bool = False
    place: Place | None = None


@dataclasses.dataclass(slots=True)
class RequestState:
    """What the store knows of a request.

    Attributes:
        state: "queued", "running" or "done".
        payload: the terminal's payload, None before it, b"" where it was trimmed.
        accepted: when it was accepted; 0 where the stream was never claimed.
    """

    state: str
    payload: bytes | None
    model: str = ""
    version: str = ""
    accepted: float = 0.0


class Results(Protocol):
    """One fenced stream per request, and hints to whoever waits.

    Every method raises `Unavailable` when the store cannot take or give data now (unreachable, OOM, READONLY, LOADING): then
    nothing may be taken as done, and the call is repeated later. Repeating any of them is harmless.
    """

    async def open(self) -> None:
        """Connect, with retries and jitter."""

    async def close(self) -> None:
        """Disconnect."""

    async def now(self) -> float:
        """The store's clock (Redis TIME), seconds since the epoch."""

    async def finish(self, answers: Sequence[Answer]) -> list[Outcome]:
        """Write terminals, first one wins, and wake every reply-to of each stream even where refused."""

    async def claim(self, claim: Claim) -> Claimed:
        """Take the request for this gateway, or attach to whoever has it; a retriable terminal is cleared and claimed anew."""

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """The broker acknowledged the claimed request, there (or refused it: the lease lapses at once)."""

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """Begin an attempt for claimed or redelivered requests: its number, >= 1; 0 where a terminal is there already.

        Args:
            refs: of the requests.
            worker: who begins it, by a name that changes with every start of the process. What the same worker began last is not
                begun again, so that neither a repeated call nor a partition that comes back counts as a run that died.
            ttl: seconds that the streams live on at least.
        """

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """What is known of each, in one round trip; None where there is no stream."""

    async def trim(self, refs: Sequence[str]) -> None:
        """Drop delivered payloads; the fences stay."""

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """Call back with wake-ups of this channel until `close`; reconnects by itself. Returns once subscribed."""

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """Tell the workers of a topic (`Names.cancel_channel`) what need not run."""

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """Call back with what is cancelled on this channel until `unlisten` or `close`."""

    async def unlisten(self, channel: str) -> None:
        """Stop a `listen` or `listen_cancels`."""

    async def fill(self) -> float:
        """Used share of the store's memory limit, 0..1; 0 where there is no limit."""

    async def healthy(self) -> bool:
        """Whether the store answers and its listeners are connected."""


class Directory(Protocol):
    """Who serves now."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Say that a worker lives. Raises `Unavailable` when the store cannot be reached."""

    async def workers(self) -> list[Heartbeat]:
        """The last sign of life of every worker, also of those that have fallen silent."""

    async def forget(self, worker: str) -> None:
        """Remove a worker that has gone."""

    async def ask(self, ask: str) -> None:
        """Have every worker that listens beat at once: it names this ask in that heartbeat (`Heartbeat.asked`)."""

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """Call back with every ask until `close`. Returns once subscribed."""
