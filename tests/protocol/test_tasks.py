"""Background tasks: kept, logged when they fail, ended together."""

from __future__ import annotations

import asyncio
import math

import structlog

from protocol.deadline import too_late
from protocol.errors import Unavailable
from protocol.runtime.tasks import BackgroundTasks, run_forever


async def test_a_task_is_kept_until_it_ends() -> None:
    tasks, go = BackgroundTasks("test"), asyncio.Event()

    async def work() -> int:
        await go.wait()
        return 7

    task = tasks.spawn(work(), name="seven")
    assert len(tasks) == 1
    go.set()
    assert await task == 7
    assert len(tasks) == 0


async def test_an_error_that_nobody_awaits_is_logged_with_its_owner() -> None:
    async def fail() -> None:
        raise ValueError("no")

    tasks = BackgroundTasks("intake", topic="t")
    with structlog.testing.capture_logs() as logs:
        await asyncio.wait([tasks.spawn(fail(), name="poll")])
        await asyncio.sleep(0)

    assert [(line["event"], line["owner"], line["task"], line["topic"]) for line in logs] == [
        ("a background task failed", "intake", "poll", "t")
    ]


async def test_closing_ends_what_swallows_its_cancellation_and_what_starts_meanwhile() -> None:
    tasks, ended = BackgroundTasks("test"), []

    async def late() -> None:
        await asyncio.Event().wait()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.spawn(late())
            ended.append(True)

    tasks.spawn(stubborn())
    await asyncio.sleep(0)
    await tasks.close()

    assert ended == [True]
    assert len(tasks) == 0


async def test_joining_waits_for_what_starts_meanwhile_and_cancels_nothing() -> None:
    tasks, ended = BackgroundTasks("test"), []

    async def work(more: int) -> None:
        await asyncio.sleep(0)
        if more:
            tasks.spawn(work(more - 1))
        ended.append(more)

    tasks.spawn(work(2))
    await tasks.join()

    assert ended == [2, 1, 0]
    assert len(tasks) == 0


def test_a_request_is_too_late_from_its_deadline_on() -> None:
    assert not too_late(5.0, 4.9)
    assert too_late(5.0, 5.0)
    assert not too_late(None, 5.0)
    assert not too_late(math.inf, 5.0)


async def test_a_loop_that_ends_is_started_again_and_says_why() -> None:
    problems: list[str] = []
    again = asyncio.Event()

    async def run() -> None:
        if not problems:
            raise Unavailable("the store is away")
        if len(problems) == 1:
            raise ValueError("no")
        if len(problems) == 3:
            again.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(run_forever("follow", run, problems.append))
    await again.wait()
    running.cancel()

    assert problems == ["the store is away", "ValueError('no')", "it returned"]
