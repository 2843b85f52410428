import asyncio
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import Code
from protocol.messages import InferRequest
from protocol.naming import ref
from protocol.tensors import from_array
from tests.workers.fleet import IDENTITY, NAMES, turn_of_the_loop, until, values
from tests.workers.serving import Bench, bench
from workers.execution import DEPTH
from workers.runner import BATCHES_PER_INSTANCE
from workers.statistics import Reason

DELAYED = IDENTITY + "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 60000000 }"
ORDERED = IDENTITY + "dynamic_batching { preserve_ordering: true }"
BOUNDED = IDENTITY + "dynamic_batching { default_queue_policy { max_queue_size: 3 } }"
IMPATIENT = (
    IDENTITY
    + "dynamic_batching { default_queue_policy { default_timeout_microseconds: 20000 timeout_action: REJECT } }"
)
CANCEL = NAMES.cancel_channel(NAMES.infer_topic("m", "1"))


async def test_requests_that_wait_together_run_together() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
        rest = await b.caller.publish(*[b.caller.request(n) for n in range(1, 6)])
        await until(lambda: serving.runner.in_flight == 6)
        instance.gate.set()
        replies = await asyncio.gather(*first, *rest)
        assert values(replies) == [[n] for n in range(6)]
        assert instance.batches == [[0], [1, 2, 3, 4, 5]]
        assert [reply.timing.batch_requests for reply in replies] == [1, 5, 5, 5, 5, 5]
        assert serving.statistics.execution_count == 2


async def test_a_full_batch_is_staged_behind_the_one_that_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        futures = await b.caller.publish(b.caller.request(-1))
        await instance.started()
        futures += await b.caller.publish(*[b.caller.request(n) for n in range(11)])
        await until(lambda: serving.runner.in_flight == 12)
        assert serving.runner.running_rows == 1 + 8
        assert serving.runner.queued_rows == 3
        assert serving.loaded.executors[0].held == DEPTH
        instance.gate.set()
        await asyncio.gather(*futures)
        assert [len(batch) for batch in instance.batches] == [1, 8, 3]


async def test_the_stamps_of_an_answer_are_in_order() -> None:
    async with bench() as b:
        await b.serve()
        now = b.clock()
        (reply,) = await b.caller.ask(b.caller.request(1, accepted=now - 2, published=now - 1))
        t = reply.timing
        stamps = [t.accepted, t.published, t.fetched, t.enqueued, t.released, t.compute_start, t.compute_end, t.emitted]
        assert stamps == sorted(stamps)
        assert (t.reason, t.batch_rows, t.batch_requests, t.attempt, t.worker) == ("no_delay", 1, 1, 1, "w")


async def test_a_batch_that_waits_for_more_is_released_by_its_delay() -> None:
    soon = DELAYED.replace("60000000", "5000")
    async with bench() as b:
        await b.serve(soon)
        replies = await b.caller.ask(b.caller.request(1), b.caller.request(2))
        assert b.instances[0].batches == [[1, 2]]
        assert {reply.timing.reason for reply in replies} <= {"delay", "age"}


async def test_labels_and_only_the_wanted_outputs_come_back() -> None:
    async with bench() as b:
        await b.serve()
        (reply,) = await b.caller.ask(b.caller.request(1, label="mine", outputs=("Y",)))
        assert (reply.label, reply.model, reply.version) == ("mine", "m", "1")
        assert [tensor.name for tensor in reply.outputs] == ["Y"]


@pytest.mark.parametrize("error", [ValueError("out of ideas"), SystemExit(1)])
async def test_a_model_that_raises_fails_its_whole_batch_and_nothing_else(error: BaseException) -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.error = error
        replies = await b.caller.ask(b.caller.request(1), b.caller.request(2))
        for reply in replies:
            assert reply.failure is not None
            assert reply.failure.code is Code.MODEL_FAILED
            assert reply.failure.message.startswith(
                f"Failed to process the request(s) for model instance 'm_0_0', message: {type(error).__name__}"
            )
        instance.error = None
        assert values(await b.caller.ask(b.caller.request(3))) == [[3]]
        statistics = serving.statistics
        assert (statistics.fail.count, statistics.success.count, statistics.reruns) == (2, 1, 2)
        assert instance.batches == [[1, 2], [1], [2], [3]]


async def test_a_model_whose_outputs_break_its_configuration_is_told_so() -> None:
    config = IDENTITY.replace('name: "Y" data_type: TYPE_FP32', 'name: "Y" data_type: TYPE_INT64')
    async with bench() as b:
        await b.serve(config)
        (reply,) = await b.caller.ask(b.caller.request(1))
        assert reply.failure is not None
        assert "returned output 'Y' as FP32; its configuration says INT64" in reply.failure.message


async def test_a_deadline_that_passes_in_the_queue_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve(DELAYED)
        now = b.clock()
        (late,) = await b.caller.ask(b.caller.request(1, deadline=now - 1))
        assert late.failure is not None
        assert late.failure.code is Code.DEADLINE_EXCEEDED
        assert b.instances[0].batches == []
        assert serving.statistics.failures[Reason.REJECTED] == 1


