"""The batch lane of a served model version: rows, not records."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from protocol.errors import Code
from protocol.messages import InferReply, InferRequest, Lane
from protocol.request_check import MAX_BATCH_LANE_ROWS
from protocol.tensors import Tensor, from_array
from tests.workers.fleet import IDENTITY, NAMES, until, values
from tests.workers.fragile import all_done, dead_letters, fragile
from tests.workers.serving import Bench, Gated, bench
from workers.backends.base import Outcome
from workers.batching.types import Release
from workers.serving.batch_topic import FULL
from workers.serving.serving import Serving

BATCHING = IDENTITY + "dynamic_batching { }"
ALONE = IDENTITY.replace("max_batch_size: 8", "max_batch_size: 1")
WHOLE = IDENTITY.replace("max_batch_size: 8", "max_batch_size: 0").replace("dims: [ -1 ]", "dims: [ -1, 1 ]")
TEXTS = BATCHING.replace("TYPE_FP32", "TYPE_STRING")
OPTIONAL = BATCHING + 'input [ { name: "Z" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]'
ORDERED = IDENTITY + "dynamic_batching { preserve_ordering: true }"
LEVELS = IDENTITY + "dynamic_batching { priority_levels: 2 default_priority_level: 2 }"


def rows_run(b: Bench) -> list[float]:
    return list(itertools.chain.from_iterable(batch for instance in b.instances for batch in instance.batches))


async def batch(b: Bench, *requests: InferRequest) -> list[InferReply]:
    return await b.caller.ask(*requests, lane=Lane.BATCH)


async def everything_done(b: Bench) -> None:
    for serving in b.serving:
        lanes = (serving.runner, serving.batch_lane)
        await until(lambda lanes=lanes: not any(lane.in_flight for lane in lanes), "every record")  # type: ignore[misc]
        await until(lambda s=serving: s.batch_intake._tracker.in_flight == 0, "every offset")  # type: ignore[misc]
        assert serving.runner.running_rows == serving.batch_lane.out_rows == serving.batch_lane.queued_rows == 0
        assert serving.batch_lane._memory.held == serving.batch_lane._followers == 0
        assert not serving.batch_lane._begun
        assert all(executor.held == 0 for executor in serving.loaded.executors)


# --- rows --------------------------------------------------------------------------------------------------------------


async def test_a_record_of_many_rows_runs_in_several_batches_and_is_answered_once() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        request = b.caller.rows(100)
        (reply,) = await batch(b, request)
        assert reply.failure is None
        (output,) = reply.outputs
        assert output.shape == (100, 1)
        assert values([reply]) == [list(range(100))]
        assert rows_run(b) == list(range(100))
        assert [len(rows) for rows in b.instances[0].batches] == [1, 2, 4, *[8] * 11, 5]
        assert b.caller.counts[request.id] == 1
        timing = reply.timing
        assert timing.reason == Release.BATCH_LANE
        assert timing.batch_rows == 8
        assert timing.released <= timing.compute_start < timing.compute_end <= timing.emitted
        assert serving.statistics.lane.rows == serving.statistics.inference_count == 100
        assert serving.statistics.success.count == serving.statistics.lane.records == 1
        await everything_done(b)


@pytest.mark.parametrize(("config", "largest"), [(BATCHING, 8), (IDENTITY, 8), (ALONE, 1), (WHOLE, 50)])
async def test_every_kind_of_model_runs_every_row_once(config: str, largest: int) -> None:
    async with bench() as b:
        await b.serve(config)
        requests = [b.caller.rows(count) for count in (1, 50, 3, 8, 9, 2)]
        replies = await batch(b, *requests)
        assert values(replies) == [list(range(count)) for count in (1, 50, 3, 8, 9, 2)]
        assert len(rows_run(b)) == 73
        assert max(len(rows) for rows in b.instances[0].batches) == largest
        await everything_done(b)


async def test_records_share_batches_if_the_model_batches_requests() -> None:
    async with bench() as b:
        await b.serve(BATCHING)
        await batch(b, b.caller.rows(60))
        b.instances[0].batches.clear()
        await batch(b, *[b.caller.request(n) for n in range(64)])
        assert len(b.instances[0].batches) < 30


@pytest.mark.parametrize(("largest", "rows"), [(1, 3000), (64, MAX_BATCH_LANE_ROWS)])
async def test_a_record_may_have_thousands_of_batches(largest: int, rows: int) -> None:
    async with bench() as b:
        await b.serve(BATCHING.replace("max_batch_size: 8", f"max_batch_size: {largest}"))
        (reply,) = await batch(b, b.caller.rows(rows))
        assert reply.outputs[0].shape == (rows, 1)
        assert np.array_equal(reply.outputs[0].array().ravel(), np.arange(rows, dtype=np.float32))
        await everything_done(b)


async def test_rows_have_limits_and_the_interactive_lane_keeps_its_own() -> None:
    async with bench() as b:
        await b.serve(BATCHING)
        none, many = await batch(b, b.caller.rows(0), b.caller.rows(MAX_BATCH_LANE_ROWS + 1))
        (interactive,) = await b.caller.ask(b.caller.rows(9))
        for reply, text in (
            (none, "batch-size must be >= 1"),
            (many, "batch-size must be <= 65536 for 'm'"),
            (interactive, "batch-size must be <= 8 for 'm'"),
        ):
            assert reply.failure is not None
            assert reply.failure.code is Code.INVALID_ARGUMENT
            assert text in reply.failure.message
        assert rows_run(b) == []
        await everything_done(b)


@pytest.mark.parametrize("count", [20, 3000])
async def test_strings_of_different_lengths_keep_their_rows(count: int) -> None:
    """The larger record is walked over on another thread."""

    class Texts(Gated):
        def compute(self, inputs: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            self.batches.append([float(len(inputs["X"]))])
            return {"Y": inputs["X"][:, ::-1]}

    async with bench() as b:
        await b.serve(TEXTS, kind=Texts)
        texts = np.array([[b"x" * (n % 7), str(n).encode()] for n in range(count)], dtype=object)
        request = dataclasses.replace(b.caller.request(0), inputs=(from_array("X", texts),))
        (reply,) = await batch(b, request)
        assert reply.outputs[0].shape == (count, 2)
        assert np.array_equal(reply.outputs[0].array(), texts[:, ::-1])
        assert max(b.instances[0].batches) == [8.0]
        await everything_done(b)


async def test_optional_inputs_and_other_shapes_run_apart() -> None:
    async with bench() as b:
        await b.serve(OPTIONAL)
        plain, wide = b.caller.rows(20), b.caller.request(0)
        both = dataclasses.replace(
            b.caller.rows(20), inputs=(*plain.inputs, from_array("Z", np.zeros((20, 1), np.float32)))
        )
        wide = dataclasses.replace(wide, inputs=(from_array("X", np.ones((20, 3), np.float32)),))
        replies = await batch(b, plain, both, wide, b.caller.rows(5))
        assert [reply.outputs[0].shape for reply in replies] == [(20, 1), (20, 1), (20, 3), (5, 1)]
        await everything_done(b)


async def test_only_the_outputs_that_were_asked_for_come_back() -> None:
    async with bench() as b:
        await b.serve(BATCHING + 'output [ { name: "W" data_type: TYPE_FP32 dims: [ 1 ] } ]', kind=Two)
        both, one = await batch(b, b.caller.rows(20), b.caller.rows(20, outputs=("W",)))
        assert [output.name for output in both.outputs] == ["Y", "W"]
        assert [output.name for output in one.outputs] == ["W"]
        assert values([one]) == [[-n for n in range(20)]]


class Two(Gated):
    def compute(self, inputs: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        made = dict(super().compute(inputs, outputs))
        return {**made, "W": -made["Y"]}


# --- outputs that cannot be joined ---------------------------------------------------------------------------------------


class Odd(Gated):
    """Gives each request the tensors that `shape` makes, whatever its rows."""

    @staticmethod
    def shape(rows: int) -> tuple[int, ...]:
        return (3,)

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Outcome]:
        shapes = [self.shape(request.inputs[0].shape[0]) for request in requests]
        return [(Tensor("Y", "FP32", shape, bytes(4 * int(np.prod(shape)))),) for shape in shapes]


class Fewer(Odd):
    @staticmethod
    def shape(rows: int) -> tuple[int, ...]:
        return (rows - 1, 1) if rows > 1 else (1, 1)


class Scalar(Odd):
    @staticmethod
    def shape(rows: int) -> tuple[int, ...]:
        return ()


class Uneven(Odd):
    @staticmethod
    def shape(rows: int) -> tuple[int, ...]:
        return (rows, rows)


@pytest.mark.parametrize("kind", [Odd, Fewer, Scalar, Uneven])
async def test_outputs_that_are_not_rows_are_a_clear_failure(kind: type[Gated]) -> None:
    async with bench() as b:
        await b.serve(BATCHING, kind=kind)
        (reply,) = await batch(b, b.caller.rows(20))
        assert reply.failure is not None
        assert reply.failure.code is Code.MODEL_FAILED
        assert "output 'Y'" in reply.failure.message
        assert "record" in reply.failure.message
        (single,) = await batch(b, b.caller.rows(1))
        assert single.failure is None, "one row is not joined with others"
        await everything_done(b)


async def test_outputs_above_the_largest_answer_end_the_record_early() -> None:
    class Huge(Gated):
        def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Outcome]:
            return [(Tensor("Y", "UINT8", (request.inputs[0].shape[0], 1), bytes(4_000_000)),) for request in requests]

    async with bench() as b:
        await b.serve(BATCHING, kind=Huge)
        (reply,) = await batch(b, b.caller.rows(1000))
        assert reply.failure is not None
        assert reply.failure.code is Code.TOO_LARGE
        assert len(rows_run(b)) < 200
        await everything_done(b)


# --- bad rows --------------------------------------------------------------------------------------------------------------


async def test_a_bad_row_fails_its_record_alone_and_says_where() -> None:
    async with bench() as b:
        await fragile(b, BATCHING, bad=frozenset({20.0}))
        good, bad, other = b.caller.rows(15), b.caller.rows(40), b.caller.rows(19)
        replies = await batch(b, good, bad, other)
        assert values([replies[0], replies[2]]) == [list(range(15)), list(range(19))]
        failure = replies[1].failure
        assert failure is not None
        assert failure.code is Code.MODEL_FAILED
        assert "these are bad: [20.0]" in failure.message
        assert " of 40)" in failure.message
        assert 39.0 not in rows_run(b), "rows of a record that has failed are not run"
        await all_done(b)
        await everything_done(b)


async def test_a_deadly_row_makes_its_record_a_dead_letter_once() -> None:
    async with bench() as b:
        await fragile(b, BATCHING, deadly=frozenset({20.0}))
        replies = await batch(b, b.caller.rows(15), b.caller.rows(40, id="mine"), b.caller.rows(19))
        assert values([replies[0], replies[2]]) == [list(range(15)), list(range(19))]
        failure = replies[1].failure
        assert failure is not None
        assert "it is in the dead letters (in rows " in failure.message
        (letter,) = await dead_letters(b)
        assert dict(letter.headers)["id"] == b"mine"
        await everything_done(b)


async def test_out_of_memory_makes_smaller_batches_and_loses_nothing() -> None:
    async with bench() as b:
        await fragile(b, BATCHING, fits=3)
        (reply,) = await batch(b, b.caller.rows(50))
        assert values([reply]) == [list(range(50))]
        await everything_done(b)


# --- two lanes ---------------------------------------------------------------------------------------------------------------


async def measured(b: Bench) -> Serving:
    """A served model whose run times are known for all sizes."""
    (serving,) = b.serving
    for rows in (1, 2, 4, 8):
        for _ in range(3):
            serving.batch_lane._planner.observe("1", rows, 0.00001, 0.0)
    return serving


@pytest.mark.parametrize("config", [BATCHING, ORDERED, LEVELS])
async def test_rows_that_an_interactive_batch_leaves_empty_are_filled(config: str) -> None:
    async with bench() as b:
        await b.serve(config)
        serving = await measured(b)
        await b.hold()
        record = b.caller.rows(100)
        futures = await b.caller.publish(record, lane=Lane.BATCH)
        await until(lambda: serving.batch_lane.in_flight == 1)
        interactive = await b.caller.publish(*[b.caller.request(-n) for n in range(1, 4)])
        await until(lambda: serving.runner.in_flight == 4)
        b.instances[0].gate.set()
        replies = await asyncio.gather(*interactive)
        assert values(replies) == [[-1], [-2], [-3]]
        assert {(reply.timing.batch_rows, reply.timing.batch_requests) for reply in replies} == {(8, 4)}
        assert values(await asyncio.gather(*futures)) == [list(range(100))]
        assert serving.statistics.lane.topped_up_rows == 5
        assert serving.statistics.success.count == 5
        assert serving.statistics.inference_count == 104
        assert sorted(row for row in rows_run(b) if row > 0) == list(range(1, 100))
        await everything_done(b)


async def test_a_bad_row_beside_interactive_requests_harms_none_of_them() -> None:
    async with bench() as b:
        await fragile(b, BATCHING, deadly=frozenset({2.0}), isolated=True)
        serving = await measured(b)
        await b.hold()
        futures = await b.caller.publish(b.caller.rows(100), lane=Lane.BATCH)
        await until(lambda: serving.batch_lane.in_flight == 1)
        interactive = await b.caller.publish(*[b.caller.request(-n) for n in range(1, 4)])
        await until(lambda: serving.runner.in_flight == 4)
        b.instances[0].gate.set()
        assert values(await asyncio.gather(*interactive)) == [[-1], [-2], [-3]]
        (reply,) = await asyncio.gather(*futures)
        assert reply.failure is not None
        await everything_done(b)


async def test_a_backlog_takes_no_room_of_interactive_requests() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        room = serving.runner.room()
        b.instances[0].gate.clear()
        futures = await b.caller.publish(*[b.caller.rows(8) for _ in range(100)], lane=Lane.BATCH)
        await b.instances[0].started()
        assert serving.runner.room() == room
        assert serving.batch_lane.in_flight < 100
        assert serving.batch_lane.queued_rows <= 4 * 8 + 8
        b.instances[0].gate.set()
        assert len(await asyncio.gather(*futures)) == 100
        await everything_done(b)


async def test_an_interactive_request_runs_before_all_waiting_rows() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        b.instances[0].gate.clear()
        futures = await b.caller.publish(b.caller.rows(1000), lane=Lane.BATCH)
        await b.instances[0].started()
        interactive = await b.caller.publish(b.caller.request(-1))
        await until(lambda: serving.runner.in_flight == 1)
        b.instances[0].gate.set()
        await asyncio.gather(*interactive)
        before = list(itertools.takewhile(lambda rows: -1 not in rows, b.instances[0].batches))
        assert len(before) <= 2
        await asyncio.gather(*futures)
        await everything_done(b)


# --- what happens to records meanwhile ------------------------------------------------------------------------------------


class Halting(Gated):
    """Closes its gate in its fourth batch."""

    def compute(self, inputs: dict[str, Any], outputs: Sequence[str]) -> Any:
        if len(self.batches) == 3:
            self.gate.clear()
        return super().compute(inputs, outputs)


async def half_done(b: Bench, record: InferRequest) -> list[asyncio.Future[InferReply]]:
    """Publish the record, whose first 7 rows run; the next 8 wait in their instance for its gate."""
    futures = await b.caller.publish(record, lane=Lane.BATCH)
    for _ in range(4):
        await b.instances[-1].started()
    return futures


async def test_the_same_record_twice_is_run_once() -> None:
    async with bench() as b:
        await b.serve(BATCHING, kind=Halting)
        record = b.caller.rows(25)
        await half_done(b, record)
        await b.caller.publish(record, record, lane=Lane.BATCH)
        await until(lambda: b.serving[0].batch_lane.in_flight == 3)
        b.instances[0].gate.set()
        await until(lambda: b.serving[0].batch_intake._tracker.in_flight == 0)
        assert rows_run(b) == list(range(25))
        assert b.caller.counts[record.id] == 1
        assert b.serving[0].statistics.already_answered == 2
        await everything_done(b)


async def test_a_cancelled_record_is_answered_once_and_runs_no_further() -> None:
    async with bench() as b:
        await b.serve(BATCHING, kind=Halting)
        record, waiting = b.caller.rows(28), b.caller.rows(10)
        futures = await half_done(b, record)
        futures += await b.caller.publish(waiting, lane=Lane.BATCH)
        await until(lambda: b.serving[0].batch_lane.in_flight == 2)
        await b.caller.cancel(waiting, record, lane=Lane.BATCH)
        b.instances[0].gate.set()
        replies = await asyncio.gather(*futures)
        assert [reply.failure.code for reply in replies if reply.failure] == [Code.CANCELLED] * 2
        assert len(rows_run(b)) < 28
        assert b.serving[0].statistics.cancellations == 2
        await everything_done(b)


async def test_a_deadline_ends_a_record_between_its_rows() -> None:
    async with bench() as b:
        await b.serve(BATCHING, kind=Halting)
        record = b.caller.rows(5000, deadline=b.clock() + 0.3)
        futures = await half_done(b, record)
        await asyncio.sleep(0.3)
        b.instances[0].gate.set()
        (reply,) = await asyncio.gather(*futures)
        assert reply.failure is not None
        assert reply.failure.code is Code.DEADLINE_EXCEEDED
        await everything_done(b)


async def test_a_record_that_waits_expires_without_an_event() -> None:
    async with bench() as b:
        await b.serve(BATCHING)
        b.instances[0].gate.clear()
        first = await b.caller.publish(b.caller.rows(2), lane=Lane.BATCH)
        await b.instances[0].started()
        futures = await b.caller.publish(b.caller.rows(3), b.caller.rows(3, deadline=b.clock() + 0.05), lane=Lane.BATCH)
        reply = await futures[1]
        assert reply.failure is not None
        assert reply.failure.code is Code.DEADLINE_EXCEEDED
        b.instances[0].gate.set()
        await asyncio.gather(*first, futures[0])
        await everything_done(b)


async def test_a_crash_in_mid_record_runs_it_again_and_answers_once() -> None:
    async with bench() as b:
        dying = await b.serve(BATCHING, worker="w1", kind=Halting)
        record = b.caller.rows(200)
        futures = await half_done(b, record)
        dying.abandon()
        await b.bus.evict(dying.batch_intake.topic, ["w1"])
        b.serving.remove(dying)
        await b.serve(BATCHING, worker="w2")
        (reply,) = await asyncio.gather(*futures)
        assert values([reply]) == [list(range(200))]
        assert b.caller.counts[record.id] == 1
        await everything_done(b)


async def test_a_partition_that_moves_in_mid_record_moves_the_record() -> None:
    async with bench() as b:
        first = await b.serve(BATCHING, worker="w1", partitions=2, kind=Halting)
        record, later = b.caller.rows(5000), b.caller.rows(10)
        futures = await half_done(b, record)
        futures += await b.caller.publish(later, lane=Lane.BATCH)
        assert first.batch_intake.owned == {0, 1}
        second = await b.serve(BATCHING, worker="w2", partitions=2)
        await until(lambda: len(first.batch_intake.owned) == 1 and len(second.batch_intake.owned) == 1)
        for instance in b.instances:
            instance.gate.set()
        replies = await asyncio.gather(*futures)
        assert values(replies) == [list(range(5000)), list(range(10))]
        await everything_done(b)
        assert b.caller.counts[record.id] == b.caller.counts[later.id] == 1


async def test_draining_finishes_what_is_here_and_leaves_the_rest_in_the_log() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        requests = [b.caller.rows(8) for _ in range(200)]
        b.instances[0].gate.clear()
        await b.caller.publish(*requests, lane=Lane.BATCH)
        await b.instances[0].started()
        finishing = asyncio.ensure_future(serving.finish(10.0))
        await asyncio.sleep(0)
        b.instances[0].gate.set()
        assert await finishing
        assert 0 < len(b.caller.answers) < 200
        await everything_done(b)


async def test_an_unloaded_model_serves_or_refuses_its_backlog() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING, kind=Halting)
        record = b.caller.rows(5000)
        futures = await half_done(b, record)
        emptying = asyncio.ensure_future(serving.empty(0.3))
        await asyncio.sleep(0.4)
        futures += await b.caller.publish(b.caller.rows(5), lane=Lane.BATCH)
        b.instances[0].gate.set()
        await emptying
        replies = await asyncio.gather(*futures)
        assert replies[0].failure is None, "it was here already"
        assert replies[1].failure is not None
        assert "has been unloaded" in replies[1].failure.message
        await everything_done(b)


# --- the topic and the store --------------------------------------------------------------------------------------------------


async def test_the_batch_topic_is_a_group_of_its_own() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        batches = NAMES.batch_topic("m", "1")
        assert serving.members() == {serving.topic: serving.intake.member, batches: serving.batch_intake.member}
        load = await serving.load(None)  # type: ignore[arg-type]
        assert (load.batch_partitions, load.batch_lag, load.batch_queued_rows) == ((0,), 0, 0)


async def test_a_store_that_fills_stops_the_intake_of_batches_only() -> None:
    async with bench() as b:
        serving = await b.serve(BATCHING)
        fill = FULL

        async def filled() -> float:
            return fill

        b.store.fill = filled  # type: ignore[attr-defined]
        b.instances[0].gate.clear()
        await b.caller.publish(*[b.caller.rows(8) for _ in range(50)], lane=Lane.BATCH)
        await b.instances[0].started()
        await until(lambda: serving.batch_lane.slowed)
        assert "70% full" in serving.batch_lane.slowed
        assert serving.batch_lane.room() == 0
        load = await serving.load(None)  # type: ignore[arg-type]
        assert (load.unanswered, load.unread, load.batch_running_rows) == (0, 0, serving.batch_lane.out_rows)
        assert load.batch_unanswered == serving.batch_lane.in_flight
        assert load.batch_unanswered + load.batch_unread == load.batch_lag == 50
        assert load.batch_oldest_age >= 0.0
        b.instances[0].gate.set()
        await until(lambda: serving.batch_lane.in_flight == 0)
        assert len(b.caller.answers) < 50
        assert values(await b.caller.ask(b.caller.request(7))) == [[7]]
        fill = 0.1
        await until(lambda: len(b.caller.answers) == 51)
        assert serving.batch_lane.slowed == ""
        await everything_done(b)
