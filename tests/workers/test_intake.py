import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from protocol.codec import encode_request
from protocol.errors import Code
from protocol.frames import MAX_RECORD
from protocol.model_stats import FailureReason
from protocol.naming import ref
from protocol.ports import Assigned, Claim, OutRecord, Published, Terminal
from protocol.tensors import from_array
from tests.workers.fleet import CHANNEL, IDENTITY, NAMES, until, values
from tests.workers.serving import Bench, bench

TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")


async def publish_raw(b: Bench, value: bytes, *headers: tuple[str, bytes], partition: int = 0) -> None:
    await b.caller.transport.bus.publish(TOPIC, [OutRecord(value, headers)], partition)


async def committed(b: Bench) -> dict[int, int]:
    return b.broker.topics[TOPIC].groups[TOPIC].committed


async def test_what_is_answered_is_committed() -> None:
    async with bench() as b:
        serving = await b.serve(partitions=2)
        await b.caller.ask(*[b.caller.request(n) for n in range(3)], partition=0)
        await b.caller.ask(b.caller.request(3), partition=1)
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed == {0: 3, 1: 1})
        assert await serving.intake.lag() == 0


async def test_a_commit_never_passes_what_has_no_answer() -> None:
    async with bench() as b:
        serving = await b.serve(instances=2)
        first = b.instances[0]
        first.gate.clear()
        slow = await b.caller.publish(b.caller.request(0))
        await first.started()
        await asyncio.gather(*await b.caller.publish(b.caller.request(1)))
        await until(lambda: serving.intake._tracker.in_flight == 1)
        await serving.intake._commits.flush()
        assert (await committed(b)).get(0, 0) == 0
        first.gate.set()
        await asyncio.gather(*slow)
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed == {0: 2})


async def test_a_record_that_nobody_can_read_goes_to_the_dead_letters_byte_for_byte() -> None:
    async with bench() as b:
        serving = await b.serve()
        await publish_raw(b, b"\xc1 not msgpack", ("x", b"1"))
        await until(lambda: serving.statistics.dead_letters["undecodable"] == 1)
        record = await b.bus.read_record(DEAD, 0, 0)
        assert record is not None
        assert record.value == b"\xc1 not msgpack"
        headers = dict(record.headers)
        assert headers["x"] == b"1"
        assert (headers["dead-topic"], headers["dead-partition"], headers["dead-offset"]) == (
            TOPIC.encode(),
            b"0",
            b"0",
        )
        assert headers["dead-reason"] == b"undecodable"
        assert b"not a msgpack value" in headers["dead-error"]
        await until(lambda: serving.intake._tracker.in_flight == 0)
        assert values(await b.caller.ask(b.caller.request(1))) == [[1]]


async def test_a_record_that_only_others_can_write_leaves_a_letter_without_it_and_holds_up_nothing() -> None:
    async with bench() as b:
        serving = await b.serve()
        log = b.broker.topic(TOPIC)
        await b.broker.append(log, 0, [OutRecord(bytes(MAX_RECORD + 1), [("x", b"1")], b"k"), OutRecord(b"\xc1", [])])
        await until(lambda: serving.statistics.dead_letters["undecodable"] == 2)
        large, small = [await b.bus.read_record(DEAD, 0, offset) for offset in (0, 1)]
        assert large is not None
        assert small is not None
        assert (large.value, large.key, small.value) == (b"", None, b"\xc1")
        told = dict(large.headers)
        assert (told["dead-reason"], told["dead-offset"]) == (b"undecodable", b"0")
        assert told["dead-left-out"] == b"%d bytes of value, key and headers" % (MAX_RECORD + 4)
        assert "dead-left-out" not in dict(small.headers)
        assert values(await b.caller.ask(b.caller.request(1))) == [[1]]


async def test_whoever_sent_an_unreadable_record_is_told_where_it_says_who_it_is() -> None:
    async with bench() as b:
        serving = await b.serve()
        waiting = b.caller.request(0, id="mine")
        value, headers = encode_request(waiting)
        future = asyncio.get_running_loop().create_future()
        b.caller._waiting["mine"] = future
        await publish_raw(b, value[:-3], *headers)
        async with asyncio.timeout(10):
            reply = await future
        assert reply.failure is not None
        assert reply.failure.code is Code.INVALID_ARGUMENT
        assert "truncated" in reply.failure.message
        assert serving.statistics.dead_letters["undecodable"] == 1
        await until(lambda: serving.intake._tracker.in_flight == 0)


