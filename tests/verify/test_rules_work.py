"""I6, I7, I8 and I11 are broken in a made-up history, and found; what a promise does not cover is not held against the fleet."""

from __future__ import annotations

import dataclasses

import pytest

from penstock.verify.observe.history import (
    CallEnd,
    DeadRecord,
    Execution,
    History,
    InjectedFault,
    OffsetSample,
    StreamState,
    digest,
)
from tests.verify.histories import PLACE, REFS, START, TOPIC, broken, judged, run_of, seen

# --- I6 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [4, 5])
def test_a_run_after_a_cancellation_or_a_deadline(number: int) -> None:
    assert broken(lambda history: history.runs.append(Execution(number, run_of(number), START + 1.5, 77))) == {"I6"}


def test_a_run_that_had_begun_before_its_end_is_fine() -> None:
    assert broken(lambda history: history.runs.append(Execution(5, run_of(5), START + 0.49, 77))) == set()


def test_a_worker_that_stood_still_between_check_and_run_is_excused() -> None:
    def change(history: History) -> None:
        history.runs.append(Execution(5, run_of(5), START + 3.0, 77))
        history.faults.append(InjectedFault("worker-stop", "worker-0", START + 0.4, START + 3.0, (77,)))

    verdict = judged(change)["I6"]
    assert verdict.held
    assert verdict.excused == 1


def test_a_cancellation_that_the_store_was_made_to_forget_is_excused() -> None:
    def change(history: History) -> None:
        history.runs.append(Execution(4, run_of(4), START + 9.0, 77))
        history.faults.append(InjectedFault("command:redis-kill", "all", START + 1, START + 2, loses=True))

    assert broken(change) == set()
    assert judged(change)["I6"].excused == 1


def test_another_worker_that_stood_still_excuses_nothing() -> None:
    def change(history: History) -> None:
        history.runs.append(Execution(5, run_of(5), START + 3.0, 77))
        history.faults.append(InjectedFault("worker-stop", "worker-1", START + 0.4, START + 3.0, (78,)))

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
    assert broken(lambda history: history.dead.append(DeadRecord(TOPIC, 0, 0, "x", "poison"))) == {"I8"}


def test_a_good_request_that_is_blamed() -> None:
    def change(history: History) -> None:
        history.seen[0] = dataclasses.replace(seen(1, CallEnd.ERROR, 500))
        for held in history.stored:
            if held.ref == REFS[1]:
                held.answer, held.run, held.error = None, None, "MODEL_FAILED"

    assert broken(change) == {"I8"}


def given_up(history: History) -> None:
    """Call 1 is dead-lettered after as many deliveries as a request gets."""
    history.seen[0] = dataclasses.replace(seen(1, CallEnd.ERROR, 500))
    history.stored = [held for held in history.stored if held.ref != REFS[1]]
    history.stored.append(StreamState(REFS[1], START + 2, True, error="MODEL_FAILED"))
    history.dead.append(DeadRecord(TOPIC, 0, 0, digest(b"1"), "attempts"))


def test_a_good_request_that_was_under_way_in_three_deaths_may_be_given_up() -> None:
    def die(history: History) -> None:
        history.faults += [InjectedFault("worker-kill", "worker-0", START + 2, START + 3) for _ in range(2)]

    assert broken(given_up, die) == set()


def test_a_good_request_is_not_given_up_for_less() -> None:
    assert broken(given_up) == {"I8"}


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
        history.samples = [OffsetSample(START + 11, {}, {})]

    assert "I11" in broken(change)
