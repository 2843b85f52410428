import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dead_letter import MAX_ATTEMPTS
from workers.failures.bisection import Bisection, Cause, Culprit, first_share


class Request:
    """An item of a batch."""

    def __init__(self, number: int, rows: int = 1, attempt: int = 1) -> None:
        self.number = number
        self.rows = rows
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"#{self.number}"


class Failing:
    """Runs a batch with known culprits to its end, and counts."""

    def __init__(self, count: int, culprits: set[int], cause: Cause = Cause.CRASH, cost: float = 1.0) -> None:
        self.requests = [Request(n) for n in range(count)]
        self.culprits = culprits
        self.cause = cause
        self.cost = cost
        self.answered: list[int] = []
        self.found: list[Culprit[Request]] = []
        self.failing = 0
        self.runs = 0
        self.failing_runs: dict[int, int] = dict.fromkeys(range(count), 0)

    def _fails(self, part: Sequence[Request]) -> bool:
        return any(request.number in self.culprits for request in part)

    def _fail(self, bisection: Bisection[Request], part: Sequence[Request]) -> None:
        self.failing += 1
        for request in part:
            self.failing_runs[request.number] += 1
        self.found += bisection.run_failed(part, self.cause, self.cost)

    def fail(self, bisection: Bisection[Request] | None = None) -> Bisection[Request]:
        """The batch as it was formed has failed; find the culprits."""
        bisection = bisection or Bisection()
        self._fail(bisection, self.requests)
        self.go_on(bisection)
        return bisection

    def go_on(self, bisection: Bisection[Request]) -> None:
        while (part := bisection.next_part()) is not None:
            self.runs += 1
            assert self.runs < 20_000, "it has no end"
            if self._fails(part):
                self._fail(bisection, part)
            else:
                self.answered += [request.number for request in part]
                bisection.part_succeeded()

    @property
    def blamed(self) -> list[int]:
        return [culprit.item.number for culprit in self.found]


batches = st.integers(1, 70).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1))))
costs = st.floats(1.0, 500.0)


@given(batch=batches, cause=st.sampled_from(Cause), cost=costs)
def test_all_innocents_are_answered_and_all_culprits_and_only_they_are_blamed(
    batch: tuple[int, set[int]], cause: Cause, cost: float
) -> None:
    count, culprits = batch
    batch_run = Failing(count, culprits, cause, cost)
    bisection = batch_run.fail(Bisection(max_deaths=10_000)) if culprits else Bisection[Request]()
    if culprits:
        assert sorted(batch_run.answered) == sorted(set(range(count)) - culprits)
        assert sorted(batch_run.blamed) == sorted(culprits)
        assert all(culprit.dead_letter is cause.deadly for culprit in batch_run.found)
        assert all(culprit.cause is cause for culprit in batch_run.found)
        assert max(batch_run.failing_runs.values()) <= math.log2(count) + 2 + MAX_ATTEMPTS
    assert bisection.next_part() is None


@given(count=st.integers(1, 600), where=st.floats(0, 1, exclude_max=True), cost=costs)
def test_a_lone_culprit_costs_few_runs_that_die(count: int, where: float, cost: float) -> None:
    batch_run = Failing(count, {int(where * count)}, Cause.CRASH, cost)
    batch_run.fail()
    assert batch_run.failing <= math.log2(count) + 1 + MAX_ATTEMPTS
    (culprit,) = batch_run.found
    assert MAX_ATTEMPTS <= culprit.deaths <= batch_run.failing


@given(count=st.integers(1, 300), where=st.floats(0, 1, exclude_max=True))
def test_halves_find_a_lone_culprit_in_few_runs_at_all(count: int, where: float) -> None:
    batch_run = Failing(count, {int(where * count)}, Cause.FAILED)
    batch_run.fail()
    assert batch_run.runs <= 2 * math.ceil(math.log2(count)) + 1


def test_where_a_death_is_dear_a_lone_culprit_costs_no_more_than_its_attempts() -> None:
    for culprit in range(32):
        batch_run = Failing(32, {culprit}, Cause.CRASH, cost=100.0)
        batch_run.fail()
        assert batch_run.failing == MAX_ATTEMPTS
        assert batch_run.runs <= 32 + MAX_ATTEMPTS


@given(batch=batches, cost=costs, cause=st.sampled_from([Cause.CRASH, Cause.HANG, Cause.FAILED]))
def test_a_failure_that_does_not_come_again_blames_nobody(
    batch: tuple[int, set[int]], cost: float, cause: Cause
) -> None:
    batch_run = Failing(batch[0], set(), cause, cost)
    if batch[0] == 1 and not cause.deadly:
        return
    batch_run.fail()
    assert sorted(batch_run.answered) == list(range(batch[0]))
    assert batch_run.found == []
    assert batch_run.failing == 1


def test_a_request_that_fails_alone_is_not_run_again() -> None:
    batch_run = Failing(1, {0}, Cause.FAILED)
    batch_run.fail()
    assert (batch_run.runs, batch_run.blamed) == (0, [0])


def test_a_request_that_dies_alone_is_tried_again_before_it_is_a_dead_letter() -> None:
    batch_run = Failing(1, {0}, Cause.CRASH)
    batch_run.fail()
    assert (batch_run.runs, batch_run.failing) == (MAX_ATTEMPTS - 1, MAX_ATTEMPTS)
    assert batch_run.found == [Culprit(batch_run.requests[0], Cause.CRASH, MAX_ATTEMPTS, True)]


