"""Completes calls: by an answer, a deadline, a failure, or because their caller has gone.

Invariants: a call is completed once, and leaves `pending` and `admission` in the same step; the first terminal of a claimed request
wins, so a deadline or a cancellation of this gateway gives way to the one in the store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.admission.admission import Admissions
from gateway.calls.pending import Call, Delivery, Pending
from gateway.metrics import GatewayMetrics
from gateway.settings import GatewaySettings
from protocol.codec import decode_reply, encode_reply
from protocol.errors import Code, DeadlineExceeded, FleetError
from protocol.messages import Failure, InferReply, Lane, Timing
from protocol.model_stats import FailureReason, count_failure
from protocol.naming import Names
from protocol.ports import Cancel, FinishOutcome, Payload, Results, Terminal
from protocol.runtime.clock import Clock
from protocol.runtime.tasks import BackgroundTasks

_COALESCE: Final = 0.005
"""Deadlines closer together than this share one timer."""

_BATCH: Final = Lane.BATCH
_REASONS: Final = {Code.CANCELLED: FailureReason.CANCELED, Code.DEADLINE_EXCEEDED: FailureReason.REJECTED}
_NOT_KEPT: Final = "the answer was delivered before and is no longer kept"

_log = structlog.get_logger("gateway.calls.completion")


class Completion:
    """Completes calls.

    Args:
        results: takes the gateway's own terminals and its cancellations.
        names: of the workers' cancel channels.
        clock: the fleet's.
        metrics: counts every completion.
        admissions: count the calls of each lane.
        settings: for `result_ttl` and `sweep_after`.

    Attributes:
        pending: the waiting calls.
    """

    def __init__(
        self,
        results: Results,
        names: Names,
        clock: Clock,
        metrics: GatewayMetrics,
        admissions: Admissions,
        settings: GatewaySettings,
    ) -> None:
        self.pending = Pending(settings.sweep_after)
        self._results = results
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._admissions = admissions
        self._result_ttl = settings.result_ttl
        self._loop = asyncio.get_running_loop()
        self._cancels: dict[str, list[Cancel]] = {}
        self._tasks = BackgroundTasks("completion")
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        self.has_worker: Callable[[str, str], bool] = lambda model, version: True

    def expect(self, call: Call, now: float) -> None:
        """Register a call that waits for its answer."""
        call.stepped = self._clock.stepped
        self.pending.register(call, now)
        if call.deadline < self._armed_for:
            self._arm(call.deadline)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Answer the calls that `pending.feed` returned."""
        now, stepped = self._clock(), self._clock.stepped
        age = self._metrics.wake_age
        for call, payload in deliveries:
            reply = self.decode(call, payload)
            if reply.timing.accepted == call.accepted:  # else another call's run gave it, perhaps long ago
                reply.woken = woken = now - (stepped - call.stepped)
                emitted = reply.timing.emitted
                if emitted:
                    age.observe(max(0.0, woken - emitted))
            self._done(call, reply, now)

    def settle(self, call: Call, payload: Payload) -> None:
        """Answer one call with its payload; does nothing if it has left."""
        if self.pending.drop(call):
            self.deliver([(call, payload)])

    def decode(self, call: Call, payload: Payload) -> InferReply:
        """The reply in a terminal, for this caller alone; one that cannot be decoded becomes a failure, not an exception."""
        if isinstance(payload, InferReply):
            return InferReply(
                payload.model, payload.version, payload.label, payload.outputs, payload.parameters, payload.failure, payload.timing
            )  # fmt: skip
        if not payload:
            return self.failed(call, FleetError(_NOT_KEPT, code=Code.GONE))
        try:
            return decode_reply(payload)
        except FleetError as error:
            _log.error("answer could not be decoded", request_id=call.ref, error=error.message)
            return self.failed(call, FleetError(f"the answer cannot be read: {error.message}"))

    def failed(self, call: Call, error: FleetError) -> InferReply:
        """An error as an answer."""
        failure, timing = Failure(error.code, error.message), Timing(accepted=call.accepted)
        woken = self._clock() - (self._clock.stepped - call.stepped)
        return InferReply(call.model, call.version, call.label, failure=failure, timing=timing, woken=woken)

    def fail(self, call: Call, error: FleetError) -> None:
        """Answer a waiting call with an error; does nothing if it has left."""
        if self.pending.drop(call):
            self._done(call, self.failed(call, error), self._clock())

    def fail_all(self, error: FleetError) -> None:
        """Answer all waiting calls with an error."""
        for call in list(self.pending):
            self.fail(call, error)

    def drop(self, call: Call) -> None:
        """Drop a call whose caller has gone; its request continues."""
        if self.pending.drop(call):
            self._leave(call)

    def cancel(self, call: Call) -> None:
        """Drop a call whose caller has gone, and cancel its request."""
        if self.pending.drop(call):
            self._leave(call)
            self._metrics.cancellations += 1
            self.cancel_queued(call)

    def cancel_queued(self, call: Call) -> None:
        """Cancel the request at its workers, together with the others of this turn of the event loop.

        It cancels runs accepted up to this call's, none after it: this gateway may have been stalled while the key was used again.
        """
        if not self._cancels:
            self._loop.call_soon(self._flush_cancels)
        self._cancels.setdefault(call.topic, []).append(Cancel(call.ref, call.accepted))

    async def end(self, request_ref: str, reply: InferReply) -> InferReply | None:
        """Write a retriable terminal of this gateway; with `reply.timing.accepted`, only for the run accepted then.

        Returns:
            None if it was written, else the terminal that was there first.

        Raises:
            Unavailable: the store cannot be reached.
        """
        accepted = reply.timing.accepted
        answer = Terminal(request_ref, encode_reply(reply), "", self._result_ttl, True, accepted)
        if reply.failure is not None and reply.model and reply.version:
            reason = _REASONS.get(reply.failure.code, FailureReason.OTHER)
            seconds = self._clock() - accepted if accepted else 0.0
            answer.counts = count_failure((reply.model, reply.version), reason, seconds)
        (outcome,) = await self._results.finish([answer])
        if outcome is FinishOutcome.WRITTEN:
            return None
        (state,) = await self._results.look([request_ref])
        if state is None or state.payload is None:
            return None
        if state.payload:
            return decode_reply(state.payload)
        return InferReply(reply.model, reply.version, failure=Failure(Code.GONE, _NOT_KEPT))

    async def close(self) -> None:
        """Finish work in flight."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush_cancels()
        await self._tasks.join()

    def _done(self, call: Call, reply: InferReply, now: float) -> None:
        self._leave(call)
        if call.counted:
            failure = reply.failure
            metrics = self._metrics
            table = metrics.counters if call.lane is not _BATCH else metrics.batch_counters
            table[call.model, call.version].count("OK" if failure is None else failure.code.value, now - call.accepted)
        try:
            call.on_done(reply)
        except Exception:
            _log.exception("an answer could not be delivered to its caller", request_id=call.ref)

    def _leave(self, call: Call) -> None:
        if call.routed is not None:
            call.routed.left(call.rows)
            call.routed = None
        if call.counted:
            self._admissions.of(call.lane).leave(call.topic, call.size)

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
                self._tasks.spawn(self._expire_claimed(call))
            else:
                if not call.claimed:
                    self.cancel_queued(call)
                self._done(call, self.failed(call, self._late(call)), now)
        wake_at = self.pending.wake_at()
        if wake_at < math.inf:
            self._arm(wake_at)

    async def _expire_claimed(self, call: Call) -> None:
        """The deadline of the record has passed: the first terminal wins, and the caller gets it."""
        reply = self.failed(call, self._late(call))
        self.cancel_queued(call)
        try:
            reply = await self.end(call.ref, reply) or reply
        except FleetError as error:
            _log.warning("expired deadline could not be written", request_id=call.ref, error=error.message)
        self._done(call, reply, self._clock())

    def _late(self, call: Call) -> FleetError:
        text = f"Request timeout expired: no answer within {(call.deadline - call.accepted) * 1e3:.0f} ms"
        if call.version and not self.has_worker(call.model, call.version):
            text += f"; no worker serves model '{call.model}' version {call.version} now: the request waited for one"
        return DeadlineExceeded(text)

    def _flush_cancels(self) -> None:
        cancels, self._cancels = self._cancels, {}
        for topic, listed in cancels.items():
            self._tasks.spawn(self._cancel(topic, listed))

    async def _cancel(self, topic: str, cancels: list[Cancel]) -> None:
        try:
            await self._results.cancel(self._names.cancel_channel(topic), cancels)
        except FleetError as error:
            _log.warning("cancellation could not be sent", topic=topic, calls=len(cancels), error=error.message)
