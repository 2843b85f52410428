import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from protocol.errors import ModelFailed
from protocol.messages import InferRequest
from workers.batching.types import Batch, Release
from workers.instances.executor import DEPTH, Completions, ThreadExecutor, next_free
from workers.instances.job import Entry, Job, failure_message


class Doubling:
    """Doubles numbers, and records the threads it was called on."""

    def __init__(self) -> None:
        self.threads = {threading.current_thread().name}
        self.ran: list[Any] = []
        self.closed = False

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        return len(requests)

    def run(self, prepared: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        self.ran.append(prepared)
        if isinstance(prepared, BaseException):
            raise prepared
        return prepared * 2

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        return [raw] * len(requests)

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed = True


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def job(executor: ThreadExecutor, prepared: Any) -> Job:
    request = InferRequest("i", "m", "1", ())
    entry = Entry("i", 1, "", request, 0.0)
    made = Job(Batch([entry], 1, Release.FULL, 0.0, 0), [entry], executor)
    made.prepared = prepared
    return made


class Finished:
    """Collects jobs as a pipeline does."""

    def __init__(self) -> None:
        self.groups: list[list[Job]] = []
        self._changed = asyncio.Event()

    def __call__(self, jobs: list[Job]) -> None:
        self.groups.append(jobs)
        self._changed.set()

    async def count(self, number: int) -> list[Job]:
        async with asyncio.timeout(10):
            while sum(map(len, self.groups)) < number:
                self._changed.clear()
                await self._changed.wait()
        return [job for group in self.groups for job in group]


async def test_loading_running_and_closing_happen_on_the_instances_own_thread() -> None:
    executor, finished = ThreadExecutor("m_0_0", Now()), Finished()
    instance = await executor.load(Doubling)
    assert isinstance(instance, Doubling)
    executor.deliver_to(Completions(asyncio.get_running_loop(), finished))
    executor.submit(job(executor, 21))
    (done,) = await finished.count(1)
    assert done.raw == 42
    assert done.prepared is None
    await executor.close()
    assert instance.closed
    assert instance.threads == {"m_0_0"}


@pytest.mark.parametrize(("name", "expected"), [("loop_safe", True), ("anywhere", True), ("other", False)])
async def test_an_instance_says_that_it_is_loop_safe_by_that_name_or_the_former_one(
    name: str, *, expected: bool
) -> None:
    instance = Doubling()
    setattr(instance, name, True)
    executor = ThreadExecutor("m_0_0", Now())
    await executor.load(lambda: instance)
    assert executor.loop_safe is expected
    await executor.close()


async def test_what_loading_raises_is_raised_to_the_loader() -> None:
    executor = ThreadExecutor("m_0_0", Now())

    def fail() -> Doubling:
        raise ModelFailed("no such layer")

    with pytest.raises(ModelFailed, match="no such layer"):
        await executor.load(fail)
    await executor.close()


async def test_a_failing_batch_is_an_answer_and_the_thread_goes_on() -> None:
    executor, finished = ThreadExecutor("m_0_0", Now()), Finished()
    await executor.load(Doubling)
    executor.deliver_to(Completions(asyncio.get_running_loop(), finished))
    for prepared in (ValueError("bad"), SystemExit(3), 4):
        executor.submit(job(executor, prepared))
    first, second, third = await finished.count(3)
    assert isinstance(first.error, ValueError)
    assert isinstance(second.error, SystemExit)
    assert (third.error, third.raw) == (None, 8)
    await executor.close()


async def test_late_and_withdrawn_batches_come_back_without_having_run() -> None:
    now, finished = Now(), Finished()
    executor = ThreadExecutor("m_0_0", now)
    instance = await executor.load(Doubling)
    assert isinstance(instance, Doubling)
    executor.deliver_to(Completions(asyncio.get_running_loop(), finished))
    late, withdrawn, just = job(executor, 1), job(executor, 2), job(executor, 3)
    late.not_after = 100.0
    withdrawn.withdrawn = True
    just.not_after = 100.1
    for each in (late, withdrawn, just):
        executor.submit(each)
    jobs = await finished.count(3)
    assert [each.stale for each in jobs] == [True, True, False]
    assert instance.ran == [3]
    assert late.prepared == 1
    await executor.close()


async def test_jobs_that_end_while_the_loop_is_busy_come_with_one_wake_up() -> None:
    executor, finished = ThreadExecutor("m_0_0", Now()), Finished()
    await executor.load(Doubling)
    completions = Completions(asyncio.get_running_loop(), finished)
    executor.deliver_to(completions)
    for number in range(5):
        completions.push(job(executor, number))
    await finished.count(5)
    assert len(finished.groups) == 1
    completions.push(job(executor, 5))
    await finished.count(6)
    assert len(finished.groups) == 2
    await executor.close()


async def test_batches_go_to_whoever_holds_fewest() -> None:
    first, second = ThreadExecutor("a", Now()), ThreadExecutor("b", Now())
    assert next_free([first, second]) is first
    first.held = 1
    assert next_free([first, second]) is second
    second.held = 2
    assert next_free([first, second]) is first
    first.held = DEPTH
    assert next_free([first, second]) is None
    assert next_free([first]) is None
    for executor in (first, second):
        await executor.close()


def test_failures_are_told_in_tritons_words() -> None:
    assert failure_message("m_0_1", ValueError("x")) == (
        "Failed to process the request(s) for model 'm_0_1', message: ValueError: x"
    )
    assert failure_message("m_0_1", ModelFailed("no")).endswith("message: no")
