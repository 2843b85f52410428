"""Decides which writes a request's stream accepts: at most one terminal answer (the fence). It is the embedded store's state and
the reference that the Redis scripts are tested against. Pure: time is an argument.

Invariants:
- a stream has at most one terminal, the first one written; only expiry, or a claim after a retriable failure, removes it;
- every terminal write wakes the stream's channels, refused writes too; the wake-up of a refused write has no payload;
- an unconfirmed claim holds for its lease, or longer if a worker has started the request;
- the payload of a plain answer that was sent to a listener of this process is not kept, only its fence;
- what is kept is bytes: a reply in memory is a view of its whole batch.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Container, Sequence
from typing import Final

from protocol.codec import payload_bytes
from protocol.ports import Claim, Claimed, ClaimState, FinishOutcome, Payload, Place, RequestState, Terminal, Wake
from protocol.totals import Counts

INLINE_LIMIT: Final = 16 * 1024
"""Bytes of the largest payload that travels with its wake-up."""
CALL_LIMIT: Final = 256 * 1024
"""Bytes of payloads that all wake-ups of one `finish` carry together."""
MAX_FENCES: Final = 131_072
"""Bare fences kept, about 17 MB. In one process only uncommitted records can be delivered again, so the fences of the last
seconds suffice; above this number the oldest are dropped before they expire."""
SHARDS: Final = 32
"""Number of dicts with bare fences: growing a single one blocked the event loop for 7 ms."""
OVERHEAD: Final = 700
"""Rough number of bytes of a stream besides its payload."""


def counted(answers: Sequence[Terminal], outcomes: Sequence[FinishOutcome]) -> tuple[list[Counts | None], list[bool]]:
    """What `KeptTotals.count` takes: the counts of the answers, and which were written."""
    return [answer.counts for answer in answers], [outcome is FinishOutcome.WRITTEN for outcome in outcomes]


@dataclasses.dataclass(slots=True)
class Stream:
    """A request with more state than a bare fence.

    Attributes:
        expires: when the stream is dropped.
        serial: distinguishes successive streams of one ref.
        fingerprint: of the claim's body; None if it was never claimed.
        channels: to wake.
        lease: until when the claim holds unconfirmed.
        confirmed: whether the broker has acknowledged the request.
        place: of its record, if known.
        attempts: how many were started.
        worker: which started the last one.
        payload: of the terminal; None before it, b"" if it was trimmed.
        retriable: whether the terminal lets the same key run again.
    """

    expires: float
    serial: int
    fingerprint: str | None = None
    channels: list[str] = dataclasses.field(default_factory=list)
    model: str = ""
    version: str = ""
    accepted: float = 0.0
    lease: float = 0.0
    attempts: int = 0
    worker: str = ""
    payload: bytes | None = None
    retriable: bool = False
    confirmed: bool = False
    place: Place | None = None

    def attach(self, channel: str) -> None:
        """Add a channel to wake."""
        if channel and channel not in self.channels:
            self.channels.append(channel)


class Fences:
    """All streams of one store. Times are seconds on the store's clock; an expired stream counts as absent.

    Attributes:
        streams: by ref; bare fences are kept apart.
        size: rough number of bytes of the streams.
        dropped: number of bare fences dropped so far, in the order in which they were made.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.size = 0
        self.dropped = 0
        self._shards: tuple[dict[str, float], ...] = tuple({} for _ in range(SHARDS))
        self._order: collections.deque[str] = collections.deque()
        self._expiries: list[tuple[float, int, str]] = []
        self._serial = 0

    # --- answering ---------------------------------------------------------------------------------------------------

    def finish(
        self, answers: Sequence[Terminal], now: float, result_ttl: float, listening: Container[str] = ()
    ) -> tuple[list[FinishOutcome], dict[str, list[Wake]]]:
        """Write terminals; the first of each request wins. Returns the outcomes, and the wake-ups by channel.

        Args:
            answers: in order; a ref may occur twice.
            now: seconds.
            result_ttl: how long claimed results, and those that wake no caller, are kept.
            listening: channels whose wake-ups are certain to arrive; plain payloads for them are not kept.
        """
        outcomes: list[FinishOutcome] = []
        wakes: dict[str, list[Wake]] = {}
        room = CALL_LIMIT
        for answer in answers:
            ref = answer.ref
            channels: Sequence[str] = (answer.reply_to,) if answer.reply_to else ()
            stream = self._find(ref, now)
            if stream is not None and stream.channels:
                channels = list(dict.fromkeys((*channels, *stream.channels)))
            inline: Payload | None = None
            if self._over(ref, stream, now):
                outcomes.append(FinishOutcome.ALREADY_TERMINAL)
            elif stream is not None and _is_left_over(answer, stream):
                outcomes.append(FinishOutcome.OLDER_ATTEMPT)
            else:
                outcomes.append(FinishOutcome.WRITTEN)
                payload = answer.payload
                if not isinstance(payload, bytes):
                    inline = payload
                elif len(payload) <= INLINE_LIMIT and len(payload) * len(channels) <= room:
                    room -= len(payload) * len(channels)
                    inline = payload
                certain = inline is not None and len(channels) == 1 and channels[0] in listening
                self._write(answer, stream, now, result_ttl, certain)
            for channel in channels:
                wake = Wake(ref, inline)
                if channel in wakes:
                    wakes[channel].append(wake)
                else:
                    wakes[channel] = [wake]
        return outcomes, wakes

    def _write(self, answer: Terminal, stream: Stream | None, now: float, result_ttl: float, certain: bool) -> None:
        claimed = answer.claimed or (stream is not None and stream.fingerprint is not None)
        if certain and not claimed:
            self._remove(answer.ref)
            self._fence(answer.ref, now + answer.ttl)
            return
        brief = answer.reply_to or answer.to_topic
        expires = now + (answer.ttl if brief and not claimed else result_ttl)
        if stream is None:
            stream = self._create(answer.ref, expires)
        payload = payload_bytes(answer.payload)
        self.size += len(payload)
        stream.payload, stream.retriable, stream.expires = payload, answer.retriable, expires

    # --- claiming ----------------------------------------------------------------------------------------------------

    def claim(self, claim: Claim, now: float) -> Claimed:
        """Claim the request, attach to its claim, or get its terminal."""
        stream = self._find(claim.ref, now)
        if self._over(claim.ref, stream, now):
            if stream is None:
                return Claimed(ClaimState.DONE, b"")
            if stream.fingerprint not in {None, claim.fingerprint}:
                return Claimed(ClaimState.MISMATCH)
            if not stream.retriable:
                return Claimed(ClaimState.DONE, stream.payload)
            stream = None
        if stream is None:
            return self._claim_anew(claim, now)
        if stream.fingerprint not in {None, claim.fingerprint}:
            return Claimed(ClaimState.MISMATCH)
        stream.attach(claim.reply_to)
        stream.expires = max(stream.expires, now + claim.ttl)
        published = stream.confirmed or stream.attempts > 0
        lost = claim.lost is not None and stream.place in {None, claim.lost}
        if (published and not lost) or now < stream.lease:
            return Claimed(ClaimState.ATTACHED, None, published, stream.place)
        stream.lease = now + claim.lease
        return Claimed(ClaimState.FRESH)

    def _claim_anew(self, claim: Claim, now: float) -> Claimed:
        stream = self._create(claim.ref, now + claim.ttl)
        stream.fingerprint = claim.fingerprint
        stream.attach(claim.reply_to)
        stream.lease = now + claim.lease
        stream.model, stream.version, stream.accepted = claim.model, claim.version, claim.accepted
        return Claimed(ClaimState.FRESH)

    def confirm(self, ref: str, published: bool, now: float, place: Place | None = None) -> None:
        """The broker has acknowledged the claimed request, and the claim holds; or refused it, and the next claim is fresh unless
        another publish was acknowledged."""
        stream = self._find(ref, now)
        if stream is None or stream.payload is not None:
            return
        if published:
            stream.confirmed, stream.place = True, place or stream.place
        else:
            stream.lease = 0.0

    # --- attempts, states --------------------------------------------------------------------------------------------

    def start(self, ref: str, worker: str, ttl: float, now: float) -> int:
        """Start an attempt, unless the same worker started the last one; returns its number, or 0 after a terminal."""
        stream = self._find(ref, now)
        if self._over(ref, stream, now):
            return 0
        if stream is None:
            stream = self._create(ref, now + ttl)
        if not stream.attempts or stream.worker != worker:
            stream.attempts += 1
            stream.worker = worker
        stream.expires = max(stream.expires, now + ttl)
        return stream.attempts

    def look(self, ref: str, now: float) -> RequestState | None:
        """The request's state, or None."""
        stream = self._find(ref, now)
        if stream is None:
            return RequestState("done", b"") if self._over(ref, None, now) else None
        state = "done" if stream.payload is not None else "running" if stream.attempts else "queued"
        return RequestState(state, stream.payload, stream.model, stream.version, stream.accepted)

    def trim(self, ref: str, now: float) -> None:
        """Drop everything of a finished request but its fence, as XTRIM does."""
        stream = self._find(ref, now)
        if stream is None or stream.payload is None:
            return
        self.size -= len(stream.payload)
        stream.payload, stream.retriable, stream.channels = b"", False, []
        stream.model, stream.version, stream.accepted = "", "", 0.0
        if stream.fingerprint is None:
            self._remove(ref)
            self._fence(ref, stream.expires)
        stream.fingerprint = None

    def release(self, ref: str, now: float) -> None:
        """Drop a finished request with its fence, unless its payload was trimmed."""
        stream = self._find(ref, now)
        if stream is not None and stream.payload:
            self._remove(ref)

    # --- forgetting --------------------------------------------------------------------------------------------------

    @property
    def made(self) -> int:
        """Number of bare fences made so far; the first `dropped` of them are gone."""
        return self.dropped + len(self._order)

    def newest(self, count: int) -> list[tuple[str, float]]:
        """The refs and expiries of the last `count` bare fences made, oldest first, without dropped ones."""
        refs = [self._order[-n] for n in range(count, 0, -1)]
        # A ref that was fenced twice is dropped with the first of the two.
        return [(ref, expires) for ref in refs if (expires := self._shard(ref).get(ref)) is not None]

    def restore(self, ref: str, stream: Stream | float) -> None:
        """Restore a saved stream, or the expiry of a bare fence."""
        if isinstance(stream, float):
            self._fence(ref, stream)
            return
        self._serial += 1
        stream.serial = self._serial
        self.streams[ref] = stream
        self.size += OVERHEAD + len(stream.payload or b"")
        heapq.heappush(self._expiries, (stream.expires, stream.serial, ref))

    def expire(self, now: float, budget: int) -> list[str]:
        """Drop at most `budget` expired fences and as many expired streams; returns the refs of the streams."""
        for _ in range(budget):
            if not self._order:
                break
            ref = self._order[0]
            shard = self._shard(ref)
            if len(self._order) <= MAX_FENCES and shard.get(ref, 0.0) > now:
                break
            self._order.popleft()
            shard.pop(ref, None)
            self.dropped += 1
        gone: list[str] = []
        for _ in range(budget):
            if not self._expiries or self._expiries[0][0] > now:
                break
            _, serial, ref = heapq.heappop(self._expiries)
            stream = self.streams.get(ref)
            if stream is None or stream.serial != serial:
                continue
            if stream.expires > now:
                heapq.heappush(self._expiries, (stream.expires, serial, ref))
            else:
                self._remove(ref)
                gone.append(ref)
        return gone

    # --- parts -------------------------------------------------------------------------------------------------------

    def _find(self, ref: str, now: float) -> Stream | None:
        stream = self.streams.get(ref)
        return stream if stream is not None and stream.expires > now else None

    def _over(self, ref: str, stream: Stream | None, now: float) -> bool:
        if stream is not None:
            return stream.payload is not None
        fence = self._shard(ref).get(ref)
        return fence is not None and fence > now

    def _fence(self, ref: str, expires: float) -> None:
        self._shard(ref)[ref] = expires
        self._order.append(ref)

    def _shard(self, ref: str) -> dict[str, float]:
        return self._shards[hash(ref) % SHARDS]

    def _create(self, ref: str, expires: float) -> Stream:
        self._remove(ref)
        self._serial += 1
        self.size += OVERHEAD
        stream = self.streams[ref] = Stream(expires, self._serial)
        heapq.heappush(self._expiries, (expires, self._serial, ref))
        return stream

    def _remove(self, ref: str) -> None:
        stream = self.streams.pop(ref, None)
        if stream is not None:
            self.size -= OVERHEAD + len(stream.payload or b"")


def _is_left_over(answer: Terminal, stream: Stream) -> bool:
    """Whether it is a retriable failure of a record from before the stream's claim. Stamps are whole microseconds on the wire."""
    return answer.retriable and answer.accepted > 0 and answer.accepted < stream.accepted - 1e-6