async def test_a_deadline_that_passes_behind_a_running_batch_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
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
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
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
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
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
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
        keep, drop = b.caller.request(1), b.caller.request(2)
        futures = await b.caller.publish(keep, drop)
        await until(lambda: serving.runner.in_flight == 3)
        await b.caller.transport.results.cancel(CANCEL, [ref("-", drop.id)])
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
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
        requests = [b.caller.request(n) for n in range(8)]
        futures = await b.caller.publish(*requests)
        await until(lambda: serving.runner.running_rows == 9)
        await b.caller.transport.results.cancel(CANCEL, [ref("-", requests[n].id) for n in (3, 5)])
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
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await instance.started()
        requests = [b.caller.request(n) for n in range(8)]
        futures = await b.caller.publish(*requests)
        await until(lambda: serving.runner.running_rows == 9)
        await b.caller.transport.results.cancel(CANCEL, [ref("-", request.id) for request in requests])
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
        await b.caller.transport.results.cancel(CANCEL, [ref("-", request.id)])
        instance.gate.set()
        assert values(await asyncio.gather(*futures)) == [[1]]


async def test_answers_keep_the_order_of_requests_where_the_model_says_so() -> None:
    async with bench() as b:
        await b.serve(ORDERED, instances=2)
        first, second = b.instances
        first.gate.clear()
        slow = await b.caller.publish(b.caller.request(0))
        await first.started()
        fast = await b.caller.publish(b.caller.request(1))
        await second.started()
        await until(lambda: b.serving[0].runner.running_rows == 1)
        assert not slow[0].done()
        assert not fast[0].done()
        first.gate.set()
        await asyncio.gather(*slow, *fast)
        assert list(b.caller.answers) == ["r0", "r1"]


async def test_two_instances_run_at_the_same_time() -> None:
    async with bench() as b:
        await b.serve(instances=2)
        for instance in b.instances:
            instance.gate.clear()
        futures = []
        for number, instance in enumerate(b.instances):
            futures += await b.caller.publish(b.caller.request(number))
            await instance.started()
        for instance in b.instances:
            instance.gate.set()
        await asyncio.gather(*futures)


async def test_a_store_that_fails_keeps_the_batch_and_stops_the_intake() -> None:
    async with bench() as b:
        serving = await b.serve()
        b.store.down = True
        futures = await b.caller.publish(b.caller.request(1))
        await b.store.attempted.wait()
        assert serving.runner.room() == 0
        assert await serving.intake.lag() == 1
        more = await b.caller.publish(b.caller.request(2))
        await until(lambda: len(b.store.refused) > 3)
        assert not futures[0].done()
        b.store.down = False
        assert values(await asyncio.gather(*futures, *more)) == [[1], [2]]
        assert b.instances[0].batches == [[1], [2]]
        assert b.serving[0]._context.patience.failing == 0
        await until(lambda: serving.runner.in_flight == 0)


async def test_a_claimed_request_begins_an_attempt_before_it_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        request = b.caller.request(1, claimed=True)
        futures = await b.caller.publish(request)
        await instance.started()
        (state,) = await b.store.look([request.id])
        assert state is not None
        assert state.state == "running"
        instance.gate.set()
        (reply,) = await asyncio.gather(*futures)
        assert reply.timing.attempt == 1
        assert serving.statistics.redeliveries == 0


async def test_a_claimed_request_that_is_cancelled_while_its_attempt_begins_never_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        b.store.down = True
        request = b.caller.request(1, claimed=True)
        futures = await b.caller.publish(request, b.caller.request(2))
        await b.store.attempted.wait()
        await b.caller.transport.results.cancel(CANCEL, [request.id])
        await until(lambda: serving.runner._entries[request.id].cancelled)
        b.store.down = False
        replies = await asyncio.gather(*futures)
        assert replies[0].failure is not None
        assert b.instances[0].batches == [[2]]


async def test_the_same_request_twice_is_run_once() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        request = b.caller.request(1)
        futures = await b.caller.publish(request)
        await instance.started()
        again = await b.caller.publish(request)
        await until(lambda: serving.runner._entries[request.id].followers is not None)
        instance.gate.set()
        await asyncio.gather(*again)
        assert not futures[0].done()  # its place was taken by the second publish of the same id
        await until(lambda: serving.runner.in_flight == 0)
        assert instance.batches == [[1]]
        await until(lambda: serving.intake._tracker.in_flight == 0)
        assert serving.statistics.already_answered == 1


async def test_brief_batches_run_on_the_event_loop_where_the_instance_allows_it() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        for _ in range(20):
            await b.caller.ask(b.caller.request(1))
        assert instance.threads == {"m_0_0"}
        serving.loaded.executors[0].anywhere = True
        for _ in range(50):
            await b.caller.ask(b.caller.request(1))
        assert instance.threads == {"m_0_0", threading.current_thread().name}
        instance.error = ValueError("no")
        (reply,) = await b.caller.ask(b.caller.request(1))
        assert reply.failure is not None
        assert serving.loaded.executors[0].held == 0


