"""I1, I2, I3 and I5 are broken in a made-up history, and found; what a promise does not cover is not held against the fleet."""

from __future__ import annotations

import dataclasses

from penstock.verify import model
from penstock.verify.observe.history import CallEnd, Execution, History, InjectedFault, OffsetSample, StreamState
from tests.verify.histories import PLACE, REFS, START, broken, caller, judged, run_of, seen

# --- I1 ---------------------------------------------------------------------------------------------------------------


def lose(number: int, history: History) -> None:
    """As if it had never had a result, although its offset is committed."""
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
        history.seen[caller(history, 3)].end = CallEnd.OPEN

    assert broken(change) == {"I1"}


def test_what_is_still_pending_in_the_log_is_not_lost() -> None:
    def change(history: History) -> None:
        history.seen[caller(history, 3)].end = CallEnd.OPEN
        history.stored = [stored for stored in history.stored if stored.ref != REFS[3]]
        history.passed = [passed for passed in history.passed if passed.offset < 2]
        history.samples = [OffsetSample(START + 11, {PLACE: 2}, {PLACE: 9})]

    assert "I1" not in broken(change)


def test_a_call_that_is_neither_answered_nor_refused_is_found() -> None:
    def change(history: History) -> None:
        history.seen[0] = dataclasses.replace(seen(1, CallEnd.SILENT, 0))

    assert broken(change) == {"I1"}


# --- I2 ---------------------------------------------------------------------------------------------------------------


def test_two_callers_of_one_key_with_answers_of_two_executions() -> None:
    def change(history: History) -> None:
        history.runs.append(Execution(2, run_of(2, again=1), START + 0.3, 77))
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
        history.runs.append(Execution(4, run_of(4), START + 0.45, 77))

    assert broken(change) == {"I2"}


def test_a_result_and_a_final_error_for_one_request() -> None:
    def change(history: History) -> None:
        history.seen.append(dataclasses.replace(seen(2, CallEnd.ERROR, 500), text="the model failed"))

    assert broken(change) == {"I2", "I8"}


def test_a_terminal_that_went_away() -> None:
    def change(history: History) -> None:
        history.stored.append(StreamState(REFS[1], START + 20, terminal=False))

    assert broken(change) == {"I2"}


def test_a_terminal_that_changed() -> None:
    def change(history: History) -> None:
        history.stored.append(StreamState(REFS[1], START + 20, terminal=True, error="DEADLINE_EXCEEDED"))

    assert broken(change) == {"I2"}


def test_a_key_that_was_claimed_again_may_begin_anew() -> None:
    def change(history: History) -> None:
        history.stored = [s for s in history.stored if s.ref != REFS[2]]
        history.stored.append(StreamState(REFS[2], START + 2, True, error="UNAVAILABLE", claimed=START + 0.1))
        again = StreamState(REFS[2], START + 9, True, model.right_answer("checked", 2), run_of(2), claimed=START + 3)
        history.stored.append(again)

    assert broken(change) == set()


def test_a_trimmed_payload_is_still_a_terminal() -> None:
    def change(history: History) -> None:
        history.stored.append(StreamState(REFS[1], START + 20, terminal=True))

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
        history.faults.append(InjectedFault("command:redis", "all", START + 1, START + 1.5, loses=True))

    assert judged(change)["I3"].excused == 1


def test_a_store_that_forgot_excuses_nothing_that_came_later() -> None:
    def change(history: History) -> None:
        history.passed[7].terminal = False
        history.faults.append(InjectedFault("command:redis", "all", START + 0.2, START + 0.5, loses=True))

    assert broken(change) == {"I3"}


def test_a_terminal_that_the_store_was_made_to_forget_is_no_fault_of_the_fleet() -> None:
    def change(history: History) -> None:
        history.stored.append(StreamState(REFS[1], START + 20, terminal=False))
        history.faults.append(InjectedFault("command:redis", "all", START + 17, START + 18, loses=True))

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
                held.answer, held.run = model.right_answer("checked", 1), run_of(1)

    assert broken(change) == {"I5"}
