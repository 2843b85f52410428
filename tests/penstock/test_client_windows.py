from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.requests import InferResult
from penstock.client.windows import AHEAD, Outcome, Progress, outcomes
from protocol.errors import InvalidArgument, Unavailable


def result(number: int) -> InferResult:
    return InferResult("m", str(number), {}, {})


class Calls:
    """Calls that end when told, or at once; every third fails."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.running: dict[int, asyncio.Event] = {}
        self.most = 0
        self.cancelled: list[int] = []

    async def __call__(self, index: int, item: int) -> InferResult:
        event = self.running[index] = asyncio.Event()
        self.most = max(self.most, len(self.running))
        try:
            await (asyncio.sleep(0) if self.at_once else event.wait())
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        finally:
            del self.running[index]
        if item % 3 == 2:
            raise Unavailable("away")
        return result(item)


@given(st.integers(0, 40), st.integers(1, 8), st.booleans(), st.booleans())
def test_every_item_has_one_outcome_and_an_error_loses_no_other(
    count: int, concurrency: int, ordered: bool, asynchronous: bool
) -> None:
    async def items() -> AsyncIterator[int]:
        for number in range(count):
            yield number
            await asyncio.sleep(0)

    async def run() -> None:
        calls, progress = Calls(), list[Progress]()
        source = items() if asynchronous else range(count)
        window = outcomes(source, calls, concurrency=concurrency, ordered=ordered, on_progress=progress.append)
        found = [outcome async for outcome in window]
        assert sorted(outcome.index for outcome in found) == list(range(count))
        if ordered:
            assert [outcome.index for outcome in found] == list(range(count))
        assert all((outcome.error is not None) == (outcome.item % 3 == 2) for outcome in found)
        assert all(outcome.unwrap().version == str(outcome.item) for outcome in found if outcome.error is None)
        assert calls.most <= concurrency
        if count:
            assert (progress[-1].done, progress[-1].failed, progress[-1].in_flight) == (count, (count) // 3, 0)

    asyncio.run(run())


async def test_memory_is_bounded_while_the_first_call_hangs() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(0, 3000, 3):
            taken.append(number)
            yield number

    calls = Calls(at_once=False)
    window = outcomes(items(), calls, concurrency=4, ordered=True)
    first = asyncio.get_running_loop().create_task(anext(window))
    for _ in range(200):
        await asyncio.sleep(0)
        for index, event in list(calls.running.items()):
            if index:
                event.set()
    assert len(taken) == 4 * AHEAD

    calls.running[0].set()
    assert (await first).index == 0
    await window.aclose()
    assert not calls.running


async def test_leaving_early_cancels_what_is_in_flight() -> None:
    calls = Calls(at_once=False)
    window = outcomes(range(100), calls, concurrency=5, ordered=False)
    first = asyncio.get_running_loop().create_task(anext(window))
    for _ in range(10):
        await asyncio.sleep(0)
    calls.running[3].set()
    assert (await first).index == 3
    await window.aclose()

    assert len(calls.cancelled) >= 4


async def test_an_error_of_the_items_comes_after_the_outcomes_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (0, 1, 3)
        raise OSError("the file is gone")

    found: list[Outcome[int]] = []

    async def run() -> None:
        async for outcome in outcomes(items(), Calls(), concurrency=2, ordered=True):
            found.append(outcome)  # noqa: PERF401  # what came before the error is asserted

    with pytest.raises(OSError, match="the file is gone"):
        await run()
    assert [outcome.item for outcome in found] == [0, 1, 3]


async def test_a_slow_source_does_not_hold_back_what_is_done() -> None:
    more = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 0
        await more.wait()

    window = outcomes(items(), Calls(), concurrency=4, ordered=True)
    assert (await anext(window)).index == 0
    more.set()
    assert [outcome async for outcome in window] == []


async def test_a_bug_in_a_call_is_raised_and_not_hidden() -> None:
    async def call(index: int, item: int) -> InferResult:
        raise TypeError("infer() got an unexpected keyword argument")

    async def run() -> list[Outcome[int]]:
        return [outcome async for outcome in outcomes(range(100), call, concurrency=2, ordered=True)]

    with pytest.raises(TypeError, match="unexpected keyword"):
        await run()


async def test_no_concurrency_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="concurrency"):
        await anext(outcomes([1], Calls(), concurrency=0, ordered=True))
