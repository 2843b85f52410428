"""How calls end: by an answer, a deadline, a failure, or because nobody waits any more.

Invariants: a call ends once, and leaves `pending` and `admission` in the same step; of a claimed request the first terminal wins,
so a deadline or a cancellation of ours gives way to what the store holds already.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog

from gateway.admission.admission import Admission
from gateway.calls.pending import Call, Delivery, Pending
from gateway.metrics import GatewayMetrics
from gateway.settings import GatewaySettings
from protocol.codec import decode_reply, encode_reply
from protocol.errors import Code, DeadlineExceeded, FleetError
from protocol.messages import Failure, InferReply, Timing
from protocol.naming import Names
from protocol.ports import Answer, Cancel, Outcome, Results
from protocol.runtime.clock import Clock

_COALESCE: Final = 0.005
"""Deadlines that come closer together than this are looked at together."""

_NOT_KEPT: Final = "the answer was delivered before and is no longer kept"

_log = structlog.get_logger("gateway.calls.completion")


class Completion:
    """Ends calls.

    Args:
        results: where terminals of our own are written and cancellations told.
        names: for the workers' cancel channels.
        clock: the fleet's.
        metrics: counts every end.
        settings: for `result_ttl` and `sweep_after`.

    Attributes:
        pending: who waits.
    """

    def __init__(
        self,
        results: Results,
        names: Names,
        clock: Clock,
        metrics: GatewayMetrics,
        admission: Admission,
        settings: GatewaySettings,
    ) -> None:
        self.pending = Pending(settings.sweep_after)
        self._results = results
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._admission = admission
        self._result_ttl = settings.result_ttl
        self._loop = asyncio.get_running_loop()
        self._cancels: dict[str, list[Cancel]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf

    def expect(self, call: Call, now: float) -> None:
        """Let a call wait for its answer."""
        self.pending.register(call, now)
        if call.deadline < self._armed_for:
            self._arm(call.deadline)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Answer calls that `pending.feed` gave back."""
        now = self._clock()
        age = self._metrics.wake_age
        for call, payload in deliveries:
            reply = self.decode(call, payload)
            timing = reply.timing
            timing.woken = now
            if timing.emitted:
                age.observe(now - timing.emitted)
            self._done(call, reply, now)

    def settle(self, call: Call, payload: bytes) -> None:
        """Answer one call with a payload that was found; nothing happens where it has left."""
        if self.pending.drop(call):
            self.deliver([(call, payload)])

    def decode(self, call: Call, payload: bytes) -> InferReply:
        """The answer in a terminal's payload; one that cannot be read is a failure, not an exception."""
        if not payload:
            return self.failed(call, FleetError(_NOT_KEPT, code=Code.GONE))
        try:
            return decode_reply(payload)
        except FleetError as error:
            _log.error("answer cannot be read", request_id=call.ref, error=error.message)
            return self.failed(call, FleetError(f"the answer cannot be read: {error.message}"))

    def failed(self, call: Call, error: FleetError) -> InferReply:
        """The answer that an error is."""
        timing = Timing(accepted=call.accepted, woken=self._clock())
        return InferReply(
            call.model, call.version, call.label, failure=Failure(error.code, error.message), timing=timing
        )

    def fail(self, call: Call, error: FleetError) -> None:
        """Answer a waiting call with an error; nothing happens where it has left."""
        if self.pending.drop(call):
            self._done(call, self.failed(call, error), self._clock())

    def fail_all(self, error: FleetError) -> None:
        """Answer everyone who still waits."""
        for call in list(self.pending):
            self.fail(call, error)

    def drop(self, call: Call) -> None:
        """Nobody waits for this call any more; its request goes on."""
        if self.pending.drop(call):
            self._leave(call)

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more, and its request need not run."""
        if self.pending.drop(call):
            self._leave(call)
            self._metrics.cancellations += 1
            self.cancel_queued(call)

    def cancel_queued(self, call: Call) -> None:
        """Tell the topic's workers, with all others of this turn of the loop.

        It means the run that this very call had accepted, and none after it: this may be a gateway that stood still, and the key
        may have been used again.
        """
        if not self._cancels:
            self._loop.call_soon(self._flush_cancels)
        self._cancels.setdefault(call.topic, []).append(Cancel(call.ref, call.accepted))

    async def end(self, request_ref: str, reply: InferReply) -> InferReply | None:
        """Write a retriable terminal of the gateway's own; with `reply.timing.accepted`, only for the run accepted then.

        Returns:
            None where nothing else is there, else the answer that was there first.

        Raises:
            Unavailable: the store cannot be reached.
        """
        answer = Answer(request_ref, encode_reply(reply), "", self._result_ttl, True, reply.timing.accepted)
        (outcome,) = await self._results.finish([answer])
        if outcome is Outcome.WRITTEN:
            return None
        (state,) = await self._results.look([request_ref])
        if state is None or state.payload is None:
            return None
        if state.payload:
            return decode_reply(state.payload)
        return InferReply(reply.model, reply.version, failure=Failure(Code.GONE, _NOT_KEPT))

    async def close(self) -> None:
        """Wait for what is still on its way out."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush_cancels()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, call: Call, reply: InferReply, now: float) -> None:
        self._leave(call)
        if call.counted:
            failure = reply.failure
            counters = self._metrics.counters[call.model, call.version]
            counters.count("OK" if failure is None else failure.code.value, now - call.accepted)
        try:
            call.on_done(reply)
        except Exception:
            _log.exception("a caller could not be answered", request_id=call.ref)

    def _leave(self, call: Call) -> None:
        if call.counted:
            self._admission.leave(call.topic, call.size)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = deadline
        self._timer = self._loop.call_later(max(deadline - self._clock(), _COALESCE), self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._armed_for = math.inf
        now = self._clock()
        for call in self.pending.expire(now):
            if call.claimed and call.owner:
                self._spawn(self._expire_claimed(call))
            else:
                if not call.claimed:
                    self.cancel_queued(call)
                self._done(call, self.failed(call, _late(call)), now)
        wake_at = self.pending.wake_at()
        if wake_at < math.inf:
            self._arm(wake_at)

    async def _expire_claimed(self, call: Call) -> None:
        """The record's own deadline came: the first terminal wins, and the caller gets what is there."""
        reply = self.failed(call, _late(call))
        self.cancel_queued(call)
        try:
            reply = await self.end(call.ref, reply) or reply
        except FleetError as error:
            _log.warning("deadline could not be written", request_id=call.ref, error=error.message)
        self._done(call, reply, self._clock())

    def _flush_cancels(self) -> None:
        cancels, self._cancels = self._cancels, {}
        for topic, told in cancels.items():
            self._spawn(self._cancel(topic, told))

    async def _cancel(self, topic: str, cancels: list[Cancel]) -> None:
        try:
            await self._results.cancel(self._names.cancel_channel(topic), cancels)
        except FleetError as error:
            _log.warning("cancellation was not told", topic=topic, calls=len(cancels), error=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _late(call: Call) -> FleetError:
    return DeadlineExceeded(f"Request timeout expired: no answer within {(call.deadline - call.accepted) * 1e3:.0f} ms")
