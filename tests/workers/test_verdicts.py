import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dead_letter import MAX_ATTEMPTS
from workers.failures.bisection import Cause, Inquiry, Sentence, first_share


class Request:
    """Something that is judged."""

    def __init__(self, number: int, rows: int = 1, attempt: int = 1) -> None:
        self.number = number
        self.rows = rows
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"#{self.number}"


class Court:
    """Runs a batch with known culprits to its end, and counts."""

    def __init__(self, count: int, culprits: set[int], cause: Cause = Cause.CRASH, price: float = 1.0) -> None:
        self.requests = [Request(n) for n in range(count)]
        self.culprits = culprits
        self.cause = cause
        self.price = price
        self.answered: list[int] = []
        self.sentences: list[Sentence[Request]] = []
        self.failing = 0
        self.runs = 0
        self.failing_runs: dict[int, int] = dict.fromkeys(range(count), 0)

    def _fails(self, part: Sequence[Request]) -> bool:
        return any(request.number in self.culprits for request in part)

    def _fail(self, inquiry: Inquiry[Request], part: Sequence[Request]) -> None:
        self.failing += 1
        for request in part:
            self.failing_runs[request.number] += 1
        self.sentences += inquiry.failed(part, self.cause, self.price)

    def hold(self, inquiry: Inquiry[Request] | None = None) -> Inquiry[Request]:
        """The batch as it was formed has failed; find out."""
        inquiry = inquiry or Inquiry()
        self._fail(inquiry, self.requests)
        self.go_on(inquiry)
        return inquiry

    def go_on(self, inquiry: Inquiry[Request]) -> None:
        while (part := inquiry.next()) is not None:
            self.runs += 1
            assert self.runs < 20_000, "it has no end"
            if self._fails(part):
                self._fail(inquiry, part)
            else:
                self.answered += [request.number for request in part]
                inquiry.succeeded()

    @property
    def sentenced(self) -> list[int]:
        return [sentence.item.number for sentence in self.sentences]


batches = st.integers(1, 70).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1))))
prices = st.floats(1.0, 500.0)


@given(batch=batches, cause=st.sampled_from(Cause), price=prices)
def test_all_innocents_are_answered_and_all_culprits_and_only_they_are_blamed(
    batch: tuple[int, set[int]], cause: Cause, price: float
) -> None:
    count, culprits = batch
    court = Court(count, culprits, cause, price)
    inquiry = court.hold(Inquiry(max_deaths=10_000)) if culprits else Inquiry[Request]()
    if culprits:
        assert sorted(court.answered) == sorted(set(range(count)) - culprits)
        assert sorted(court.sentenced) == sorted(culprits)
        assert all(sentence.buried is cause.deadly for sentence in court.sentences)
        assert all(sentence.cause is cause for sentence in court.sentences)
        assert max(court.failing_runs.values()) <= math.log2(count) + 2 + MAX_ATTEMPTS
    assert inquiry.next() is None


@given(count=st.integers(1, 600), where=st.floats(0, 1, exclude_max=True), price=prices)
def test_a_lone_culprit_costs_few_runs_that_die(count: int, where: float, price: float) -> None:
    court = Court(count, {int(where * count)}, Cause.CRASH, price)
    court.hold()
    assert court.failing <= math.log2(count) + 1 + MAX_ATTEMPTS
    (sentence,) = court.sentences
    assert MAX_ATTEMPTS <= sentence.deaths <= court.failing


@given(count=st.integers(1, 300), where=st.floats(0, 1, exclude_max=True))
def test_halves_find_a_lone_culprit_in_few_runs_at_all(count: int, where: float) -> None:
    court = Court(count, {int(where * count)}, Cause.FAILED)
    court.hold()
    assert court.runs <= 2 * math.ceil(math.log2(count)) + 1


def test_where_a_death_is_dear_a_lone_culprit_costs_no_more_than_its_attempts() -> None:
    for culprit in range(32):
        court = Court(32, {culprit}, Cause.CRASH, price=100.0)
        court.hold()
        assert court.failing == MAX_ATTEMPTS
        assert court.runs <= 32 + MAX_ATTEMPTS


@given(batch=batches, price=prices, cause=st.sampled_from([Cause.CRASH, Cause.HANG, Cause.FAILED]))
def test_a_failure_that_does_not_come_again_blames_nobody(
    batch: tuple[int, set[int]], price: float, cause: Cause
) -> None:
    court = Court(batch[0], set(), cause, price)
    if batch[0] == 1 and not cause.deadly:
        return
    court.hold()
    assert sorted(court.answered) == list(range(batch[0]))
    assert court.sentences == []
    assert court.failing == 1


def test_a_request_that_fails_alone_is_not_run_again() -> None:
    court = Court(1, {0}, Cause.FAILED)
    court.hold()
    assert (court.runs, court.sentenced) == (0, [0])


def test_a_request_that_dies_alone_is_tried_again_before_it_is_buried() -> None:
    court = Court(1, {0}, Cause.CRASH)
    court.hold()
    assert (court.runs, court.failing) == (MAX_ATTEMPTS - 1, MAX_ATTEMPTS)
    assert court.sentences == [Sentence(court.requests[0], Cause.CRASH, MAX_ATTEMPTS, True)]


