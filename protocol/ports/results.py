"""The result store: one fenced stream per request, and wake-ups."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.messages import InferReply
from protocol.ports.bus import Place
from protocol.totals import Counts, Key

Payload = bytes | InferReply
"""An answer: encoded (`codec.encode_reply`), or in an immediate store the reply itself, which nobody changes from then on."""


class FinishOutcome(enum.Enum):
    """The result of writing a terminal."""

    WRITTEN = 0
    ALREADY_TERMINAL = 1
    OLDER_ATTEMPT = 2


@dataclasses.dataclass(slots=True)
class Terminal:
    """A terminal entry to write.

    Attributes:
        ref: of the request (`naming.ref`).
        payload: the answer.
        reply_to: channel to wake besides those in the stream; "" for none.
        ttl: seconds that the fence outlives this write; if the stream is claimed, or there is no channel to wake, the store's
            result TTL applies instead, unless `to_topic`.
        retriable: the failure lets the same `Idempotency-Key` run again (`errors.RETRYABLE`).
        accepted: when the published request was accepted; 0 if unknown. A retriable failure of a request that is older than the
            stream's claim is refused: the key was claimed again, and a left-over record must not end the new run.
        claimed: the record says that its stream was claimed: the result TTL applies even if the claim has expired since.
        to_topic: a topic gets the answer once the store has it. The store keeps it only until then, so `ttl` applies although no
            channel is woken.
        counts: added to the totals of its model version if it is written, in the same step; None for an answer that is not counted.
    """

    ref: str
    payload: Payload
    reply_to: str = ""
    ttl: float = 300.0
    retriable: bool = False
    accepted: float = 0.0
    claimed: bool = False
    to_topic: bool = False
    counts: Counts | None = None


@dataclasses.dataclass(slots=True)
class Wake:
    """A hint that a request has its terminal; `payload` is None if it is too large for the message."""

    ref: str
    payload: Payload | None


@dataclasses.dataclass(frozen=True, slots=True)
class Cancel:
    """Cancels the runs of a request that were accepted by `until`.

    A key may run again after a cancellation, and a cancellation may arrive late: the limit keeps it from ending a later run.

    Attributes:
        until: seconds on the fleet's clock. It arrives in whole microseconds, like records' stamps, so that both compare exactly.
    """

    ref: str
    until: float


class ClaimState(enum.Enum):
    """The result of a claim."""

    FRESH = 0
    """The caller has the claim: publish, then confirm."""
    ATTACHED = 1
    """Another call is in flight; the caller's channel will be woken."""
    DONE = 2
    """The request has its terminal."""
    MISMATCH = 3
    """The key was used with another body."""


@dataclasses.dataclass(slots=True)
class Claim:
    """A keyed or asynchronous call's claim: entry `0-1` of the stream.

    Attributes:
        fingerprint: a digest of the body; another digest under the same key is refused.
        reply_to: channel to wake.
        lease: seconds that the claim holds without the broker's acknowledgement.
        ttl: seconds that the stream outlives this call.
        model, version, accepted: reported as the request's state.
        lost: place of a record below its group's committed offset. If the stream has no terminal and knows no other record, the
            answer was lost, and one caller at a time gets the claim to publish the request again. `NOWHERE` applies only to a
            stream that knows no record at all, after enough time to have learnt of one.
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
        state: the result.
        payload: of the terminal; only with DONE.
        published: with ATTACHED: whether the request is known to be in the log, from its gateway or a worker.
        place: with ATTACHED: of its newest record, if known.
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
        payload: of the terminal; None before it, b"" if it was trimmed.
        accepted: when the request was accepted; 0 if the stream was never claimed.
    """

    state: str
    payload: bytes | None
    model: str = ""
    version: str = ""
    accepted: float = 0.0


class ImmediateResults(Protocol):
    """A store in this process, whose answers need no bytes and no waiting."""

    def finish_now(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """As `Results.finish`, done on return. No listener is called back before the caller has returned."""


class Results(Protocol):
    """One fenced stream per request, and wake-ups.

    Every method raises `Unavailable` when the store cannot read or write now (unreachable, OOM, READONLY, LOADING): the call may
    or may not have happened; repeat it later. Repeating any call is harmless.
    """

    @property
    def immediate(self) -> ImmediateResults | None:
        """This store, if it is an immediate one."""

    async def open(self) -> None:
        """Connect, with retries and jitter."""

    async def close(self) -> None:
        """Disconnect."""

    async def now(self) -> float:
        """The store's clock (Redis TIME), seconds since the epoch."""

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """Write terminals; the first of each request wins. Wakes every reply-to of each stream, even for a refused write.

        Adds to the totals what the written ones count (`Terminal.counts`), before anyone is woken.
        """

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """The totals of these model versions (`protocol.totals`), each with every answer that was readable when this was called.

        Empty where nothing was counted, or where the store lost its data: then they start again from zero.
        """

    async def claim(self, claim: Claim) -> Claimed:
        """Claim the request for this gateway, or attach to its claim; a retriable terminal is cleared and claimed anew."""

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """Note that the broker acknowledged the claimed request at `place`, or refused it: then the lease ends at once."""

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """Start an attempt of claimed or redelivered requests; returns its number, from 1, or 0 if the request has a terminal.

        Args:
            refs: of the requests.
            worker: a name that changes with every start of the process. An attempt that the same worker started last is not counted
                again, so that neither a repeated call nor a returning partition counts as a run that died.
            ttl: minimum seconds that the streams live.
        """

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """The state of each request, in one round trip; None without a stream."""

    async def trim(self, refs: Sequence[str]) -> None:
        """Drop delivered payloads; the fences remain."""

    async def release(self, refs: Sequence[str]) -> None:
        """Drop finished requests with their fences: a request with such an id runs again.

        Requests that are unfinished, or whose payload was trimmed, stay as they are.
        """

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """Call back with this channel's wake-ups until `unlisten` or `close`; reconnects on its own. Returns once subscribed."""

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """Send cancellations to the workers of a topic (`Names.cancel_channel`)."""

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """Call back with this channel's cancellations until `unlisten` or `close`."""

    async def unlisten(self, channel: str) -> None:
        """Stop a `listen` or `listen_cancels`."""

    async def fill(self) -> float:
        """Used share of the store's memory limit, 0..1; 0 without a limit."""

    async def healthy(self) -> bool:
        """Whether the store answers and its listeners are connected."""