def test_what_died_in_earlier_deliveries_counts() -> None:
    batch_run = Failing(1, {0}, Cause.CRASH)
    batch_run.requests[0].attempt = MAX_ATTEMPTS
    batch_run.fail()
    assert (batch_run.runs, batch_run.found[0].deaths) == (0, MAX_ATTEMPTS)


def test_the_probably_innocent_run_first_and_those_that_died_alone_last() -> None:
    bisection: Bisection[Request] = Bisection()
    requests = [Request(n) for n in range(4)]
    bisection.run_failed(requests, Cause.CRASH)
    assert bisection.next_part() == tuple(requests[:2])
    bisection.run_failed(requests[:2], Cause.CRASH)
    assert bisection.next_part() == tuple(requests[2:])
    bisection.part_succeeded()
    assert bisection.next_part() == (requests[0],)
    bisection.run_failed(requests[:1], Cause.CRASH)
    assert bisection.next_part() == (requests[1],)
    bisection.part_succeeded()
    assert bisection.next_part() is None


@given(batch=batches, draw=st.randoms(use_true_random=False))
def test_whoever_leaves_before_a_run_is_not_in_it_and_nobody_is_lost(
    batch: tuple[int, set[int]], draw: random.Random
) -> None:
    count, culprits = batch
    bisection: Bisection[Request] = Bisection(max_deaths=10_000)
    ended = [s.item.number for s in bisection.run_failed([Request(n) for n in range(count)], Cause.CRASH)]
    while (part := bisection.next_part()) is not None:
        left = [request for request in part if draw.random() < 0.2]
        ended += [request.number for request in left]
        part = tuple(request for request in part if request not in left)
        if not part:
            bisection.part_skipped()
        elif any(request.number in culprits for request in part):
            ended += [s.item.number for s in bisection.run_failed(part, Cause.CRASH)]
        else:
            ended += [request.number for request in part]
            bisection.part_succeeded()
    assert sorted(ended) == list(range(count))


@given(count=st.integers(2, 40), culprits=st.sets(st.integers(0, 39)), cost=costs, steps=st.integers(0, 30))
def test_giving_up_returns_everybody_who_is_neither_answered_nor_blamed(
    count: int, culprits: set[int], cost: float, steps: int
) -> None:
    requests = [Request(n) for n in range(count)]
    bisection: Bisection[Request] = Bisection()
    ended = [s.item.number for s in bisection.run_failed(requests, Cause.CRASH, cost)]
    for _ in range(steps):
        part = bisection.next_part()
        if part is None:
            break
        if any(request.number in culprits for request in part):
            ended += [s.item.number for s in bisection.run_failed(part, Cause.CRASH, cost)]
        else:
            ended += [request.number for request in part]
            bisection.part_succeeded()
    running = bisection.next_part() or ()
    left = [request.number for request in (*running, *bisection.give_up())]
    assert sorted([*ended, *left]) == list(range(count))
    assert not bisection.has_next
    assert bisection.next_part() is None


@given(count=st.integers(1, 64), fits=st.integers(1, 64))
def test_out_of_memory_goes_on_with_smaller_batches_until_they_fit(count: int, fits: int) -> None:
    requests = [Request(n) for n in range(count)]
    bisection: Bisection[Request] = Bisection()
    parts: list[tuple[Request, ...]] = [tuple(requests)]
    answered: list[int] = []
    while parts:
        part = parts.pop()
        if len(part) > fits:
            assert bisection.run_failed(part, Cause.MEMORY) == []
        elif bisection.runs:
            answered += [request.number for request in part]
            bisection.part_succeeded()
        else:
            return
        following = bisection.next_part()
        parts = [following] if following is not None else []
    assert answered == list(range(count))


def test_a_request_that_has_no_room_even_alone_is_told_so_and_is_no_dead_letter() -> None:
    (culprit,) = Bisection[Request]().run_failed([Request(0)], Cause.MEMORY)
    assert not culprit.dead_letter


def test_with_too_many_deaths_there_are_no_more_dead_letters() -> None:
    batch_run = Failing(64, set(range(64)))
    batch_run.fail(Bisection(max_deaths=20))
    assert sorted(batch_run.blamed) == list(range(64))
    assert 20 <= batch_run.failing < 20 + 64
    assert sum(culprit.dead_letter for culprit in batch_run.found) < 20


def test_parts_that_were_made_before_run_in_their_order() -> None:
    requests = [Request(n) for n in range(5)]
    bisection = Bisection([requests[:3], requests[3:4], requests[4:]])
    given_out = []
    while (part := bisection.next_part()) is not None:
        given_out.append(part)
        bisection.part_succeeded()
    assert given_out == [tuple(requests[:3]), (requests[3],), (requests[4],)]


@pytest.mark.parametrize(("count", "cost", "share"), [(32, 1, 16), (32, 4, 4), (32, 100, 1), (2, 1, 1), (3, 1, 1)])
def test_few_go_first_where_a_failure_is_dear(count: int, cost: float, share: int) -> None:
    assert first_share(count, cost) == share
