"""Requests that wait: deadlines, queues with bounds, cancellations."""

import asyncio
import dataclasses
from collections.abc import Sequence

from protocol.errors import Code
from protocol.model_stats import FailureReason
from protocol.ports import Claim
from tests.workers.fleet import BOUNDED, DELAYED, IMPATIENT, until, values
from tests.workers.serving import bench


async def test_a_deadline_that_passes_in_the_queue_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve(DELAYED)
        now = b.clock()
        (late,) = await b.caller.ask(b.caller.request(1, deadline=now - 1))
        assert late.failure is not None
        assert late.failure.code is Code.DEADLINE_EXCEEDED
        assert b.instances[0].batches == []
        assert serving.statistics.failures[FailureReason.REJECTED] == 1


async def test_a_deadline_that_passes_behind_a_running_batch_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        first = await b.hold()
        deadline = b.clock() + 0.05
        requests = [b.caller.request(n, deadline=deadline if n % 2 else None) for n in range(8)]
        staged = await b.caller.publish(*requests)
        await until(lambda: serving.runner.running_rows == 9)
        await until(lambda: b.clock() > deadline)
        instance.gate.set()
        replies = await asyncio.gather(*staged)
        await asyncio.gather(*first)
        codes = [reply.failure.code if reply.failure else None for reply in replies]
        assert codes == [None, Code.DEADLINE_EXCEEDED] * 4
        assert instance.batches == [[0], [0, 2, 4, 6]]
        assert replies[0].timing.batch_rows == 4


async def test_a_queue_timeout_is_answered_in_tritons_words() -> None:
    async with bench() as b:
        await b.serve(IMPATIENT)
        (instance,) = b.instances
        first = await b.hold()
        (late,) = await b.caller.ask(b.caller.request(1))
        assert late.failure is not None
        assert (late.failure.code, late.failure.message) == (Code.UNAVAILABLE, "Request timeout expired")
        instance.gate.set()
        await asyncio.gather(*first)
        assert instance.batches == [[0]]


async def test_a_bounded_queue_turns_away_what_is_over_its_bound() -> None:
    async with bench() as b:
        serving = await b.serve(BOUNDED)
        (instance,) = b.instances
        first = await b.hold()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(5)])
        await until(lambda: serving.statistics.rejections["queue_full"] == 2)
        instance.gate.set()
        replies = await asyncio.gather(*futures)
        refused = [reply.failure for reply in replies if reply.failure]
        assert len(refused) == 2
        assert all("Exceeds maximum queue size" in failure.message for failure in refused)
        await asyncio.gather(*first)


async def test_a_bounded_queue_sees_what_is_over_its_bound_even_when_the_worker_is_full() -> None:
    async with bench() as b:
        serving = await b.serve(BOUNDED.replace("max_batch_size: 8", "max_batch_size: 1").replace("size: 3", "size: 4"))
        (instance,) = b.instances
        instance.gate.clear()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(20)])
        await until(lambda: serving.statistics.rejections["queue_full"] > 10)
        instance.gate.set()
        replies = await asyncio.gather(*futures)
        assert len(instance.batches) == sum(reply.failure is None for reply in replies) < 10


async def test_a_cancelled_request_that_waits_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        first = await b.hold()
        keep, drop = b.caller.request(1), b.caller.request(2)
        futures = await b.caller.publish(keep, drop)
        await until(lambda: serving.runner.in_flight == 3)
        await b.caller.cancel(drop)
        cancelled = await futures[1]
        assert cancelled.failure is not None
        assert cancelled.failure.code is Code.CANCELLED
        instance.gate.set()
        await asyncio.gather(*first, futures[0])
        assert instance.batches == [[0], [1]]
        assert serving.statistics.cancellations == 1


async def test_a_cancelled_request_in_a_staged_batch_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        first = await b.hold()
        requests = [b.caller.request(n) for n in range(8)]
        futures = await b.caller.publish(*requests)
        await until(lambda: serving.runner.running_rows == 9)
        await b.caller.cancel(requests[3], requests[5])
        await until(lambda: serving.runner._entries[requests[5].id].cancelled)
        instance.gate.set()
        replies = await asyncio.gather(*futures)
        await asyncio.gather(*first)
        assert [reply.failure is not None for reply in replies] == [n in (3, 5) for n in range(8)]
        assert instance.batches == [[0], [0, 1, 2, 4, 6, 7]]


async def test_a_staged_batch_that_is_cancelled_altogether_makes_room() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        first = await b.hold()
        requests = [b.caller.request(n) for n in range(8)]
        futures = await b.caller.publish(*requests)
        await until(lambda: serving.runner.running_rows == 9)
        await b.caller.cancel(*requests)
        await until(lambda: serving.runner._entries[requests[7].id].cancelled)
        instance.gate.set()
        await asyncio.gather(*first, *futures)
        assert instance.batches == [[0]]
        assert serving.runner.running_rows == 0
        assert [executor.held for executor in serving.loaded.executors] == [0]
        assert values(await b.caller.ask(b.caller.request(9))) == [[9]]


async def test_cancelling_what_runs_changes_nothing() -> None:
    async with bench() as b:
        await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        request = b.caller.request(1)
        futures = await b.caller.publish(request)
        await instance.started()
        await b.caller.cancel(request)
        instance.gate.set()
        assert values(await asyncio.gather(*futures)) == [[1]]


