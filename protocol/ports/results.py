"""The result store: one fenced stream per request, and wake-ups."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.ports.bus import Place


class FinishOutcome(enum.Enum):
    """What became of a terminal write."""

    WRITTEN = 0
    ALREADY_TERMINAL = 1
    OLDER_ATTEMPT = 2


@dataclasses.dataclass(slots=True)
class Terminal:
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

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
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