async def test_an_unknown_schema_goes_to_the_dead_letters() -> None:
    async with bench() as b:
        serving = await b.serve()
        value, _ = encode_request(b.caller.request(1))
        await publish_raw(b, value, ("schema", b"penstock/9"))
        await until(lambda: serving.statistics.dead_letters["undecodable"] == 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 2, 2), "unexpected shape for input 'X'"), ((9, 2), "inference request batch-size must be <= 8")],
)
async def test_a_request_that_does_not_fit_the_model_is_told_why(shape: tuple[int, ...], message: str) -> None:
    async with bench() as b:
        serving = await b.serve()
        request = b.caller.request(inputs=(from_array("X", np.zeros(shape, np.float32)),))
        (reply,) = await b.caller.ask(request)
        assert reply.failure is not None
        assert reply.failure.code is Code.INVALID_ARGUMENT
        assert message in reply.failure.message
        assert b.instances[0].batches == []
        assert serving.statistics.failures[FailureReason.OTHER] == 1


async def test_a_foreign_producer_gets_an_id_from_where_its_record_is() -> None:
    async with bench() as b:
        await b.serve()
        body = b'{"inputs":[{"name":"X","shape":[1,1],"datatype":"FP32","data":[7]}]}'
        await b.caller.transport.bus.publish(
            TOPIC, [OutRecord(body, [("content-type", b"application/json")], timestamp=1700000000.25)], 0
        )
        name = ref("-", f"{TOPIC}-0-0-1700000000250")
        await until(lambda: b.instances[0].batches == [[7]])
        await until(lambda: b.server.fences.look(name, 0.0) is not None)
        (state,) = await b.store.look([name])
        assert state is not None
        assert state.state == "done"
        assert state.payload


async def test_only_channels_of_gateways_are_woken() -> None:
    async with bench() as b:
        await b.serve()
        heard: list[object] = []
        await b.caller.transport.results.listen("test:workers", heard.append)
        b.caller.encodes = True
        request = b.caller.request(1, reply_to="test:workers")
        await b.caller.publish(request)
        await until(lambda: b.server.fences.look(request.id, 0.0) is not None)
        assert heard == []


async def test_cancelled_before_it_came_it_is_not_run() -> None:
    async with bench() as b:
        serving = await b.serve()
        request = b.caller.request(1, accepted=1.0)
        await b.caller.cancel(request)
        await until(lambda: len(serving.intake._cancellations) == 1)
        (reply,) = await b.caller.ask(request)
        assert reply.failure is not None
        assert reply.failure.code is Code.CANCELLED
        assert b.instances[0].batches == []


async def test_a_run_that_was_accepted_after_the_cancelled_one_runs() -> None:
    async with bench() as b:
        serving = await b.serve()
        request = b.caller.request(1, accepted=1.0)
        await b.caller.cancel(request)
        await until(lambda: len(serving.intake._cancellations) == 1)
        assert values(await b.caller.ask(dataclasses.replace(request, accepted=1.000001))) == [[1]]


async def test_what_was_cancelled_and_claimed_anew_does_not_run_when_its_record_comes_again() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        results = b.caller.transport.results
        claim = Claim("r1", "f", "", 5.0, 60.0, "m", "1", accepted=1.0)
        await results.claim(claim)
        request = b.caller.request(1, claimed=True, accepted=1.0)
        futures = await b.caller.publish(request)
        await until(lambda: serving.runner.in_flight == 2)
        await b.caller.cancel(request)
        await asyncio.gather(*futures)
        await results.claim(dataclasses.replace(claim, accepted=2.0))
        await b.caller.publish(request)
        await until(lambda: serving.statistics.cancellations == 2)
        b.instances[0].gate.set()
        again = await b.caller.ask(dataclasses.replace(request, accepted=2.0))
        await asyncio.gather(*first)
        assert values(again) == [[1]]
        assert b.instances[0].batches == [[0], [1]]


