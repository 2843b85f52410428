"""Rules about work: no late starts (I6), dead letters (I7), no harm to others (I8), lag (I11). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from penstock.verify.judge.facts import Facts
from penstock.verify.judge.finding import HARMLESS, Finding
from penstock.verify.observe.history import CallEnd
from penstock.verify.plan.plan import DIES, CallKind, FaultKind

SLACK: Final = 0.5
"""Seconds that a busy machine may take between a batch's last check and its run; a smaller delay does not break I6."""
_TOUCHES_CHECKS: Final = frozenset(
    {FaultKind.WORKER_STOP, FaultKind.ZOMBIE, FaultKind.REDIS_DELAY, FaultKind.REDIS_DROP, FaultKind.CUT_KILL}
)
"""During these faults a worker may act on stale state: it has not seen the cancellation, or was stopped between its check and its
run."""


def nothing_starts_late(facts: Facts) -> Iterator[Finding]:
    """I6."""
    for seen in facts.history.seen:
        if seen.cancelled_at:
            yield from _late(facts, seen.number, seen.cancelled_at, "its cancellation was confirmed")
    deadlines: dict[int, float] = {}
    for record in facts.history.logged:
        if record.deadline and record.number is not None:
            deadlines[record.number] = max(record.deadline, deadlines.get(record.number, 0.0))
    for number, deadline in deadlines.items():
        yield from _late(facts, number, deadline, "its deadline")


def _late(facts: Facts, number: int, end: float, what: str) -> Iterator[Finding]:
    yield Finding()
    for run in facts.executions.get(number, {}).values():
        if run.at > end + SLACK:
            excused = any(
                fault.began <= run.at and (fault.loses or fault.ended >= end - SLACK)
                for fault in facts.history.faults
                if not fault.note and (fault.loses or (fault.kind in _TOUCHES_CHECKS and run.pid in fault.pids))
            )
            yield Finding(f"{number} began to run {run.at - end:.2f} s after {what}", excused)


def unservable_is_kept(facts: Facts) -> Iterator[Finding]:
    """I7."""
    for produced in facts.history.produced:
        if produced.kind is CallKind.GARBAGE:
            yield _kept(facts, produced.topic, produced.partition, produced.offset, produced.digest)
    for record in facts.history.logged:
        if record.number in facts.calls and facts.calls[record.number].millis == DIES:
            yield _kept(facts, record.topic, record.partition, record.offset, record.digest)


def _kept(facts: Facts, topic: str, partition: int, offset: int, digest: str) -> Finding:
    where = f"{topic}/{partition}@{offset}"
    letters = facts.letters(topic, partition, offset)
    if not letters:
        unread = not facts.committed_past(topic, partition, offset)
        return Finding(f"{where} cannot be served and is not among the dead letters", excused=unread)
    if any(letter.digest != digest for letter in letters):
        return Finding(f"the dead letter of {where} is not byte-identical")
    if not all(letter.reason for letter in letters):
        return Finding(f"the dead letter of {where} does not say why")
    return Finding()


def nobody_else_is_harmed(facts: Facts) -> Iterator[Finding]:
    """I8."""
    for seen in facts.history.seen:
        harmed = seen.end is CallEnd.ERROR and seen.status not in HARMLESS and not facts.is_poison(seen.number)
        yield Finding(
            f"call {seen.number} ({seen.kind}) was answered {seen.status}: {seen.text[:200]}" if harmed else "",
            excused=harmed and facts.given_up(seen.ref),
        )
    garbage = {(p.topic, p.partition, p.offset) for p in facts.history.produced if p.kind is CallKind.GARBAGE}
    for letter in facts.history.dead:
        place = (letter.topic, letter.partition, letter.offset)
        record = facts.record(*place)
        if place not in garbage and record is not None and not facts.is_poison(record.number):
            where = f"{letter.topic}/{letter.partition}@{letter.offset}"
            text = f"{where} is a good request among the dead letters: {letter.reason}"
            yield Finding(text, excused=facts.given_up(record.ref))
    for stored in facts.history.stored:
        if stored.error in {"MODEL_FAILED", "INTERNAL", "INVALID_ARGUMENT"} and facts.is_good(stored.ref):
            text = f"{stored.ref}, a good request, ended with {stored.error}"
            yield Finding(text, excused=facts.given_up(stored.ref))


def lag_returns_to_zero(facts: Facts) -> Iterator[Finding]:
    """I11."""
    history = facts.history
    after = [sample for sample in history.samples if sample.at >= history.quiet_at]
    zero = next((sample for sample in after if sample.ends and sample.lag == 0), None)
    if zero is None:
        lag = after[-1].lag if after else "never read"
        yield Finding(f"the lag was still {lag} {history.settle:.0f} s after the last fault and the last call")
    elif zero.at - history.quiet_at > history.settle:
        yield Finding(
            f"the lag reached zero only {zero.at - history.quiet_at:.1f} s after the last fault and the last call"
        )
    else:
        yield Finding()
