"""Bugs in the store's fences and in gateways."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.calls.completion import Completion
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.pending import Pending
from gateway.calls.publisher import Publisher
from gateway.durable.claims import Claims
from protocol.ports import Claimed, ClaimState
from protocol.totals import Counts, KeptTotals
from protocol.transport.embedded.fence import Fences
from tests.simulation.planting import bug
from workers.statistics import ModelStatistics

# --- the store -------------------------------------------------------------------------------------------------------


@bug("the last terminal wins", Fences, "_over", 1)
def _(right: Any) -> Any:
    return lambda self, ref, stream, now: False


@bug("fences expire at once", Fences, "_write")
def _(right: Any) -> Any:
    def write(self: Any, answer: Any, stream: Any, now: float, result_ttl: float, certain: bool) -> None:
        right(self, dataclasses.replace(answer, ttl=0.01), stream, now, 0.01, certain)

    return write


@bug("a claim clears a final answer", Fences, "claim", 1)
def _(right: Any) -> Any:
    def claim(self: Any, claim: Any, now: float) -> Any:
        stream = self.streams.get(claim.ref)
        if stream is not None and stream.payload is not None:
            self._remove(claim.ref)
        return right(self, claim, now)

    return claim


# --- the gateway -----------------------------------------------------------------------------------------------------


@bug("an answer of another call's run is told as if this call had waited for it", Completion, "deliver")
def _(right: Any) -> Any:
    def deliver(self: Any, deliveries: Any) -> None:
        now = self._clock()
        for call, payload in deliveries:
            reply = self.decode(call, payload)
            reply.woken = now
            self._done(call, reply, now)

    return deliver


@bug("calls whose wake-up was lost are not looked up", Pending, "sweep", 43)
def _(right: Any) -> Any:
    return lambda self, now: []


@bug("a large answer's pointer is not followed, nor anything swept", Dispatcher, "_take", 7)
def _(right: Any) -> Any:
    return lambda self, ref, state: 0


@bug("a failed publish is not answered", Publisher, "_fail", 45)
def _(right: Any) -> Any:
    def fail(self: Any, group: Any, error: Any) -> None:
        for _, place in group.places:
            if not place.done():
                place.set_exception(error)

    return fail


@bug("only the first caller with a key is answered", Pending, "feed")
def _(right: Any) -> Any:
    def feed(self: Any, wakes: Any) -> Any:
        deliveries, pointers = right(self, wakes)
        first: dict[str, Any] = {}
        for call, payload in deliveries:
            first.setdefault(call.ref, (call, payload))
        return list(first.values()), pointers

    return feed


@bug("answers go to the call that waited longest", Completion, "decode")
def _(right: Any) -> Any:
    last: list[bytes] = []

    def read(self: Any, call: Any, payload: bytes) -> Any:
        last.append(payload)
        return right(self, call, last[-2] if len(last) % 7 == 2 else payload)

    return read


@bug("an attached call publishes too late or never", Claims, "_take")
def _(right: Any) -> Any:
    async def take(self: Any, call: Any, request: Any, fingerprint: str, record: Any) -> bool:
        claimed: Claimed = await self.claim(request, fingerprint)
        if claimed.state is ClaimState.FRESH:
            await self.publish(call.ref, call.topic, record)
        return True

    return take


@bug("a retriable error is kept for ever", Fences, "claim", 2)
def _(right: Any) -> Any:
    def claim(self: Any, claim: Any, now: float) -> Any:
        stream = self.streams.get(claim.ref)
        if stream is not None:
            stream.retriable = False
        return right(self, claim, now)

    return claim


@bug("an abandoned call counts for ever", Completion, "_leave")
def _(right: Any) -> Any:
    return lambda self, call: None


@bug("deadlines are not answered", Pending, "expire", 76)
def _(right: Any) -> Any:
    return lambda self, now: []


@bug("an answer that was refused is counted again", KeptTotals, "count")
def _(right: Any) -> Any:
    return lambda self, counts, written: right(self, counts, [True] * len(written))


@bug("a refusal without a run is not counted", ModelStatistics, "failed")
def _(right: Any) -> Any:
    def failed(self: Any, reason: Any, seconds: float) -> Counts:
        right(self, reason, seconds)
        return Counts(self.key, {})

    return failed
