"""Verdicts: which promises a history keeps, which it breaks, and what shows it. Pure.

Invariants: a verdict rests on what callers saw, on raw reads of Kafka and Redis and on the model's own account; nothing is held
against the fleet that the promise leaves open (such a case is `excused` and counted); a run in which nothing was delivered twice
proves nothing, and says so.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from penstock.verify import model
from penstock.verify.facts import Facts
from penstock.verify.history import End, History, Seen
from penstock.verify.plan import DIES, FaultKind, Kind, Plan

SLACK: Final = 0.5
"""Seconds between a batch's last check and its run, on a machine that is busy: less than this says nothing of I6."""
SHOWN: Final = 20
"""Pieces of evidence that a verdict keeps."""
HARMLESS: Final = frozenset({429, 499, 503, 504})
"""Statuses that a good request may end with: the fleet, its caller or the clock, and none blames the request."""

_TOUCHES_CHECKS: Final = frozenset(
    {FaultKind.WORKER_STOP, FaultKind.ZOMBIE, FaultKind.REDIS_DELAY, FaultKind.REDIS_DROP, FaultKind.CUT_KILL}
)
"""While one of these lasts, a worker may act on what it knew before: it has not seen the cancellation, or stood between its check
and its run."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One case that was looked at: broken, excused, or (neither) fine."""

    text: str = ""
    excused: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one promise.

    Attributes:
        promise: its name, as in docs/guarantees.md.
        says: in a few words.
        held: nothing broke it.
        checked: cases that were looked at; none proves nothing.
        broken, excused: how many.
        evidence: of the first ones that broke it.
    """

    promise: str
    says: str
    held: bool
    checked: int
    broken: int
    excused: int
    evidence: tuple[str, ...]


def judge(plan: Plan, history: History) -> list[Verdict]:
    """A verdict for every promise that a run can be judged by."""
    facts = Facts(plan, history)
    return [_verdict(promise, says, list(check(facts))) for promise, (says, check) in PROMISES.items()]


def redelivered(plan: Plan, history: History) -> list[int]:
    """Numbers that ran more than once although their record stands in the log once: delivered again, by the model's own account."""
    return Facts(plan, history).redelivered()


def _verdict(promise: str, says: str, findings: list[Finding]) -> Verdict:
    broken = [finding.text for finding in findings if finding.text and not finding.excused]
    excused = sum(finding.excused for finding in findings)
    return Verdict(promise, says, not broken, len(findings), len(broken), excused, tuple(broken[:SHOWN]))


def _every_accepted_request_ends(facts: Facts) -> Iterator[Finding]:
    for seen in facts.history.seen:
        if seen.end is End.SILENT:
            yield Finding(
                f"call {seen.number} ({seen.kind}) was neither answered nor refused in {seen.at - seen.sent:.1f} s"
            )
        elif seen.accepted:
            open_ = seen.end is End.OPEN and not facts.visible(seen.ref)
            yield Finding(f"call {seen.number} ({seen.kind}) got 202 as {seen.ref} and never ended" if open_ else "")
    for produced in facts.history.produced:
        if produced.kind is not Kind.GARBAGE:
            lost = not facts.ended(produced.ref) and not facts.visible(produced.ref)
            yield Finding(
                f"record {produced.topic}/{produced.partition}@{produced.offset} of {produced.ref} has no answer"
                if lost
                else "",
                excused=lost and facts.forgotten(produced.ref),
            )
    for record in facts.unanswered_records():
        yield Finding(
            f"record {record.topic}/{record.partition}@{record.offset} of {record.ref} is committed and has no answer",
            excused=facts.forgotten(record.ref),
        )


def _at_most_one_terminal(facts: Facts) -> Iterator[Finding]:
    for ref, runs in facts.runs_seen().items():
        text = f"{ref} was answered by {len(runs)} different executions: {sorted(runs)}" if len(runs) > 1 else ""
        yield Finding(text, excused=bool(text) and facts.forgotten(ref))
    for ref in facts.refs_with_results():
        final = [seen for seen in facts.by_ref(ref) if seen.end is End.ERROR and seen.status not in HARMLESS]
        if final:
            yield Finding(f"{ref} was answered by a result and by {final[0].status}: {final[0].text[:200]}")
    for seen in facts.history.seen:
        if seen.cancelled_at and seen.end is End.ANSWER:
            yield Finding(
                f"{seen.ref} was confirmed to be cancelled, and then answered", excused=facts.forgotten(seen.ref)
            )
    for ref, why in facts.terminals_undone():
        yield Finding(f"{ref}: {why}")


