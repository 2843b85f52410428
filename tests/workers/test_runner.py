import asyncio
import threading

import numpy as np
import pytest

from protocol.errors import Code, ModelFailed
from protocol.tensors import MANY, Tensor, bytes_elements, from_array, pack_bytes
from protocol.texts import MAX_TEXT
from tests.walks import walks
from tests.workers.fleet import DELAYED, IDENTITY, ORDERED, until, values
from tests.workers.serving import bench
from workers.instances.executor import DEPTH
from workers.serving.memory import QueueMemory
from workers.serving.runner import BATCHES_PER_INSTANCE


async def test_requests_that_wait_together_run_together() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        first = await b.hold()
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
                f"Failed to process the request(s) for model 'm_0_0', message: {type(error).__name__}"
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
        await until(lambda: serving.runner.room() == 0)
        assert await serving.intake.lag() == 1
        more = await b.caller.publish(b.caller.request(2))
        await until(lambda: len(b.store.refused) > 3)
        assert not futures[0].done()
        b.store.down = False
        assert values(await asyncio.gather(*futures, *more)) == [[1], [2]]
        assert b.instances[0].batches == [[1], [2]]
        assert b.serving[0]._context.retry.failing == 0
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
        await b.caller.cancel(request)
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
        serving.loaded.executors[0].loop_safe = True
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
        serving = await b.serve(max_bytes=4000)
        (instance,) = b.instances
        assert serving.runner.room() == BATCHES_PER_INSTANCE * 8
        instance.gate.clear()
        futures = await b.caller.publish(*[b.caller.request(*range(8), *range(600)) for _ in range(2)])
        await until(lambda: serving.runner.in_flight == 2)
        assert serving.runner.room() == 0
        instance.gate.set()
        await asyncio.gather(*futures)
        await until(lambda: serving.runner.room() > 0)


async def test_a_model_beside_one_that_holds_everything_has_its_share() -> None:
    memory = QueueMemory(4000)
    other = memory.open_queue()
    other.add(10_000)
    async with bench() as b:
        b.memory = memory
        serving = await b.serve()
        assert serving.runner.room() == BATCHES_PER_INSTANCE * 8
        futures = await b.caller.publish(*[b.caller.request(*range(8), *range(600)) for _ in range(5)])
        await asyncio.gather(*futures)
        await until(lambda: memory.used == 10_000)
    assert other.free == 0
    other.add(-9_000)
    assert other.free == 3000


STRINGS = """
backend: "identity"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_STRING dims: [ -1 ] } ]
"""


async def test_a_worker_does_not_look_at_many_strings_on_its_loop() -> None:
    async with bench() as b:
        await b.serve(STRINGS)
        b.caller.encodes = True
        few, many = [b"few"], [b"", b"x"] * MANY
        requests = [
            b.caller.request(inputs=(Tensor("X", "BYTES", (1, len(each)), pack_bytes(each)),)) for each in (few, many)
        ]
        with walks() as seen:
            replies = await b.caller.ask(*requests)
            assert seen == [1, 1, 1], "of the few: read from the record, stacked, and put into the answer"
        assert [bytes_elements(reply.outputs[0]) for reply in replies] == [few, many]


@pytest.mark.parametrize("error", [ValueError("x" * 100_000), ModelFailed("x" * 60_000_000), OSError("\udcff")])
async def test_an_exception_with_any_text_is_an_answer_of_bounded_length(error: Exception) -> None:
    async with bench() as b:
        await b.serve()
        b.instances[0].error = error
        (reply,) = await b.caller.ask(b.caller.request(1))
        assert reply.failure is not None
        assert reply.failure.code is Code.MODEL_FAILED
        assert len(reply.failure.message) < 2 * MAX_TEXT
        assert "Failed to process the request(s)" in reply.failure.message