def test_what_died_in_earlier_deliveries_counts() -> None:
    court = Court(1, {0}, Cause.CRASH)
    court.requests[0].attempt = MAX_ATTEMPTS
    court.hold()
    assert (court.runs, court.sentences[0].deaths) == (0, MAX_ATTEMPTS)


def test_those_who_are_probably_innocent_go_first_and_doubtful_ones_last() -> None:
    inquiry: Inquiry[Request] = Inquiry()
    requests = [Request(n) for n in range(4)]
    inquiry.failed(requests, Cause.CRASH)
    assert inquiry.next() == tuple(requests[:2])
    inquiry.failed(requests[:2], Cause.CRASH)
    assert inquiry.next() == tuple(requests[2:])
    inquiry.succeeded()
    assert inquiry.next() == (requests[0],)
    inquiry.failed(requests[:1], Cause.CRASH)
    assert inquiry.next() == (requests[1],)
    inquiry.succeeded()
    assert inquiry.next() is None


@given(batch=batches, draw=st.randoms(use_true_random=False))
def test_whoever_leaves_before_a_run_is_not_in_it_and_nobody_is_lost(
    batch: tuple[int, set[int]], draw: random.Random
) -> None:
    count, culprits = batch
    inquiry: Inquiry[Request] = Inquiry(max_deaths=10_000)
    ended = [s.item.number for s in inquiry.failed([Request(n) for n in range(count)], Cause.CRASH)]
    while (part := inquiry.next()) is not None:
        left = [request for request in part if draw.random() < 0.2]
        ended += [request.number for request in left]
        part = tuple(request for request in part if request not in left)
        if not part:
            inquiry.skipped()
        elif any(request.number in culprits for request in part):
            ended += [s.item.number for s in inquiry.failed(part, Cause.CRASH)]
        else:
            ended += [request.number for request in part]
            inquiry.succeeded()
    assert sorted(ended) == list(range(count))


@given(count=st.integers(2, 40), culprits=st.sets(st.integers(0, 39)), price=prices, steps=st.integers(0, 30))
def test_giving_up_tells_everybody_who_has_no_end(count: int, culprits: set[int], price: float, steps: int) -> None:
    requests = [Request(n) for n in range(count)]
    inquiry: Inquiry[Request] = Inquiry()
    ended = [s.item.number for s in inquiry.failed(requests, Cause.CRASH, price)]
    for _ in range(steps):
        part = inquiry.next()
        if part is None:
            break
        if any(request.number in culprits for request in part):
            ended += [s.item.number for s in inquiry.failed(part, Cause.CRASH, price)]
        else:
            ended += [request.number for request in part]
            inquiry.succeeded()
    running = inquiry.next() or ()
    left = [request.number for request in (*running, *inquiry.drop())]
    assert sorted([*ended, *left]) == list(range(count))
    assert not inquiry.waiting
    assert inquiry.next() is None


@given(count=st.integers(1, 64), fits=st.integers(1, 64))
def test_out_of_memory_goes_on_with_smaller_batches_until_they_fit(count: int, fits: int) -> None:
    requests = [Request(n) for n in range(count)]
    inquiry: Inquiry[Request] = Inquiry()
    parts: list[tuple[Request, ...]] = [tuple(requests)]
    answered: list[int] = []
    while parts:
        part = parts.pop()
        if len(part) > fits:
            assert inquiry.failed(part, Cause.MEMORY) == []
        elif inquiry.runs:
            answered += [request.number for request in part]
            inquiry.succeeded()
        else:
            return
        following = inquiry.next()
        parts = [following] if following is not None else []
    assert answered == list(range(count))


def test_a_request_that_has_no_room_even_alone_is_told_so_and_not_buried() -> None:
    (sentence,) = Inquiry[Request]().failed([Request(0)], Cause.MEMORY)
    assert not sentence.buried


def test_with_too_many_deaths_nobody_is_buried_any_more() -> None:
    court = Court(64, set(range(64)))
    court.hold(Inquiry(max_deaths=20))
    assert sorted(court.sentenced) == list(range(64))
    assert 20 <= court.failing < 20 + 64
    assert sum(sentence.buried for sentence in court.sentences) < 20


def test_parts_that_were_made_before_run_in_their_order() -> None:
    requests = [Request(n) for n in range(5)]
    inquiry = Inquiry([requests[:3], requests[3:4], requests[4:]])
    given_out = []
    while (part := inquiry.next()) is not None:
        given_out.append(part)
        inquiry.succeeded()
    assert given_out == [tuple(requests[:3]), (requests[3],), (requests[4],)]


@pytest.mark.parametrize(("count", "price", "share"), [(32, 1, 16), (32, 4, 4), (32, 100, 1), (2, 1, 1), (3, 1, 1)])
def test_few_go_first_where_a_failure_is_dear(count: int, price: float, share: int) -> None:
    assert first_share(count, price) == share
