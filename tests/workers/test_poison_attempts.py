"""Requests that were running when workers died."""

import asyncio

from protocol.dead_letter import MAX_ATTEMPTS
from tests.workers.fleet import until, values
from tests.workers.fragile import TOPIC, all_done, dead_letters, failed, fragile
from tests.workers.serving import Bench, bench


async def begin(b: Bench, name: str, times: int) -> None:
    """Earlier deliveries that never finished."""
    for number in range(times):
        await b.store.start([name], f"gone-{number}", 300.0)


async def test_what_was_begun_before_runs_alone_on_an_instance_that_would_take_the_worker_with_it() -> None:
    async with bench() as b:
        instance = await fragile(b, isolated=False)
        instance.gate.clear()
        first = await b.caller.publish(b.caller.request(-1))
        await instance.started()
        requests = [b.caller.request(n, claimed=True) for n in range(6)]
        await begin(b, requests[2].id, 1)
        await begin(b, requests[4].id, MAX_ATTEMPTS - 1)
        futures = await b.caller.publish(*requests)
        await until(lambda: b.serving[-1].runner.in_flight == 7)
        instance.gate.set()
        replies = (await asyncio.gather(*first, *futures))[1:]
        assert values(replies) == [[n] for n in range(6)]
        assert instance.batches == [[-1], [0, 1, 3, 5], [2], [4]]
        assert [reply.timing.attempt for reply in replies] == [1, 1, 2, 1, MAX_ATTEMPTS, 1]
        await all_done(b)


async def test_whoever_waits_behind_a_crasher_does_not_count_as_begun() -> None:
    async with bench() as b:
        await b.bus.ensure_topic(TOPIC, 1)
        requests = [b.caller.request(n) for n in range(4)]
        futures = await b.caller.publish(*requests)
        for request in requests[1:3]:
            await begin(b, request.id, 1)
        instance = await fragile(b, isolated=False, deadly=frozenset({1.0}))
        async with asyncio.timeout(10):
            replies = await asyncio.gather(*futures)
        assert instance.batches[:3] == [[0, 3], [1], [2]]
        assert [reply.timing.attempt for reply in replies] == [1, 2, 2, 1]
        assert failed(replies) == [1]
        await all_done(b)


async def test_what_was_begun_too_often_is_a_dead_letter_without_another_run() -> None:
    async with bench() as b:
        instance = await fragile(b, isolated=False)
        request = b.caller.request(1, claimed=True)
        await begin(b, request.id, MAX_ATTEMPTS)
        replies = await b.caller.ask(request, b.caller.request(2))
        assert failed(replies) == [0]
        assert replies[0].failure is not None
        assert "begun 3 times" in replies[0].failure.message
        assert all(1 not in batch for batch in instance.batches)
        (letter,) = await dead_letters(b)
        headers = dict(letter.headers)
        assert (headers["dead-reason"], headers["dead-attempts"]) == (b"attempts", b"3")
        assert "dead-signal" not in headers
        await all_done(b)


async def test_workers_that_died_blame_nobody_whose_instance_is_a_process_of_its_own() -> None:
    async with bench() as b:
        await fragile(b)
        request = b.caller.request(1, claimed=True)
        await begin(b, request.id, 9)
        assert failed(await b.caller.ask(request, b.caller.request(2))) == []
        assert await dead_letters(b) == []


async def test_a_death_counts_those_of_earlier_deliveries() -> None:
    async with bench() as b:
        instance = await fragile(b, deadly=frozenset({1.0}))
        request = b.caller.request(1, claimed=True)
        await begin(b, request.id, MAX_ATTEMPTS - 1)
        assert failed(await b.caller.ask(request)) == [0]
        assert instance.batches == [[1]]