async def test_what_was_answered_before_a_crash_is_not_run_again() -> None:
    async with bench() as b:
        first = await b.serve(worker="w1")
        await b.caller.ask(b.caller.request(1), b.caller.request(2))
        first.abandon()
        assert await committed(b) == {}
        futures = await b.caller.publish(b.caller.request(3))
        await b.bus.evict(TOPIC, ["w1"])
        second = await b.serve(worker="w2")
        assert values(await asyncio.gather(*futures)) == [[3]]
        assert b.instances[1].batches == [[3]]
        assert second.statistics.already_answered == 2
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed == {0: 3})


async def test_what_was_begun_before_a_crash_is_run_again_as_another_attempt() -> None:
    async with bench() as b:
        await b.serve(worker="w1")
        (held,) = b.instances
        held.gate.clear()
        request = b.caller.request(1, claimed=True)
        futures = await b.caller.publish(request)
        await held.started()
        b.serving[0].abandon()
        await b.bus.evict(TOPIC, ["w1"])
        second = await b.serve(worker="w2")
        (reply,) = await asyncio.gather(*futures)
        assert (reply.timing.attempt, reply.timing.worker) == (2, "w2")
        assert second.statistics.redeliveries == 1
        held.gate.set()


async def test_the_answer_of_a_zombie_is_refused() -> None:
    async with bench() as b:
        await b.serve(worker="w1")
        (held,) = b.instances
        held.gate.clear()
        request = b.caller.request(1)
        futures = await b.caller.publish(request)
        await held.started()
        await b.bus.evict(TOPIC, ["w1"])
        await b.serve(worker="w2")
        await until(lambda: 0 in b.serving[1].intake.owned)
        (reply,) = await asyncio.gather(*futures)
        assert reply.timing.worker == "w2"
        held.gate.set()
        await until(lambda: b.serving[0].runner.in_flight == 0)
        assert b.caller.counts == {request.id: 1}


async def test_a_rebalance_in_mid_batch_lets_it_finish_and_moves_what_waits() -> None:
    async with bench() as b:
        await b.serve(worker="w1", partitions=2)
        (held,) = b.instances
        held.gate.clear()
        running = await b.caller.publish(b.caller.request(0), partition=0)
        await held.started()
        waiting = await b.caller.publish(*[b.caller.request(n) for n in (1, 2)], partition=0)
        waiting += await b.caller.publish(*[b.caller.request(n) for n in (3, 4)], partition=1)
        await until(lambda: b.serving[0].runner.in_flight == 5)
        await b.serve(worker="w2", partitions=2)
        moved = b.serving[1].intake.owned
        assert len(moved) == 1
        expected = {0: [0, 1, 2], 1: [3, 4]}[min(moved)]
        await until(lambda: sum(map(len, b.instances[1].batches)) == len(expected))
        held.gate.set()
        await asyncio.gather(*running, *waiting)
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed == {0: 3, 1: 2})
        kept = [row for batch in held.batches for row in batch]
        assert sorted(kept) == sorted({0, 1, 2, 3, 4} - set(expected) | {0})
        assert set(b.caller.counts.values()) == {1}


async def test_a_partition_that_comes_back_at_once_goes_on_where_it_was() -> None:
    async with bench() as b:
        serving = await b.serve(partitions=1)
        (held,) = b.instances
        held.gate.clear()
        futures = await b.caller.publish(b.caller.request(0))
        await held.started()
        futures += await b.caller.publish(b.caller.request(1))
        await until(lambda: serving.runner.in_flight == 2)
        await b.bus.evict(TOPIC, ["w"])  # it joins again with its next fetch
        await until(lambda: serving.intake.joined.is_set() and serving.intake.member.endswith("-2"))
        held.gate.set()
        await asyncio.gather(*futures)
        await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed == {0: 2})
        assert held.batches == [[0], [1]]


async def test_records_deleted_unread_are_a_loss_that_is_told() -> None:
    async with bench() as b:
        serving = await b.serve()
        serving.intake.assigned(9, [Assigned(0, committed=3, end=10, start=8)])
        await until(lambda: serving.statistics.dead_letters["lost"] == 1)
        assert serving.statistics.lost == 5
        record = await b.bus.read_record(DEAD, 0, 0)
        assert record is not None
        assert dict(record.headers)["dead-offset"] == b"3"
        assert dict(record.headers)["dead-reason"] == b"lost"
        assert b"5 records" in dict(record.headers)["dead-error"]


