"""Verdicts: which promises a history keeps or breaks, with evidence. Pure.

Invariants: a verdict rests on callers' observations, raw reads of Kafka and Redis, and the model's own record. A case that the
promise does not cover is `excused` and counted. A run in which nothing was delivered twice proves nothing, and says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

from penstock.verify.judge import rules_answers, rules_limits, rules_work
from penstock.verify.judge.facts import Facts
from penstock.verify.judge.finding import Finding
from penstock.verify.observe.history import History
from penstock.verify.plan.plan import Plan

SHOWN: Final = 20
"""Broken cases that a verdict keeps as evidence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one promise.

    Attributes:
        promise: its name, as in docs/guarantees.md.
        says: the promise in a few words.
        held: no case broke it.
        checked: the number of judged cases; with 0 the verdict proves nothing.
        broken, excused: numbers of such cases.
        evidence: the first broken cases.
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
    """Numbers that the model ran more than once although their record is in the log once."""
    return Facts(plan, history).redelivered()


def _verdict(promise: str, says: str, findings: list[Finding]) -> Verdict:
    broken = [finding.text for finding in findings if finding.text and not finding.excused]
    excused = sum(finding.excused for finding in findings)
    return Verdict(promise, says, not broken, len(findings), len(broken), excused, tuple(broken[:SHOWN]))


Check = Callable[[Facts], Iterator[Finding]]

PROMISES: Final[dict[str, tuple[str, Check]]] = {
    "I1": (
        "every accepted request reaches a terminal answer, or is visible as pending",
        rules_answers.every_accepted_request_ends,
    ),
    "I2": ("at most one terminal answer per request, the same for every caller", rules_answers.at_most_one_terminal),
    "I3": ("no committed offset above an unfinished record", rules_answers.commits_stay_below),
    "I5": ("no answer to the wrong caller", rules_answers.answers_are_the_callers),
    "I6": ("no request starts after its cancellation or deadline", rules_work.nothing_starts_late),
    "I7": ("requests that cannot be served are kept byte for byte, with the reason", rules_work.unservable_is_kept),
    "I8": ("poison harms no other request", rules_work.nobody_else_is_harmed),
    "I9": ("no process keeps the bytes of finished requests", rules_limits.memory_is_bounded),
    "I11": ("the lag reaches zero in bounded time", rules_work.lag_returns_to_zero),
    "I12": ("no log begins above its committed offset", rules_limits.nothing_unread_is_deleted),
}
