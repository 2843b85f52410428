from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable

import pytest

from loadtest import arrivals
from loadtest.openloop import Answered, Ticket, closed_loop, open_loop
from loadtest.samples import Outcome, Samples


class Echo:
    """A target in memory: answers in the loop's next turn, or when `let_go` is called."""

    def __init__(self, holds: Callable[[Ticket], bool] = lambda _: False) -> None:
        self.sent: list[int] = []
        self.held: list[Ticket] = []
        self.highest = 0
        self.closed = False
        self._holds = holds
        self._now = 0
        self._answered: Answered | None = None

    async def open(self, answered: Answered, width: int) -> None:
        self._answered = answered

    def send(self, ticket: Ticket) -> None:
        self.sent.append(ticket.index)
        ticket.sent = time.perf_counter()
        self._now += 1
        self.highest = max(self.highest, self._now)
        if self._holds(ticket):
            self.held.append(ticket)
        else:
            asyncio.get_running_loop().call_soon(self.answer, ticket)

    def answer(self, ticket: Ticket) -> None:
        assert self._answered is not None
        self._now -= 1
        self._answered(ticket, Outcome.OK)

    async def close(self) -> None:
        self.closed = True


async def test_every_due_request_is_sent_once_and_recorded_once() -> None:
    target, samples = Echo(), Samples()
    await open_loop(target, arrivals.schedule("poisson", 2000, 0.2, seed=1), samples)
    due = list(arrivals.schedule("poisson", 2000, 0.2, seed=1))
    assert target.sent == list(range(len(due)))
    assert samples.outcomes == {Outcome.OK: len(due)}
    assert target.closed


async def test_requests_are_sent_close_to_when_they_are_due() -> None:
    samples = Samples()
    await open_loop(Echo(), arrivals.schedule("constant", 200, 0.3), samples)
    assert samples.lateness.percentile_ms(50) < 5


async def test_the_generator_goes_on_while_nothing_is_answered() -> None:
    """Answers come only when 50 requests wait: a generator that waits for answers would never get there."""
    waiting = 50

    class Stalled(Echo):
        def send(self, ticket: Ticket) -> None:
            super().send(ticket)
            if len(self.held) == waiting:
                for held in self.held:
                    asyncio.get_running_loop().call_soon(self.answer, held)

    target, samples = Stalled(lambda _: True), Samples()
    await open_loop(target, arrivals.schedule("constant", 500, waiting / 500), samples)
    assert samples.outcomes == {Outcome.OK: waiting}
    assert samples.latency.percentile_ms(100) >= (waiting - 1) / 500 * 1e3


async def test_what_is_never_answered_has_failed() -> None:
    target, samples = Echo(lambda ticket: ticket.index % 2 == 0), Samples()
    await open_loop(target, arrivals.schedule("constant", 100, 0.1), samples, grace=0.05)
    assert samples.outcomes == {Outcome.OK: 5, Outcome.FAILED: 5}
    assert samples.unhappy.percentile_ms(50) >= 50


async def test_an_answer_after_the_end_is_not_counted_again() -> None:
    target, samples = Echo(lambda _: True), Samples()
    await open_loop(target, arrivals.schedule("constant", 100, 0.05), samples, grace=0.01)
    for ticket in target.held:
        target.answer(ticket)
    assert samples.total == 5


@pytest.mark.parametrize("callers", [1, 7])
async def test_a_closed_loop_never_has_more_open_than_callers(callers: int) -> None:
    target, samples = Echo(), Samples()
    await closed_loop(target, callers, 0.1, samples)
    assert target.highest == callers
    assert samples.outcomes == collections.Counter({Outcome.OK: len(target.sent)})
    assert len(target.sent) > 10 * callers


async def test_a_closed_loop_waits_for_its_answers() -> None:
    target, samples = Echo(lambda _: True), Samples()
    await closed_loop(target, 3, 0.05, samples, grace=0.01)
    assert len(target.sent) == 3
    assert samples.outcomes == {Outcome.FAILED: 3}
