"""Made-up runs: a healthy one, to be broken in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from penstock.verify import model
from penstock.verify.judge.judge import Verdict, judge
from penstock.verify.observe.history import (
    Broken,
    Dead,
    End,
    History,
    Logged,
    Passed,
    Produced,
    Run,
    Sample,
    Seen,
    Stored,
    digest,
)
from penstock.verify.plan.plan import DIES, Call, Kind, Plan

TOPIC = "verify.infer.checked.1"
PLACE = f"{TOPIC}/0"
START = 1000.0

CALLS = (
    Call(1, 0.0, Kind.PLAIN, "checked", 1, 0),
    Call(2, 0.1, Kind.SHARED, "checked", 1, 0, copies=2),
    Call(3, 0.2, Kind.ASYNC, "checked", 1, 0),
    Call(4, 0.3, Kind.CANCELLED, "checked", 1, 0, limit=0.1),
    Call(5, 0.4, Kind.DEADLINE, "checked", 1, 0, limit=0.1),
    Call(6, 0.5, Kind.DIRECT, "checked", 1, 0, principal="shop"),
    Call(7, 0.6, Kind.GARBAGE, "checked", 1, 0),
    Call(8, 0.7, Kind.PLAIN, "checked", 1, 0),
    Call(9, 0.8, Kind.POISON, "checked", DIES, 0),
)
PLAN = Plan(1, 20.0, 6.0, CALLS, ())

REFS = {1: "r1", 2: "r2", 3: "r3", 4: "r4", 5: "r5", 6: "shop/order-6", 7: "shop/garbage-7", 8: "r8", 9: "r9"}
ANSWERED = (1, 2, 3, 6, 8)


def run_of(number: int, again: int = 0) -> int:
    """What the model made up for an execution."""
    return number * 100 + again


def seen(number: int, end: End = End.ANSWER, status: int = 200) -> Seen:
    at = START + CALLS[number - 1].at
    caller = Seen(number, CALLS[number - 1].kind, REFS[number], end, at + 0.1, at, status)
    if end is End.ANSWER:
        caller.answer, caller.run = model.answer("checked", number), run_of(number)
    return caller


def stored(number: int, at: float = START + 5) -> Stored:
    if number in ANSWERED:
        return Stored(REFS[number], at, True, model.answer("checked", number), run_of(number))
    error = {4: "CANCELLED", 5: "DEADLINE_EXCEEDED", 7: "INVALID_ARGUMENT", 9: "MODEL_FAILED"}[number]
    return Stored(REFS[number], at, True, error=error)


def healthy() -> History:
    """Nine calls, of which number 8 was delivered twice and number 9 killed its model three times, and every promise held."""
    history = History(quiet_at=START + 10, settle=30.0)
    history.seen = [
        seen(1), seen(2), seen(2), dataclasses.replace(seen(3), accepted=True),
        dataclasses.replace(seen(4, End.ERROR, 499), accepted=True, cancelled_at=START + 0.5),
        seen(5, End.ERROR, 504), seen(8), seen(9, End.ERROR, 500),
    ]  # fmt: skip
    for offset, call in enumerate(CALLS):
        known = call.number if call.kind is not Kind.GARBAGE else None
        value = digest(b"%d" % call.number)
        deadline = START + 0.5 if call.kind is Kind.DEADLINE else 0.0
        history.logged.append(
            Logged(TOPIC, 0, offset, REFS[call.number], known, START + call.at, deadline, value, START + call.at)
        )
        history.passed.append(Passed(TOPIC, 0, offset, START + 2, True, call.kind is Kind.GARBAGE))
        history.stored += [stored(call.number, START + 2), stored(call.number, START + 15)]
        if call.kind in {Kind.DIRECT, Kind.GARBAGE}:
            number = call.number if call.kind is Kind.DIRECT else -call.number
            history.produced.append(Produced(number, call.kind, REFS[call.number], TOPIC, 0, offset, value))
    history.dead = [Dead(TOPIC, 0, 6, digest(b"7"), "undecodable"), Dead(TOPIC, 0, 8, digest(b"9"), "poison")]
    history.runs = [Run(number, run_of(number), START + 0.2, 77) for number in ANSWERED]
    history.runs.append(Run(8, run_of(8, again=1), START + 1.0, 78))
    history.runs += [Run(9, run_of(9, again), START + 1.0 + again, 80 + again) for again in range(3)]
    history.faults = [Broken("worker-kill", "worker-0", START + 0.8, START + 0.9, (77,))]
    history.samples = [
        Sample(START + 1, {PLACE: 3}, {PLACE: 9}, {PLACE: 0}),
        Sample(START + 11, {PLACE: 9}, {PLACE: 9}, {PLACE: 0}),
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
    """The promises that do not hold any more."""
    return {promise for promise, verdict in judged(*changes).items() if not verdict.held}


def caller(history: History, number: int) -> int:
    """Where its first call stands in the list."""
    return next(place for place, seen in enumerate(history.seen) if seen.number == number)
