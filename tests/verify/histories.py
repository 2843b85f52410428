"""Made-up runs: a healthy one, to be broken in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from penstock.verify import model
from penstock.verify.judge.judge import Verdict, judge
from penstock.verify.observe.history import (
    CallEnd,
    CommittedRecord,
    DeadRecord,
    Execution,
    History,
    InjectedFault,
    LogRecord,
    ObservedCall,
    OffsetSample,
    ProducedRecord,
    StreamState,
    digest,
)
from penstock.verify.plan.plan import DIES, Call, CallKind, Plan

TOPIC = "verify.infer.checked.1"
PLACE = f"{TOPIC}/0"
START = 1000.0

CALLS = (
    Call(1, 0.0, CallKind.PLAIN, "checked", 1, 0),
    Call(2, 0.1, CallKind.SHARED, "checked", 1, 0, copies=2),
    Call(3, 0.2, CallKind.ASYNC, "checked", 1, 0),
    Call(4, 0.3, CallKind.CANCELLED, "checked", 1, 0, limit=0.1),
    Call(5, 0.4, CallKind.DEADLINE, "checked", 1, 0, limit=0.1),
    Call(6, 0.5, CallKind.DIRECT, "checked", 1, 0, principal="shop"),
    Call(7, 0.6, CallKind.GARBAGE, "checked", 1, 0),
    Call(8, 0.7, CallKind.PLAIN, "checked", 1, 0),
    Call(9, 0.8, CallKind.POISON, "checked", DIES, 0),
)
PLAN = Plan(1, 20.0, 6.0, CALLS, ())

REFS = {1: "r1", 2: "r2", 3: "r3", 4: "r4", 5: "r5", 6: "shop/order-6", 7: "shop/garbage-7", 8: "r8", 9: "r9"}
ANSWERED = (1, 2, 3, 6, 8)


def run_of(number: int, again: int = 0) -> int:
    """A made-up random number for an execution."""
    return number * 100 + again


def seen(number: int, end: CallEnd = CallEnd.ANSWER, status: int = 200) -> ObservedCall:
    at = START + CALLS[number - 1].at
    caller = ObservedCall(number, CALLS[number - 1].kind, REFS[number], end, at + 0.1, at, status)
    if end is CallEnd.ANSWER:
        caller.answer, caller.run = model.right_answer("checked", number), run_of(number)
    return caller


def stored(number: int, at: float = START + 5) -> StreamState:
    if number in ANSWERED:
        return StreamState(REFS[number], at, True, model.right_answer("checked", number), run_of(number))
    error = {4: "CANCELLED", 5: "DEADLINE_EXCEEDED", 7: "INVALID_ARGUMENT", 9: "MODEL_FAILED"}[number]
    return StreamState(REFS[number], at, True, error=error)


def healthy() -> History:
    """Nine calls, of which number 8 was delivered twice and number 9 killed its model three times, and every promise held."""
    history = History(quiet_at=START + 10, settle=30.0)
    history.seen = [
        seen(1), seen(2), seen(2), dataclasses.replace(seen(3), accepted=True),
        dataclasses.replace(seen(4, CallEnd.ERROR, 499), accepted=True, cancelled_at=START + 0.5),
        seen(5, CallEnd.ERROR, 504), seen(8), seen(9, CallEnd.ERROR, 500),
    ]  # fmt: skip
    for offset, call in enumerate(CALLS):
        known = call.number if call.kind is not CallKind.GARBAGE else None
        value = digest(b"%d" % call.number)
        deadline = START + 0.5 if call.kind is CallKind.DEADLINE else 0.0
        history.logged.append(
            LogRecord(TOPIC, 0, offset, REFS[call.number], known, START + call.at, deadline, value, START + call.at)
        )
        history.passed.append(CommittedRecord(TOPIC, 0, offset, START + 2, True, call.kind is CallKind.GARBAGE))
        history.stored += [stored(call.number, START + 2), stored(call.number, START + 15)]
        if call.kind in {CallKind.DIRECT, CallKind.GARBAGE}:
            number = call.number if call.kind is CallKind.DIRECT else -call.number
            history.produced.append(ProducedRecord(number, call.kind, REFS[call.number], TOPIC, 0, offset, value))
    history.dead = [
        DeadRecord(TOPIC, 0, 6, digest(b"7"), "undecodable"),
        DeadRecord(TOPIC, 0, 8, digest(b"9"), "poison"),
    ]
    history.runs = [Execution(number, run_of(number), START + 0.2, 77) for number in ANSWERED]
    history.runs.append(Execution(8, run_of(8, again=1), START + 1.0, 78))
    history.runs += [Execution(9, run_of(9, again), START + 1.0 + again, 80 + again) for again in range(3)]
    history.faults = [InjectedFault("worker-kill", "worker-0", START + 0.8, START + 0.9, (77,))]
    history.samples = [
        OffsetSample(START + 1, {PLACE: 3}, {PLACE: 9}, {PLACE: 0}),
        OffsetSample(START + 11, {PLACE: 9}, {PLACE: 9}, {PLACE: 0}),
    ]
    history.store_bytes = 9 * 1000
    return history


def judged(*changes: Callable[[History], None]) -> dict[str, Verdict]:
    """The verdicts on the healthy run after these changes, by promise."""
    history = healthy()
    for change in changes:
        change(history)
    return {verdict.promise: verdict for verdict in judge(PLAN, history)}


def broken(*changes: Callable[[History], None]) -> set[str]:
    """The promises that no longer hold."""
    return {promise for promise, verdict in judged(*changes).items() if not verdict.held}


def caller(history: History, number: int) -> int:
    """The position of its first call in the list."""
    return next(place for place, seen in enumerate(history.seen) if seen.number == number)
