"""One bad request harms no other: batches that crash, hang, fail, hold NaN or do not fit into memory, on instances in memory."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.codec import encode_request, record_bytes
from protocol.dead_letter import MAX_ATTEMPTS
from protocol.errors import Code
from tests.workers.fleet import IDENTITY, until, values
from tests.workers.fragile import ORDERED, TOPIC, WIDE, all_done, dead_letters, failed, fragile, together
from tests.workers.serving import bench


async def test_the_batch_of_a_crasher_is_answered_and_only_it_is_a_dead_letter() -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset({20.0}))
        replies = await together(b, *range(32))
        assert failed(replies) == [20]
        assert values(replies[:20]) == [[number] for number in range(20)]
        failure = replies[20].failure
        assert failure is not None
        assert failure.code is Code.MODEL_FAILED
        assert "died with SIGSEGV on this request, alone and in 3 runs" in failure.message
        deaths = [batch for batch in instance.batches if 20 in batch]
        assert len(deaths) <= 5 + 1 + MAX_ATTEMPTS
        assert deaths[-1] == [20]
        await all_done(b)
        statistics = b.serving[-1].statistics
        assert (statistics.deaths, statistics.dead_letters["poison"]) == (len(deaths), 1)
        assert values(await b.caller.ask(b.caller.request(5))) == [[5]]


async def test_a_dead_letter_is_the_record_byte_for_byte_and_says_why() -> None:
    async with bench() as b:
        await fragile(b, deadly=frozenset({1.0}))
        b.instances[-1].gate.clear()
        first = await b.caller.publish(b.caller.request(0))
        await b.instances[-1].started()
        requests = [b.caller.request(n, id=f"mine,{n}" if n == 2 else f"mine-{n}") for n in range(1, 4)]
        futures = await b.caller.publish(*requests)
        await until(lambda: b.serving[-1].runner.in_flight == 4)
        b.instances[-1].gate.set()
        await asyncio.gather(*first, *futures)
        (letter,) = await dead_letters(b)
        value, headers = encode_request(requests[0])
        original = await b.bus.read_record(TOPIC, 0, 1)
        assert original is not None
        assert letter.value == value == record_bytes(original)[0]
        assert letter.key == original.key
        text = b"instance 'm_0_0' died, says the test"
        assert list(letter.headers) == [
            *headers,
            ("dead-reason", b"poison"),
            ("dead-error", text),
            ("dead-signal", b"SIGSEGV"),
            ("dead-attempts", b"3"),
            ("dead-worker", b"w"),
            ("dead-model-digest", b"digest"),
            ("dead-batch", b"mine%2C2,mine-3"),
            ("dead-topic", TOPIC.encode()),
            ("dead-partition", b"0"),
            ("dead-offset", b"1"),
            ("dead-timestamp", b"%d" % round(original.timestamp * 1000)),
            ("__connect.errors.topic", TOPIC.encode()),
            ("__connect.errors.partition", b"0"),
            ("__connect.errors.offset", b"1"),
            ("__connect.errors.stage", b"TASK_PUT"),
            ("__connect.errors.exception.class.name", b"workers.execution.InstanceDied"),
            ("__connect.errors.exception.message", text),
        ]


async def test_two_crashers_in_one_batch_are_both_found() -> None:
    async with bench() as b:
        await fragile(b, deadly=frozenset({3.0, 29.0}))
        replies = await together(b, *range(32))
        assert failed(replies) == [3, 29]
        assert len(await dead_letters(b)) == 2
        await all_done(b)


async def test_a_batch_that_hung_is_judged_like_one_that_crashed() -> None:
    async with bench() as b:
        await fragile(b, deadly=frozenset({3.0}), hung=True)
        replies = await together(b, *range(5))
        assert failed(replies) == [3]
        (letter,) = await dead_letters(b)
        assert dict(letter.headers)["dead-reason"] == b"hung"
        assert b.serving[-1].statistics.dead_letters["hung"] == 1


async def test_a_crash_that_does_not_come_again_blames_nobody() -> None:
    async with bench() as b:
        await fragile(b, deadly=frozenset({2.0}), lives=1)
        assert failed(await together(b, *range(6))) == []
        assert b.serving[-1].statistics.deaths == 1
        assert await dead_letters(b) == []
        await all_done(b)


async def test_one_bad_request_fails_alone_and_is_no_dead_letter() -> None:
    async with bench() as b:
        instance = await fragile(b, bad=frozenset({2.0}), isolated=False)
        replies = await together(b, *range(8))
        assert failed(replies) == [2]
        failure = replies[2].failure
        assert failure is not None
        assert "ValueError: these are bad: [2.0]" in failure.message
        assert await dead_letters(b) == []
        assert len(instance.batches) <= 2 + 2 * 3 + 1
        await all_done(b)


async def test_numbers_that_are_none_fail_alone_where_the_model_asks_for_it() -> None:
    asked = WIDE + 'parameters { key: "refuse_nan" value { string_value: "true" } }'
    for config, expected in ((asked, [4]), (WIDE, [])):
        async with bench() as b:
            await fragile(b, config, nan=frozenset({4.0}), isolated=False)
            assert failed(await together(b, *range(8))) == expected


async def test_out_of_memory_blames_nobody_and_makes_the_batches_of_that_shape_smaller() -> None:
    async with bench() as b:
        instance = await fragile(b, fits=7, isolated=False)
        assert failed(await together(b, *range(32))) == []
        assert [len(batch) for batch in instance.batches] == [1, 32, 16, 8, 4, 4, 8, 4, 4, 16, 8, 4, 4, 8, 4, 4]
        instance.batches.clear()
        assert failed(await together(b, *range(20))) == []
        assert [len(batch) for batch in instance.batches] == [1, 4, 4, 4, 4, 4]
        await all_done(b)


async def test_answers_of_a_batch_that_failed_keep_their_order_where_the_model_says_so() -> None:
    async with bench() as b:
        await fragile(b, ORDERED, bad=frozenset({1.0}))  # the second half runs before the first is parted
        b.instances[-1].gate.clear()
        futures = await b.caller.publish(b.caller.request(-1))
        await b.instances[-1].started()
        requests = [b.caller.request(n) for n in range(10)]
        futures += await b.caller.publish(*requests)
        await until(lambda: b.serving[-1].runner.in_flight == 11)
        b.instances[-1].gate.set()
        assert failed(await asyncio.gather(*futures)) == [2]
        await all_done(b)
        answered = [name for name in b.caller.answers if name in {request.id for request in requests}]
        innocent = [request.id for request in requests if request is not requests[1]]
        assert [name for name in answered if name in innocent] == innocent


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_cancellation_or_a_deadline_between_two_parts_is_seen_before_the_next_one_runs(how: str) -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset({0.0}), holds=True)
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(-1))
        await instance.started()
        deadline = b.clock() + 0.3
        requests = [b.caller.request(n, deadline=deadline if how == "late" and n == 3 else None) for n in range(4)]
        futures = await b.caller.publish(*requests)
        await until(lambda: b.serving[-1].runner.in_flight == 5)
        instance.gate.set()
        await instance.started()
        await instance.started()  # the first part
        assert len(instance.batches) == 3
        assert 3 not in instance.batches[2]
        if how == "cancelled":
            await b.caller.cancel(requests[3])
            await until(lambda: b.serving[-1].runner._entries[requests[3].id].cancelled)
        else:
            await until(lambda: b.clock() > deadline)
        instance.gate.set()
        replies = (await asyncio.gather(*first, *futures))[1:]
        codes = [reply.failure.code if reply.failure else None for reply in replies]
        assert codes == [
            Code.MODEL_FAILED,
            None,
            None,
            Code.CANCELLED if how == "cancelled" else Code.DEADLINE_EXCEEDED,
        ]
        assert all(3 not in batch for batch in instance.batches[2:])
        await all_done(b)


async def test_while_parts_run_the_instance_takes_no_other_batch() -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset({3.0}), holds=True)
        instance.gate.clear()
        futures = await b.caller.publish(b.caller.request(-1))
        await instance.started()
        futures += await b.caller.publish(*[b.caller.request(n) for n in range(8)])
        await until(lambda: b.serving[-1].runner.in_flight == 9)
        instance.gate.set()
        await instance.started()
        await instance.started()  # the first part, which the gate holds
        futures += await b.caller.publish(*[b.caller.request(n) for n in range(100, 108)])
        await until(lambda: b.serving[-1].runner.queued_requests == 8)
        instance.gate.set()
        assert failed(await asyncio.gather(*futures)) == [4]
        others = [index for index, batch in enumerate(instance.batches) if max(batch) >= 100]
        assert others == [len(instance.batches) - 1]
        await all_done(b)


async def test_a_model_that_dies_of_everything_buries_few_and_says_so() -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset(float(n) for n in range(1000)))
        replies = await together(b, *range(32))
        assert failed(replies) == list(range(32))
        given_up = len(await dead_letters(b))
        assert 0 < given_up < 16
        assert "die on nearly every request" in b.serving[-1].runner.problem()
        ran = len(instance.batches)
        replies = await asyncio.gather(*await b.caller.publish(*[b.caller.request(n) for n in range(100, 104)]))
        assert failed(replies) == [0, 1, 2, 3]
        assert replies[0].failure is not None
        assert "so the model is at fault, not this request" in replies[0].failure.message
        assert len(instance.batches) <= ran + 4
        assert len(await dead_letters(b)) == given_up
        await all_done(b)


async def test_a_partition_is_not_committed_past_what_is_being_found_out() -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset({0.0}))
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(-1))
        await instance.started()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(4)])
        await until(lambda: b.serving[-1].runner.in_flight == 5)
        instance.gate.set()
        await asyncio.gather(*futures[1:])
        committed = b.broker.topics[TOPIC].groups[TOPIC].committed
        await b.serving[-1].intake._commits.flush()
        if not futures[0].done():
            assert committed.get(0, 0) <= 1
        await asyncio.gather(*first, *futures)
        await all_done(b)
        assert committed == {0: 5}


@given(
    # With the one that holds the instance 24: three batches of eight are taken in at once, and `together` waits for all.
    rows=st.lists(st.sampled_from(["good", "good", "good", "deadly", "bad", "nan"]), min_size=1, max_size=23),
    config=st.sampled_from([WIDE, ORDERED, IDENTITY]),
    fits=st.sampled_from([3, 10_000]),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_in_a_batch_the_good_succeed_and_only_the_others_fail(
    rows: list[str], config: str, fits: int
) -> None:
    async def play() -> None:
        async with bench() as b:
            asked = config + 'parameters { key: "refuse_nan" value { string_value: "true" } }'
            kinds = {kind: frozenset(float(n) for n, own in enumerate(rows) if own == kind) for kind in set(rows)}
            instance = await fragile(b, asked, fits=fits)
            for kind in kinds.keys() - {"good"}:
                setattr(instance, kind, kinds[kind])
            await b.caller.ask(*[b.caller.request(1000 + n) for n in range(100)])  # a model that is known to work
            replies = await together(b, *range(len(rows)))
            assert failed(replies) == [n for n, kind in enumerate(rows) if kind != "good"]
            for number, kind in enumerate(rows):
                if kind == "good":
                    assert values([replies[number]]) == [[number]]
            await until(lambda: b.serving[-1].runner.in_flight == 0)
            assert len(await dead_letters(b)) == rows.count("deadly")
            assert set(b.caller.counts.values()) == {1}
            await all_done(b)

    asyncio.run(play())