async def test_large_batches_are_stacked_and_encoded_off_the_event_loop() -> None:
    async with bench() as b:
        await b.serve()
        array = np.arange(400_000, dtype=np.float32).reshape(1, -1)
        requests = [b.caller.request(inputs=(from_array("X", array + n),)) for n in range(2)]
        replies = await b.caller.ask(*requests)
        for n, reply in enumerate(replies):
            assert np.array_equal(reply.outputs[0].array(), array + n)


async def test_draining_answers_what_is_here_without_waiting_for_more() -> None:
    async with bench() as b:
        serving = await b.serve(DELAYED)
        futures = await b.caller.publish(b.caller.request(1), b.caller.request(2))
        await until(lambda: serving.runner.queued_requests == 2)
        assert await serving.finish(10)
        replies = await asyncio.gather(*futures)
        assert {reply.timing.reason for reply in replies} == {"drain"}


async def test_draining_gives_up_after_its_grace() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        await b.caller.publish(b.caller.request(1))
        await instance.started()
        assert not await serving.finish(0.01)
        assert await serving.intake.lag() == 1


async def test_room_counts_rows_and_bytes() -> None:
    async with bench() as b:
        serving = await b.serve(max_bytes=3000)
        (instance,) = b.instances
        assert serving.runner.room() == BATCHES_PER_INSTANCE * 8
        instance.gate.clear()
        futures = await b.caller.publish(*[b.caller.request(*range(8), *range(600)) for _ in range(2)])
        await until(lambda: serving.runner.in_flight == 2)
        assert serving.runner.room() == 0
        instance.gate.set()
        await asyncio.gather(*futures)
        await until(lambda: serving.runner.room() > 0)


ACTIONS = ["publish", "publish", "claimed", "again", "cancel", "deadline", "hold", "release", "down", "up"]
plans = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=25)
configs = st.sampled_from([IDENTITY, ORDERED, DELAYED.replace("60000000", "2000"), BOUNDED, IMPATIENT])


class Play:
    """Acts out a plan against a served model, and knows what must come of it."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.requests: list[InferRequest] = []
        self.repeated: set[str] = set()

    async def act(self, action: str, count: int, where: int) -> None:
        b = self.bench
        if action in ("publish", "claimed", "deadline"):
            deadline = b.clock() + 0.002 * count if action == "deadline" else None
            numbers = range(len(self.requests), len(self.requests) + count)
            fresh = [b.caller.request(n, claimed=action == "claimed", deadline=deadline) for n in numbers]
            self.requests += fresh
            await b.caller.publish(*fresh, partition=where)
        elif action == "again" and self.requests:
            self.repeated.update(request.id for request in self.requests[-count:])
            await b.caller.publish(*self.requests[-count:], partition=where)
        elif action == "cancel":
            await b.caller.transport.results.cancel(CANCEL, [request.id for request in self.requests[-count:]])
        elif action in ("hold", "release"):
            gate = b.instances[where % len(b.instances)].gate
            gate.clear() if action == "hold" else gate.set()
        else:
            b.store.down = action == "down"

    async def end(self) -> None:
        """Let everything come to its end."""
        b, (serving,) = self.bench, self.bench.serving
        b.store.down = False
        for instance in b.instances:
            instance.gate.set()
        await until(lambda: len(b.caller.answers) == len(self.requests), "every answer")
        await until(lambda: serving.runner.in_flight == 0 and serving.intake._tracker.in_flight == 0, "every record")

    def check(self) -> None:
        b, (serving,) = self.bench, self.bench.serving
        assert set(b.caller.counts.values()) <= {1}
        ran = [int(row) for instance in b.instances for batch in instance.batches for row in batch]
        once = [number for number in ran if self.requests[number].id not in self.repeated]
        assert len(once) == len(set(once)), "a request that was published once ran twice"
        for number, request in enumerate(self.requests):
            reply = b.caller.answers[request.id]
            if reply.failure is None:
                assert reply.outputs[0].array().tolist() == [[number]]
                assert number in ran
            elif request.id not in self.repeated:
                assert number not in ran
        assert serving.runner.running_rows == serving.runner.queued_rows == 0
        assert all(executor.held == 0 for executor in serving.loaded.executors)


@given(plan=plans, config=configs, instances=st.integers(1, 2))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_every_request_is_answered_once_and_every_record_is_done(
    plan: list[tuple[str, int, int]], config: str, instances: int
) -> None:
    """Random arrivals, repetitions, cancellations, deadlines, store failures and slow instances."""

    async def play() -> None:
        async with bench() as b:
            await b.serve(config, instances=instances, partitions=3)
            acted = Play(b)
            for step in plan:
                await acted.act(*step)
                await turn_of_the_loop()
            await acted.end()
            acted.check()

    asyncio.run(play())
