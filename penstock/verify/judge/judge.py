"""Verdicts: which promises a history keeps, which it breaks, and what shows it. Pure.

Invariants: a verdict rests on what callers saw, on raw reads of Kafka and Redis and on the model's own account; nothing is held
against the fleet that the promise leaves open (such a case is `excused` and counted); a run in which nothing was delivered twice
proves nothing, and says so.
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
"""Pieces of evidence that a verdict keeps."""


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


Check = Callable[[Facts], Iterator[Finding]]

PROMISES: Final[dict[str, tuple[str, Check]]] = {
    "I1": (
        "every accepted request reaches an end, or is visible as pending",
        rules_answers.every_accepted_request_ends,
    ),
    "I2": ("at most one terminal per request, and every caller sees the same", rules_answers.at_most_one_terminal),
    "I3": ("no committed offset above an incomplete record", rules_answers.commits_stay_below),
    "I5": ("no answer to the wrong caller", rules_answers.answers_are_the_callers),
    "I6": ("nothing starts after its cancellation or deadline was seen", rules_work.nothing_starts_late),
    "I7": ("what cannot be served is kept, byte for byte, with the reason", rules_work.what_cannot_be_served_is_kept),
    "I8": ("nobody else is harmed", rules_work.nobody_else_is_harmed),
    "I9": ("no process keeps the bytes of requests that are done", rules_limits.memory_is_bounded),
    "I11": ("the lag reaches zero in bounded time", rules_work.lag_returns_to_zero),
    "I12": ("no log begins above its committed offset", rules_limits.nothing_unread_is_deleted),
}