async def test_a_late_cancellation_of_an_earlier_run_leaves_the_later_one_that_waits() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        earlier = b.caller.request(1, accepted=1.0)
        futures = await b.caller.publish(dataclasses.replace(earlier, accepted=2.0))
        await until(lambda: serving.runner.in_flight == 2)
        await b.caller.cancel(earlier)
        await until(lambda: len(serving.intake._cancellations) == 1)
        b.instances[0].gate.set()
        assert values(await asyncio.gather(*first, *futures)) == [[0], [1]]
        assert serving.statistics.cancellations == 0


async def test_a_later_run_that_waits_behind_a_cancelled_one_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        results = b.caller.transport.results
        earlier = b.caller.request(1, claimed=True, accepted=1.0)
        await b.caller.publish(earlier)
        await until(lambda: serving.runner.in_flight == 2)
        await results.claim(Claim(earlier.id, "f", "", 5.0, 60.0, "m", "1", accepted=2.0))
        futures = await b.caller.publish(dataclasses.replace(earlier, accepted=2.0))
        await until(lambda: bool(serving.runner._entries[earlier.id].followers))
        await b.caller.cancel(earlier)
        await until(lambda: serving.statistics.cancellations == 1)
        b.instances[0].gate.set()
        assert values(await asyncio.gather(*first, *futures)) == [[0], [1]]
        assert b.instances[0].batches == [[0], [1]]


async def test_a_cancelled_repetition_that_waits_behind_a_later_run_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        earlier = b.caller.request(1, claimed=True, accepted=1.0)
        later = dataclasses.replace(earlier, accepted=2.0)
        await b.caller.transport.results.claim(Claim(earlier.id, "f", "", 5.0, 60.0, "m", "1", accepted=3.0))
        await b.caller.publish(later)
        await until(lambda: serving.runner.in_flight == 2)
        await b.caller.publish(earlier)
        leader = serving.runner._entries[later.id]
        await until(lambda: bool(leader.followers))
        await b.caller.cancel(earlier)
        await until(lambda: bool(leader.followers and leader.followers[0].cancelled))
        assert serving.statistics.cancellations == 0
        await b.caller.cancel(
            later
        )  # whose end is refused, as the key was claimed again: only its own stamp ends the other
        await until(lambda: serving.statistics.cancellations == 1)
        b.instances[0].gate.set()
        await asyncio.gather(*first)
        await until(lambda: serving.statistics.cancellations == 2)
        assert b.instances[0].batches == [[0]]


async def test_a_thousand_records_of_one_request_cost_a_few_calls_and_no_more_room_than_others() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        calls: list[int] = []
        right, most = b.store.start, serving.runner._max_rows

        async def start(refs: Sequence[str], worker: str, ttl: float) -> list[int]:
            calls.append(len(refs))
            return await right(refs, worker, ttl)

        b.store.start = start  # type: ignore[method-assign]
        request = b.caller.request(1)
        futures = await b.caller.publish(*[request] * 1000, partition=0)
        await until(lambda: serving.runner.room() == 0)
        assert serving.runner.in_flight <= most
        assert serving.intake._tracker.in_flight <= most
        b.instances[0].gate.set()
        await asyncio.gather(*first, futures[-1])
        await until(lambda: serving.intake._tracker.in_flight == 0 and serving.intake._tracker.positions() == {0: 1001})
        runs = (
            len(b.instances[0].batches) - 1
        )  # a record after the end of all that were here runs again: one of each fill
        assert runs + serving.statistics.already_answered == 1000
        assert runs + sum(calls) <= 2 + 3 * 1000 / most
        assert (serving.runner.in_flight, serving.runner._followers_rows, serving.runner._memory.held) == (0, 0, 0)


async def test_a_later_run_among_many_repetitions_runs() -> None:
    """A record that arrived after an attempt began is not answered by what that attempt found."""
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        asked, told = asyncio.Event(), asyncio.Event()
        right = b.store.start

        async def start(refs: Sequence[str], worker: str, ttl: float) -> list[int]:
            attempts = await right(refs, worker, ttl)
            if asked.is_set():
                return attempts
            asked.set()
            await told.wait()
            return attempts

        b.store.start = start  # type: ignore[method-assign]
        request = b.caller.request(1, accepted=1.0)
        await b.caller.publish(*[request] * 4)
        await until(lambda: serving.runner.in_flight == 5)
        b.instances[0].gate.set()
        await asked.wait()  # the second of the four found the answer of the first
        results = b.caller.transport.results
        await results.claim(Claim(request.id, "f", "", 5.0, 60.0, "m", "1", accepted=2.0))
        await b.caller.publish(dataclasses.replace(request, accepted=2.0, claimed=True))
        await until(lambda: serving.runner.in_flight == 4)
        (state,) = await results.look([request.id])
        told.set()
        await asyncio.gather(*first)
        await until(lambda: serving.intake._tracker.in_flight == 0)
        assert state is not None
        assert len(b.instances[0].batches) == (3 if state.state == "queued" else 2)


async def test_repetitions_of_a_partition_that_moved_are_dropped_with_it() -> None:
    async with bench() as b:
        serving = await b.serve(partitions=2)
        first = await b.hold()
        request = b.caller.request(1)
        await b.caller.publish(request, partition=0)
        await until(lambda: serving.runner.in_flight == 2)
        await b.caller.publish(*[request] * 3, partition=1)
        await b.caller.publish(request, partition=0)
        await until(lambda: serving.runner.in_flight == 6)
        serving.runner.forget({0})
        assert serving.runner.in_flight == 3
        assert serving.runner._followers_rows == 1
        serving.runner.forget({1})
        assert (serving.runner.in_flight, serving.runner._followers_rows) == (1, 0)
        b.instances[0].gate.set()
        await asyncio.gather(*first)