async def test_no_commit_passes_what_was_deleted_unread_before_the_loss_is_told() -> None:
    async with bench() as b:
        serving = await b.serve()
        told, asked = asyncio.Event(), list[str]()
        publish = b.bus.publish

        async def slowly(topic: str, *arguments: Any) -> Published:
            asked.append(topic)
            await told.wait()
            return await publish(topic, *arguments)

        b.bus.publish = slowly  # type: ignore[assignment,method-assign]
        serving.intake.assigned(9, [Assigned(0, committed=0, end=0, start=5)])
        await until(lambda: asked)
        assert serving.intake._tracker.lowest_incomplete(0) == 0
        told.set()
        await until(lambda: serving.intake._tracker.lowest_incomplete(0) == 5)


async def test_a_full_worker_keeps_its_membership() -> None:
    from protocol.transport.embedded.broker import MemoryBroker

    async with bench(MemoryBroker(session_timeout=2.5)) as b:
        serving = await b.serve(IDENTITY.replace("max_batch_size: 8", "max_batch_size: 1"), worker="w1", partitions=2)
        (held,) = b.instances
        held.gate.clear()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(20)], partition=0)
        await until(lambda: serving.runner.room() == 0)
        await b.serve(worker="w2", partitions=2)
        member = b.broker.topics[TOPIC].groups[TOPIC].members["w1"]
        seen = member.seen
        await until(lambda: member.seen > seen + 1.5)
        assert serving.intake.owned == {0}
        held.gate.set()
        await asyncio.gather(*futures)


async def test_a_refused_topic_is_answered_to_its_end() -> None:
    async with bench() as b:
        serving = await b.serve()
        (held,) = b.instances
        held.gate.clear()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(60)])
        await held.started()
        emptied = asyncio.ensure_future(serving.empty(0.2))
        replies = await asyncio.gather(*futures[40:])
        assert all(reply.failure is not None and reply.failure.code is Code.UNAVAILABLE for reply in replies)
        assert "has been unloaded" in replies[0].failure.message  # type: ignore[union-attr]
        held.gate.set()
        await asyncio.gather(*futures)
        await emptied
        assert await serving.intake.lag() == 0


async def test_answers_find_the_store_again_after_it_was_away_in_a_look_up() -> None:
    async with bench() as b:
        first = await b.serve(worker="w1")
        await b.caller.ask(b.caller.request(1))
        first.abandon()
        await b.bus.evict(TOPIC, ["w1"])
        b.store.down = True
        second = await b.serve(worker="w2")
        await until(lambda: "look" in b.store.refused)
        futures = await b.caller.publish(b.caller.request(2))
        b.store.down = False
        assert values(await asyncio.gather(*futures)) == [[2]]
        assert second.statistics.already_answered == 1


async def test_large_json_is_parsed_beside_the_event_loop() -> None:
    async with bench() as b:
        await b.serve()
        numbers = ",".join("1.5" for _ in range(300_000))
        body = f'{{"inputs":[{{"name":"X","shape":[1,300000],"datatype":"FP32","data":[{numbers}]}}]}}'.encode()
        headers = [("content-type", b"application/json"), ("id", b"big"), ("reply-to", CHANNEL.encode())]
        future = asyncio.get_running_loop().create_future()
        b.caller._waiting["big"] = future
        await publish_raw(b, body, *headers)
        async with asyncio.timeout(20):
            reply = await future
        assert reply.outputs[0].shape == (1, 300_000)


async def test_an_answer_that_is_already_there_wins() -> None:
    async with bench() as b:
        await b.serve()
        request = b.caller.request(1, reply_to="")
        (held,) = b.instances
        held.gate.clear()
        await b.caller.publish(request)
        await held.started()
        await b.store.finish([Terminal(request.id, b"first", "", 300.0)])
        held.gate.set()
        await until(lambda: b.serving[0].runner.in_flight == 0)
        (state,) = await b.store.look([request.id])
        assert state is not None
        assert state.payload == b"first"
