from __future__ import annotations

import itertools
import logging

from hypothesis import given
from hypothesis import strategies as st

from protocol.runtime import logs
from protocol.runtime.repeats import BURST, MAX_KEPT, REFILL, Flood, Repeats

lines = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), max_size=60)


@given(lines)
def test_the_same_is_said_once_in_an_interval_and_what_was_held_back_is_counted(said: list[tuple[str, float]]) -> None:
    repeats, now = Repeats(10.0), 0.0
    through: dict[str, list[float]] = {}
    told = 0
    for what, pause in said:
        now += pause
        if (held := repeats.due(what, now)) is not None:
            through.setdefault(what, []).append(now)
            told += 1 + held
    for times in through.values():
        assert all(later - earlier >= 10.0 for earlier, later in itertools.pairwise(times))
    assert through.keys() == {what for what, _ in said}
    assert told <= len(said)


def test_the_first_line_and_the_first_after_an_interval_go_through() -> None:
    repeats = Repeats(10.0)
    assert [repeats.due("x", now) for now in (0.0, 1.0, 9.9, 10.0, 10.1)] == [0, None, None, 2, None]


def test_ever_new_lines_are_not_kept_for_ever() -> None:
    repeats = Repeats()
    for number in range(10 * MAX_KEPT):
        repeats.due(number, 0.0)
    assert len(repeats._said) == MAX_KEPT


def line(name: str, message: str, *args: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def test_a_library_says_the_same_once_and_others_are_not_held_back() -> None:
    seldom = logs.Seldom()
    away = [line("aiokafka.client", "Unable connect to node with id %s: %s", 1, number) for number in range(5)]
    assert [seldom.filter(each) for each in away] == [True] + [False] * 4
    assert seldom.filter(line("aiokafka.client", "Unable connect to node with id %s: %s", 2, "x"))
    assert all(seldom.filter(line("workers.intake.consumer", "the same")) for _ in range(3))


@given(st.lists(st.floats(0.0, 3.0), max_size=300))
def test_a_flood_is_limited_and_counted(gaps: list[float]) -> None:
    flood, now, passed, counted = Flood(), 0.0, 0, 0
    for gap in gaps:
        now += gap
        held = flood.held("kind", now)
        if held is not None:
            passed, counted = passed + 1, counted + held

    assert passed <= BURST + now / REFILL + 1e-6
    assert passed >= min(len(gaps), BURST)
    assert counted <= len(gaps) - passed


def test_few_lines_of_a_kind_all_pass_and_kinds_do_not_share() -> None:
    flood = Flood()

    assert [flood.held(number % 2, 0.0) for number in range(2 * BURST)] == [0] * (2 * BURST)
    assert flood.held(0, 0.0) is None
    assert flood.held(0, REFILL) == 1
