"""A load that takes long says so every few seconds, and no longer than it takes."""

from __future__ import annotations

import asyncio

import structlog
from hypothesis import given
from hypothesis import strategies as st

from protocol.runtime.repeats import EVERY, EVERY_LATER, next_report
from workers.lifecycle.load_progress import reporting


@given(st.floats(0, 1e6))
def test_a_line_is_always_due_soon_and_never_now(elapsed: float) -> None:
    assert 0 < next_report(elapsed) - elapsed <= (EVERY if elapsed < 60 else EVERY_LATER)


async def test_lines_come_while_the_load_runs_and_end_with_it() -> None:
    now, turn = 100.0, asyncio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal now
        await turn.wait()
        await asyncio.sleep(0)
        now += seconds - 0.001  # as an event loop may

    with structlog.testing.capture_logs() as lines:
        async with reporting("net", "1", lambda: now, sleep):
            await asyncio.sleep(0)
            assert lines == []
            turn.set()
            for _ in range(100):
                await asyncio.sleep(0)
        count = len(lines)
        for _ in range(5):
            await asyncio.sleep(0)

    said = [line["event"] for line in lines]
    assert said[:3] == ["still loading net (4 s)", "still loading net (8 s)", "still loading net (12 s)"]
    assert said[14:17] == ["still loading net (60 s)", "still loading net (80 s)", "still loading net (100 s)"]
    assert len(lines) == count
    assert {line["log_level"] for line in lines} == {"info"}


async def test_a_step_that_takes_long_is_named() -> None:
    turn, doing = asyncio.Event(), "trying it"

    async def sleep(seconds: float) -> None:
        await turn.wait()
        await asyncio.sleep(0)

    with structlog.testing.capture_logs() as lines:
        async with reporting("net", "1", lambda: 0.0, sleep, lambda: doing):
            turn.set()
            for _ in range(5):
                await asyncio.sleep(0)
            doing = ""
            for _ in range(5):
                await asyncio.sleep(0)

    said = [line["event"] for line in lines]
    assert said[0] == "still loading net (4 s): trying it"
    assert said[-1].endswith(" s)")
