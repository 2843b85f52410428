from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.runtime.microtasks import ROUNDS, Microtasks


async def test_work_follows_what_runs_now_in_the_same_turn() -> None:
    microtasks, seen = Microtasks(), list[str]()
    asyncio.get_running_loop().call_soon(seen.append, "turn")

    def first() -> None:
        microtasks.add(seen.append, "second")
        seen.append("first")
        microtasks.run()  # does nothing here: it would run one part inside another
        seen.append("first ends")

    microtasks.add(first)
    assert seen == []
    microtasks.run()
    assert seen == ["first", "first ends", "second"]
    await asyncio.sleep(0)
    assert seen[-1] == "turn"


async def test_without_run_it_follows_in_the_next_turn() -> None:
    microtasks, seen = Microtasks(), list[int]()
    for number in range(3):
        microtasks.add(seen.append, number)
    await asyncio.sleep(0)
    assert seen == [0, 1, 2]


async def test_work_that_adds_work_for_ever_leaves_the_loop_its_turn() -> None:
    microtasks, seen = Microtasks(), list[int]()

    def again() -> None:
        seen.append(1)
        microtasks.add(again)

    microtasks.add(again)
    microtasks.run()
    assert len(seen) == ROUNDS
    await asyncio.sleep(0)
    assert len(seen) == 2 * ROUNDS


async def test_an_error_stops_only_its_own_work(caplog: pytest.LogCaptureFixture) -> None:
    microtasks, seen = Microtasks(), list[int]()
    microtasks.add(lambda: 1 / 0)
    microtasks.add(seen.append, 1)
    microtasks.run()
    assert seen == [1]
    assert "a microtask failed" in caplog.text


@given(st.recursive(st.just([]), lambda children: st.lists(children, max_size=3), max_leaves=40))
def test_everything_runs_once_and_in_order(tree: list[object]) -> None:
    async def run() -> None:
        microtasks, order, running = Microtasks(), list[int](), list[int]()
        numbers = iter(range(10_000))

        def visit(number: int, children: list[list[object]]) -> None:
            assert not running, "no work runs inside other work"
            running.append(number)
            order.append(number)
            for child in children:
                microtasks.add(visit, next(numbers), child)
            running.pop()

        microtasks.add(visit, next(numbers), tree)
        while order == [] or microtasks._waiting:
            microtasks.run()
        assert order == sorted(order)
        assert len(order) == next(numbers)

    asyncio.run(run())
