"""Checks that callers saw what was promised, and that nothing is left of ended calls."""

from __future__ import annotations

from gateway.timing import STAGES, timing_value
from protocol.errors import Code, FleetError
from protocol.messages import InferReply
from protocol.model_stats import document
from protocol.runtime.clock import DRIFT
from tests.simulation.clients import LONG, SLACK, Call
from tests.simulation.fleet import Fleet


def judge(call: Call, fleet: Fleet) -> None:
    """Check that the caller saw what was promised."""
    history = fleet.history
    if not call.done:
        if not is_only_pending(call, fleet):
            history.broken("I1", f"{call.kind} call {call.name} has no answer")
        return
    if call.kind in ("plain", "probe") and len(call.answers) != 1 and not call.lost:
        history.broken("I1", f"{call.name} has {len(call.answers)} answers")
    if call.cancelled and call.kind == "cancel" and call.answers:
        history.broken("I6", f"{call.name} was answered after its caller had hung up")
    for told, waited in call.waits:
        _judge_times(call, told, waited, fleet)
    for answer in call.answers:
        if isinstance(answer, InferReply) and answer.failure is None:
            _judge_output(call, answer, fleet)
        else:
            error = answer.failure.error() if isinstance(answer, InferReply) else answer  # type: ignore[union-attr]
            _judge_error(call, error, fleet)  # type: ignore[arg-type]


def is_only_pending(call: Call, fleet: Fleet) -> bool:
    """Whether the call may be visible as pending for ever: its record was deleted, so only I12 is promised."""
    return bool(call.refs & fleet.history.gone)


def _judge_output(call: Call, answer: InferReply, fleet: Fleet) -> None:
    (tensor,) = answer.outputs
    values = tensor.array().ravel().tolist()
    if values != [call.value, 0.0] or answer.label != (call.key or call.name):
        fleet.history.broken("I5", f"{call.name} ({call.value}) got {values} labelled {answer.label!r}")
    if call.bad:
        fleet.history.broken("I8", f"{call.name} is bad and succeeded")


def _judge_times(call: Call, answer: InferReply, seconds: float, fleet: Fleet) -> None:
    """What the answer tells of its times is in order, and its total no longer than the caller has waited."""
    text = timing_value(answer.timing, answer.woken).decode()
    fields = dict(part.split("=", 1) for part in text.split(", ") if part)
    told = [int(fields[name]) for name in STAGES if name in fields]
    waited = seconds * (1 + DRIFT) + 0.01
    if "-" in text or told != sorted(told):
        fleet.history.broken("times", f"{call.name} got times out of order: {text}")
    if "wake" in fields and int(fields["wake"]) > waited * 1e6:
        fleet.history.broken("times", f"{call.kind} call {call.name} took {waited:.3f} s and was told {text}")


def _judge_error(call: Call, error: FleetError, fleet: Fleet) -> None:
    history, code = fleet.history, error.code
    late = call.timeout and fleet.loop.now >= call.started + call.timeout - SLACK
    # If one of several calls with a key has a short deadline, the record may get it and end for all of them, also when its
    # owner cancels it.
    shared = bool(call.key)
    deleted = bool(call.refs & history.gone)
    right = {
        Code.MODEL_FAILED: bool(call.bad or call.refs & history.letters.given_up),
        Code.DEADLINE_EXCEEDED: (bool(late) and (call.timeout != LONG or deleted)) or shared,
        Code.CANCELLED: call.cancelled or shared,
        Code.UNAVAILABLE: call.kind != "probe",
        Code.GONE: deleted,
    }
    if not right.get(code, False):
        promise = (
            "I6" if code in {Code.CANCELLED, Code.DEADLINE_EXCEEDED} else "I8" if code is Code.MODEL_FAILED else "I1"
        )
        history.broken(promise, f"{call.kind} call {call.name} ended with {code}: {error.message}")


def judge_leftovers(fleet: Fleet) -> None:
    """No process keeps anything of ended calls."""
    history = fleet.history
    for gateway in fleet.gateways.values() if not history.losses and not history.gone else ():
        left = sum(call.counted for call in gateway.service.completion.pending) if gateway.up else 0
        if left:
            history.broken("I9", f"{left} calls are left in {gateway.process}")
        if gateway.up and gateway.service.admission.size:
            history.broken("I9", f"{gateway.service.admission.size} bytes are still counted in {gateway.process}")
    for host in fleet.hosts.values():
        if host.worker is not None and host.worker.serving is not None and host.worker.process.alive:
            left = host.worker.serving.runner.in_flight
            if left:
                history.broken("I9", f"{left} requests are left in {host.worker.process}")


def judge_totals(fleet: Fleet) -> None:
    """The statistics are those of the answers that the store wrote. After a failover they are those of its replica."""
    history = fleet.history
    if history.tails_lost:
        return
    (totals,) = fleet.redis.totals.read([("m", "1")])
    shown = document(totals)
    stats = shown["inference_stats"]
    counted = stats["success"]["count"], stats["fail"]["count"], shown["inference_count"]
    right = history.successes, history.failures, history.successes
    if counted != right:
        history.broken("I2", f"successes, failures and rows are {right}, and the statistics say {counted}")
    if history.successes and not shown["execution_count"] >= 1:
        history.broken("I2", "answers are counted and no execution")
