"""Rules about answers: every accepted request has one (I1), only one (I2, I3), and its own (I5). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.verify import model
from penstock.verify.judge.facts import Facts
from penstock.verify.judge.finding import HARMLESS, Finding
from penstock.verify.observe.history import CallEnd
from penstock.verify.plan.plan import CallKind


def every_accepted_request_ends(facts: Facts) -> Iterator[Finding]:
    """I1."""
    for seen in facts.history.seen:
        if seen.end is CallEnd.SILENT:
            yield Finding(
                f"call {seen.number} ({seen.kind}) was neither answered nor refused in {seen.at - seen.sent:.1f} s"
            )
        elif seen.accepted:
            open_ = seen.end is CallEnd.OPEN and not facts.visible(seen.ref)
            yield Finding(f"call {seen.number} ({seen.kind}) got 202 as {seen.ref} and never ended" if open_ else "")
    for produced in facts.history.produced:
        if produced.kind is not CallKind.GARBAGE:
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


def at_most_one_terminal(facts: Facts) -> Iterator[Finding]:
    """I2."""
    for ref, runs in facts.runs_seen().items():
        text = f"{ref} was answered by {len(runs)} different executions: {sorted(runs)}" if len(runs) > 1 else ""
        yield Finding(text, excused=bool(text) and facts.forgotten(ref))
    for ref in facts.refs_with_results():
        final = [seen for seen in facts.by_ref(ref) if seen.end is CallEnd.ERROR and seen.status not in HARMLESS]
        if final:
            yield Finding(f"{ref} was answered by a result and by {final[0].status}: {final[0].text[:200]}")
    for seen in facts.history.seen:
        if seen.cancelled_at and seen.end is CallEnd.ANSWER:
            yield Finding(
                f"{seen.ref} was answered after its confirmed cancellation", excused=facts.forgotten(seen.ref)
            )
    for ref, why in facts.terminals_undone():
        yield Finding(f"{ref}: {why}")


def commits_stay_below(facts: Facts) -> Iterator[Finding]:
    """I3."""
    for passed in facts.history.passed:
        if passed.terminal or passed.dead:
            yield Finding()
            continue
        record = facts.record(passed.topic, passed.partition, passed.offset)
        renewed = record is not None and passed.claimed > record.accepted > 0
        yield Finding(
            f"{passed.topic}/{passed.partition}: an offset above {passed.offset} was committed, and that record is unfinished",
            excused=renewed or (record is not None and facts.forgotten(record.ref)),
        )


def answers_are_the_callers(facts: Facts) -> Iterator[Finding]:
    """I5."""
    for seen in facts.history.seen:
        if seen.end is CallEnd.ANSWER:
            yield Finding(_wrong(facts, seen.number, seen.answer, seen.run, f"call {seen.number}"))
    for stored in facts.history.stored:
        record = facts.record_of(stored.ref)
        if stored.run is not None and record is not None and record.number is not None:
            yield Finding(_wrong(facts, record.number, stored.answer, stored.run, f"the stream of {stored.ref}"))


def _wrong(facts: Facts, number: int, answer: int | None, run: int | None, what: str) -> str:
    call = facts.calls.get(number)
    if call is None:
        return f"{what} holds an answer to {number}, which was never sent"
    right = model.right_answer(call.model, number)
    if answer != right:
        return f"{what} holds {answer} for {number} of {call.model}; {right} is right"
    if run not in facts.executions.get(number, {}):
        return f"{what} holds the answer of execution {run}, which the models did not record for {number}"
    return ""
