"""Every promise is broken in a made-up history, and found; what the promise leaves open is not held against the fleet."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.verify import model
from penstock.verify.history import Broken, Dead, End, History, Logged, Run, Sample, Stored, digest
from penstock.verify.judge import PROMISES, judge, redelivered
from penstock.verify.report import BROKEN, HELD, PROVES_NOTHING, report
from tests.verify.histories import (
    ANSWERED,
    PLACE,
    PLAN,
    REFS,
    START,
    TOPIC,
    broken,
    healthy,
    judged,
    run_of,
    seen,
    stored,
)


def caller(history: History, number: int) -> int:
    """Where its first call stands in the list."""
    return next(place for place, seen in enumerate(history.seen) if seen.number == number)


def test_a_healthy_run_holds_every_promise_and_proves_it() -> None:
    verdicts = judged()

    assert list(verdicts) == list(PROMISES)
    assert all(verdict.held and verdict.checked and not verdict.excused for verdict in verdicts.values())
    assert redelivered(PLAN, healthy()) == [8]
    assert report(PLAN, healthy()).exit_code == HELD


# --- I1 ---------------------------------------------------------------------------------------------------------------


def lose(number: int, history: History) -> None:
    """As if nothing had ever come of it, though its offset is committed."""
    history.seen = [seen for seen in history.seen if seen.number != number]
    history.stored = [stored for stored in history.stored if stored.ref != REFS[number]]
    for passed in history.passed:
        if passed.offset == number - 1:
            passed.terminal = passed.dead = False


def test_an_accepted_record_that_never_ends_is_lost() -> None:
    assert broken(lambda history: lose(6, history)) == {"I1", "I3"}


def test_a_record_of_a_gateway_that_never_ends_is_lost() -> None:
    assert broken(lambda history: lose(1, history)) == {"I1", "I3"}


def test_a_202_without_an_end_is_lost() -> None:
    def change(history: History) -> None:
        history.seen[caller(history, 3)].end = End.OPEN

    assert broken(change) == {"I1"}


def test_what_is_still_pending_in_the_log_is_not_lost() -> None:
    def change(history: History) -> None:
        history.seen[caller(history, 3)].end = End.OPEN
        history.stored = [stored for stored in history.stored if stored.ref != REFS[3]]
        history.passed = [passed for passed in history.passed if passed.offset < 2]
        history.samples = [Sample(START + 11, {PLACE: 2}, {PLACE: 9})]

    assert "I1" not in broken(change)


def test_a_call_that_is_neither_answered_nor_refused_is_found() -> None:
    def change(history: History) -> None:
        history.seen[0] = dataclasses.replace(seen(1, End.SILENT, 0))

    assert broken(change) == {"I1"}


# --- I2 ---------------------------------------------------------------------------------------------------------------


def test_two_callers_of_one_key_with_answers_of_two_executions() -> None:
    def change(history: History) -> None:
        history.runs.append(Run(2, run_of(2, again=1), START + 0.3, 77))
        history.seen[caller(history, 2)].run = run_of(2, again=1)

    assert broken(change) == {"I2"}


def test_a_caller_and_the_stream_with_answers_of_two_executions() -> None:
    def change(history: History) -> None:
        history.seen[caller(history, 8)].run = run_of(8, again=1)

    assert broken(change) == {"I2"}


def test_an_answer_after_a_confirmed_cancellation() -> None:
    def change(history: History) -> None:
        place = caller(history, 4)
        history.seen[place] = dataclasses.replace(seen(4), accepted=True, cancelled_at=START + 0.5)
        history.runs.append(Run(4, run_of(4), START + 0.45, 77))

    assert broken(change) == {"I2"}


def test_a_result_and_a_final_error_for_one_request() -> None:
    def change(history: History) -> None:
        history.seen.append(dataclasses.replace(seen(2, End.ERROR, 500), text="the model failed"))

    assert broken(change) == {"I2", "I8"}


def test_a_terminal_that_went_away() -> None:
    def change(history: History) -> None:
        history.stored.append(Stored(REFS[1], START + 20, terminal=False))

    assert broken(change) == {"I2"}


def test_a_terminal_that_changed() -> None:
    def change(history: History) -> None:
        history.stored.append(Stored(REFS[1], START + 20, terminal=True, error="DEADLINE_EXCEEDED"))

    assert broken(change) == {"I2"}


def test_a_key_that_was_claimed_again_may_begin_anew() -> None:
    def change(history: History) -> None:
        history.stored = [s for s in history.stored if s.ref != REFS[2]]
        history.stored.append(Stored(REFS[2], START + 2, True, error="UNAVAILABLE", claimed=START + 0.1))
        again = Stored(REFS[2], START + 9, True, model.answer("checked", 2), run_of(2), claimed=START + 3)
        history.stored.append(again)

    assert broken(change) == set()


def test_a_trimmed_payload_is_still_a_terminal() -> None:
    def change(history: History) -> None:
        history.stored.append(Stored(REFS[1], START + 20, terminal=True))

    assert broken(change) == set()


# --- I3 ---------------------------------------------------------------------------------------------------------------


def test_a_commit_above_an_incomplete_record() -> None:
    def change(history: History) -> None:
        history.passed[0].terminal = False

    assert broken(change) == {"I3"}


def test_garbage_is_done_once_it_is_among_the_dead_letters() -> None:
    def change(history: History) -> None:
        history.passed[6].terminal = False

    assert broken(change) == set()


def test_a_record_whose_key_was_claimed_again_before_it_was_looked_at_is_excused() -> None:
    def change(history: History) -> None:
        history.passed[1].terminal, history.passed[1].claimed = False, START + 1.5

    verdict = judged(change)["I3"]
    assert verdict.held
    assert verdict.excused == 1


def test_a_store_that_was_made_to_forget_excuses_what_came_before() -> None:
    def change(history: History) -> None:
        history.passed[0].terminal = False
        history.faults.append(Broken("command:redis", "all", START + 1, START + 1.5, loses=True))

    assert judged(change)["I3"].excused == 1


def test_a_store_that_forgot_excuses_nothing_that_came_later() -> None:
    def change(history: History) -> None:
        history.passed[7].terminal = False
        history.faults.append(Broken("command:redis", "all", START + 0.2, START + 0.5, loses=True))

    assert broken(change) == {"I3"}


def test_a_terminal_that_the_store_was_made_to_forget_is_no_fault_of_the_fleet() -> None:
    def change(history: History) -> None:
        history.stored.append(Stored(REFS[1], START + 20, terminal=False))
        history.faults.append(Broken("command:redis", "all", START + 17, START + 18, loses=True))

    assert broken(change) == set()


# --- I5 ---------------------------------------------------------------------------------------------------------------


def test_the_answer_to_another_request() -> None:
    def change(history: History) -> None:
        one, other = history.seen[caller(history, 1)], history.seen[caller(history, 8)]
        one.answer, other.answer = other.answer, one.answer
        one.run, other.run = other.run, one.run

    assert broken(change) >= {"I5"}


def test_an_answer_that_the_model_did_not_give() -> None:
    def change(history: History) -> None:
        history.seen[0].answer = 12345

    assert broken(change) == {"I5"}


def test_an_execution_that_the_model_knows_nothing_of() -> None:
    def change(history: History) -> None:
        history.runs = [run for run in history.runs if run.number != 1]

    assert broken(change) == {"I5"}


def test_another_principals_answer_in_a_stream() -> None:
    def change(history: History) -> None:
        for held in history.stored:
            if held.ref == REFS[6]:
                held.answer, held.run = model.answer("checked", 1), run_of(1)

    assert broken(change) == {"I5"}


# --- I6 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [4, 5])
def test_a_run_after_a_cancellation_or_a_deadline(number: int) -> None:
    assert broken(lambda history: history.runs.append(Run(number, run_of(number), START + 1.5, 77))) == {"I6"}


def test_a_run_that_had_begun_before_its_end_is_fine() -> None:
    assert broken(lambda history: history.runs.append(Run(5, run_of(5), START + 0.49, 77))) == set()


def test_a_worker_that_stood_still_between_check_and_run_is_excused() -> None:
    def change(history: History) -> None:
        history.runs.append(Run(5, run_of(5), START + 3.0, 77))
        history.faults.append(Broken("worker-stop", "worker-0", START + 0.4, START + 3.0, (77,)))

    verdict = judged(change)["I6"]
    assert verdict.held
    assert verdict.excused == 1


def test_a_cancellation_that_the_store_was_made_to_forget_is_excused() -> None:
    def change(history: History) -> None:
        history.runs.append(Run(4, run_of(4), START + 9.0, 77))
        history.faults.append(Broken("command:redis-kill", "all", START + 1, START + 2, loses=True))

    assert broken(change) == set()
    assert judged(change)["I6"].excused == 1


def test_another_worker_that_stood_still_excuses_nothing() -> None:
    def change(history: History) -> None:
        history.runs.append(Run(5, run_of(5), START + 3.0, 77))
        history.faults.append(Broken("worker-stop", "worker-1", START + 0.4, START + 3.0, (78,)))

    assert broken(change) == {"I6"}


# --- I7, I8 -----------------------------------------------------------------------------------------------------------


def test_garbage_that_nobody_kept() -> None:
    assert broken(lambda history: history.dead.clear()) == {"I7"}


def test_poison_that_nobody_kept() -> None:
    assert broken(lambda history: history.dead.pop()) == {"I7"}


def test_a_dead_letter_that_is_not_byte_identical() -> None:
    def change(history: History) -> None:
        history.dead[0].digest = "another"

    assert broken(change) == {"I7"}


def test_a_dead_letter_without_a_reason() -> None:
    def change(history: History) -> None:
        history.dead[0].reason = ""

    assert broken(change) == {"I7"}


def test_a_good_request_among_the_dead_letters() -> None:
    assert broken(lambda history: history.dead.append(Dead(TOPIC, 0, 0, "x", "poison"))) == {"I8"}


def test_a_good_request_that_is_blamed() -> None:
    def change(history: History) -> None:
        history.seen[0] = dataclasses.replace(seen(1, End.ERROR, 500))
        for held in history.stored:
            if held.ref == REFS[1]:
                held.answer, held.run, held.error = None, None, "MODEL_FAILED"

    assert broken(change) == {"I8"}


def given_up(history: History) -> None:
    """Call 1 is buried after as many deliveries as a request gets."""
    history.seen[0] = dataclasses.replace(seen(1, End.ERROR, 500))
    history.stored = [held for held in history.stored if held.ref != REFS[1]]
    history.stored.append(Stored(REFS[1], START + 2, True, error="MODEL_FAILED"))
    history.dead.append(Dead(TOPIC, 0, 0, digest(b"1"), "attempts"))


def test_a_good_request_that_was_under_way_in_three_deaths_may_be_given_up() -> None:
    def die(history: History) -> None:
        history.faults += [Broken("worker-kill", "worker-0", START + 2, START + 3) for _ in range(2)]

    assert broken(given_up, die) == set()


def test_a_good_request_is_not_given_up_for_less() -> None:
    assert broken(given_up) == {"I8"}


# --- I11 and the proof ------------------------------------------------------------------------------------------------


def test_a_lag_that_stays() -> None:
    def change(history: History) -> None:
        history.samples[-1].committed = {PLACE: 7}

    assert broken(change) == {"I11"}


def test_a_lag_that_goes_too_late() -> None:
    def change(history: History) -> None:
        history.samples[-1].at = history.quiet_at + history.settle + 1

    assert broken(change) == {"I11"}


def test_a_lag_that_nobody_read_is_not_zero() -> None:
    def change(history: History) -> None:
        history.samples = [Sample(START + 11, {}, {})]

    assert "I11" in broken(change)


def test_a_run_without_a_redelivery_proves_nothing() -> None:
    history = healthy()
    history.runs = [run for run in history.runs if run.run != run_of(8, again=1)]

    assert report(PLAN, history).exit_code == PROVES_NOTHING


def test_a_record_that_was_written_twice_is_no_redelivery() -> None:
    history = healthy()
    history.logged.append(Logged(TOPIC, 1, 0, REFS[8], 8, START, 0.0, "", START))

    assert redelivered(PLAN, history) == []


def test_what_ran_again_beside_poison_is_no_redelivery() -> None:
    history = healthy()
    first = next(run for run in history.runs if run.number == 8)
    history.runs.append(Run(9, 12345, first.at, first.pid))

    assert redelivered(PLAN, history) == []


def test_what_ran_again_after_its_child_was_killed_is_no_redelivery() -> None:
    history = healthy()
    history.faults.append(Broken("child-kill", "worker-0", START + 0.3, START + 0.4, (77,)))

    assert redelivered(PLAN, history) == []


def test_a_run_in_which_nothing_was_committed_proves_nothing() -> None:
    history = healthy()
    history.passed.clear()

    assert report(PLAN, history).exit_code == PROVES_NOTHING


def test_a_broken_promise_is_said_with_its_evidence() -> None:
    history = healthy()
    history.seen[0].answer = 12345

    made = report(PLAN, history)

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
