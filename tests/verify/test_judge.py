"""What a judged run is worth: verdicts, the proof that something was delivered twice, and the report."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.verify.judge.judge import PROMISES, judge, redelivered
from penstock.verify.observe.history import Execution, History, InjectedFault, LogRecord
from penstock.verify.report.report import BROKEN, HELD, PROVES_NOTHING, judged_report
from tests.verify.histories import (
    ANSWERED,
    PLAN,
    REFS,
    START,
    TOPIC,
    broken,
    healthy,
    judged,
    run_of,
    stored,
)


def test_a_healthy_run_holds_every_promise_and_proves_it() -> None:
    verdicts = judged()

    assert list(verdicts) == list(PROMISES)
    assert all(verdict.held and verdict.checked and not verdict.excused for verdict in verdicts.values())
    assert redelivered(PLAN, healthy()) == [8]
    assert judged_report(PLAN, healthy()).exit_code == HELD


def test_a_run_without_a_redelivery_proves_nothing() -> None:
    history = healthy()
    history.runs = [run for run in history.runs if run.run != run_of(8, again=1)]

    assert judged_report(PLAN, history).exit_code == PROVES_NOTHING


def test_a_record_that_was_written_twice_is_no_redelivery() -> None:
    history = healthy()
    history.logged.append(LogRecord(TOPIC, 1, 0, REFS[8], 8, START, 0.0, "", START))

    assert redelivered(PLAN, history) == []


def test_what_ran_again_beside_poison_is_no_redelivery() -> None:
    history = healthy()
    first = next(run for run in history.runs if run.number == 8)
    history.runs.append(Execution(9, 12345, first.at, first.pid))

    assert redelivered(PLAN, history) == []


def test_what_ran_again_after_its_child_was_killed_is_no_redelivery() -> None:
    history = healthy()
    history.faults.append(InjectedFault("child-kill", "worker-0", START + 0.3, START + 0.4, (77,)))

    assert redelivered(PLAN, history) == []


def test_a_run_in_which_nothing_was_committed_proves_nothing() -> None:
    history = healthy()
    history.passed.clear()

    assert judged_report(PLAN, history).exit_code == PROVES_NOTHING


def test_a_broken_promise_is_said_with_its_evidence() -> None:
    history = healthy()
    history.seen[0].answer = 12345

    made = judged_report(PLAN, history)

    assert made.exit_code == BROKEN
    assert any("BROKEN I5" in line for line in made.lines())
    assert any("12345" in line for line in made.lines())


# --- whatever the order -----------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_things_were_written_down_does_not_matter(chance: random.Random) -> None:
    history = healthy()
    for things in (history.seen, history.stored, history.passed, history.runs, history.dead, history.produced):
        chance.shuffle(things)

    assert all(verdict.held for verdict in judge(PLAN, history))


@given(st.sampled_from(ANSWERED), st.integers(0, 2**56))
def test_any_answer_of_a_run_that_was_not_its_own_is_found(number: int, run: int) -> None:
    def change(history: History) -> None:
        history.stored.append(dataclasses.replace(stored(number, START + 30), run=run))

    assert ("I5" in broken(change)) == (run not in {r.run for r in healthy().runs if r.number == number})