def _commits_stay_below(facts: Facts) -> Iterator[Finding]:
    for passed in facts.history.passed:
        if passed.terminal or passed.dead:
            yield Finding()
            continue
        record = facts.record(passed.topic, passed.partition, passed.offset)
        renewed = record is not None and passed.claimed > record.accepted > 0
        yield Finding(
            f"{passed.topic}/{passed.partition}: an offset above {passed.offset} was committed, and that record has no end",
            excused=renewed or (record is not None and facts.forgotten(record.ref)),
        )


def _answers_are_the_callers(facts: Facts) -> Iterator[Finding]:
    for seen in facts.history.seen:
        if seen.end is End.ANSWER:
            yield Finding(_wrong(facts, seen.number, seen.answer, seen.run, f"call {seen.number}"))
    for stored in facts.history.stored:
        record = facts.record_of(stored.ref)
        if stored.run is not None and record is not None and record.number is not None:
            yield Finding(_wrong(facts, record.number, stored.answer, stored.run, f"the stream of {stored.ref}"))


def _wrong(facts: Facts, number: int, answer: int | None, run: int | None, what: str) -> str:
    call = facts.calls.get(number)
    if call is None:
        return f"{what} holds an answer to {number}, which nobody sent"
    right = model.answer(call.model, number)
    if answer != right:
        return f"{what} holds {answer} for {number} of {call.model}; {right} is right"
    if run not in facts.executions.get(number, {}):
        return f"{what} holds the answer of execution {run}, which by the models' account was not one of {number}"
    return ""


def _nothing_starts_late(facts: Facts) -> Iterator[Finding]:
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


def _what_cannot_be_served_is_kept(facts: Facts) -> Iterator[Finding]:
    for produced in facts.history.produced:
        if produced.kind is Kind.GARBAGE:
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


def _nobody_else_is_harmed(facts: Facts) -> Iterator[Finding]:
    for seen in facts.history.seen:
        harmed = seen.end is End.ERROR and seen.status not in HARMLESS and not facts.is_poison(seen.number)
        yield Finding(
            f"call {seen.number} ({seen.kind}) was answered {seen.status}: {seen.text[:200]}" if harmed else "",
            excused=harmed and facts.given_up(seen.ref),
        )
    garbage = {(p.topic, p.partition, p.offset) for p in facts.history.produced if p.kind is Kind.GARBAGE}
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


def _lag_returns_to_zero(facts: Facts) -> Iterator[Finding]:
    history = facts.history
    after = [sample for sample in history.samples if sample.at >= history.quiet_at]
    zero = next((sample for sample in after if sample.ends and sample.lag == 0), None)
    if zero is None:
        lag = after[-1].lag if after else "never read"
        yield Finding(f"the lag was still {lag} {history.settle:.0f} s after the last fault")
    elif zero.at - history.quiet_at > history.settle:
        yield Finding(f"the lag reached zero only {zero.at - history.quiet_at:.1f} s after the last fault")
    else:
        yield Finding()


Check = Callable[[Facts], Iterator[Finding]]

PROMISES: Final[dict[str, tuple[str, Check]]] = {
    "I1": ("every accepted request reaches an end, or is visible as pending", _every_accepted_request_ends),
    "I2": ("at most one terminal per request, and every caller sees the same", _at_most_one_terminal),
    "I3": ("no committed offset above an incomplete record", _commits_stay_below),
    "I5": ("no answer to the wrong caller", _answers_are_the_callers),
    "I6": ("nothing starts after its cancellation or deadline was seen", _nothing_starts_late),
    "I7": ("what cannot be served is kept, byte for byte, with the reason", _what_cannot_be_served_is_kept),
    "I8": ("nobody else is harmed", _nobody_else_is_harmed),
    "I11": ("the lag reaches zero in bounded time", _lag_returns_to_zero),
}


def longest_gap(seen: list[Seen]) -> float:
    """Seconds of the longest time in which no call was answered."""
    times = sorted(call.at for call in seen if call.end is End.ANSWER)
    return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)
