"""Each row of the table in `protocol.model_stats`: what the answers of a worker add to the totals that the store keeps."""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import pytest

from protocol.answer_times import BOUNDS, histogram, quantile
from protocol.codec import encode_reply
from protocol.errors import ModelFailed
from protocol.messages import InferReply, Lane
from protocol.model_stats import document, failures, releases
from protocol.ports import Terminal
from protocol.totals import Counts
from tests.workers.fleet import BOUNDED, DELAYED, IDENTITY, IMPATIENT, ORDERED, until
from tests.workers.fragile import fragile, together
from tests.workers.serving import Bench, bench
from tests.workers.test_answer_topics import JSON, send, sent
from tests.workers.test_answer_topics import answers as on_topic
from workers.serving.serving import Serving

KEY = ("m", "1")


def totals(b: Bench) -> dict[str, int]:
    return b.server.totals.read([KEY])[0]


def shown(b: Bench) -> tuple[int, int, int, int]:
    """Successes, failures, rows and executions."""
    found = document(totals(b))
    stats = found["inference_stats"]
    return stats["success"]["count"], stats["fail"]["count"], found["inference_count"], found["execution_count"]


def failed(b: Bench) -> dict[str, int]:
    """Failures by reason, without zeros."""
    return {reason.value: count for reason, count in failures(totals(b)).items() if count}


def agree(b: Bench, *servings: Serving) -> None:
    """Where nothing was lost, doubled or refused, the totals are the sum of the workers' own counts."""
    total: dict[str, Any] = dict(document(totals(b)))
    documents = [serving.statistics.to_json() for serving in servings]
    for name in ("inference_count", "execution_count"):
        assert total[name] == sum(each[name] for each in documents)  # type: ignore[literal-required]
    for name, duration in total["inference_stats"].items():
        parts = [each["inference_stats"][name] for each in documents]
        assert duration["ns"] == pytest.approx(sum(part["ns"] for part in parts), abs=1000), name
    assert releases(totals(b)) == sum([serving.statistics.releases for serving in servings], collections.Counter())
    sizes = {(row["batch_size"], row["compute_infer"]["count"]) for row in total["batch_stats"]}
    if len(servings) == 1:
        assert sizes == {(row["batch_size"], row["compute_infer"]["count"]) for row in documents[0]["batch_stats"]}


async def test_an_answer_is_counted_when_its_caller_has_it() -> None:
    async with bench() as b:
        serving = await b.serve()
        for number in range(1, 5):
            await b.caller.ask(b.caller.request(number))
            assert shown(b) == (number, 0, number, number)
        assert document(totals(b))["last_inference"] > 1_600_000_000_000
        agree(b, serving)


async def test_tritons_worked_table() -> None:
    async with bench() as b:
        serving = await b.serve()
        expected = [0, 0, 0, 0]
        for request, add in ((b.caller.rows(1), (1, 0, 1, 1)), (b.caller.rows(8), (1, 0, 8, 1))):
            await b.caller.ask(request)
            expected = [a + more for a, more in zip(expected, add, strict=True)]
            assert list(shown(b)) == expected
        first = await b.hold()  # 1 row runs; 1 + 5 rows wait and run as one batch
        rest = await b.caller.publish(b.caller.rows(1), b.caller.rows(5))
        await until(lambda: serving.runner.in_flight == 3)
        b.instances[0].gate.set()
        await asyncio.gather(*first, *rest)
        assert shown(b) == (5, 0, 16, 4)
        agree(b, serving)


async def test_a_record_of_the_batch_lane_counts_once_with_all_its_rows_and_runs() -> None:
    async with bench() as b:
        serving = await b.serve(DELAYED)
        await b.caller.ask(b.caller.rows(20), lane=Lane.BATCH)
        successes, fails, rows, executions = shown(b)
        assert (successes, fails, rows) == (1, 0, 20)
        assert executions == serving.statistics.execution_count >= 3
        agree(b, serving)


async def test_answers_are_timed_from_when_their_requests_were_accepted() -> None:
    """Of one batch: two requests that had waited for a minute in the log, one that is new, one whose start nobody knows."""
    async with bench() as b:
        await b.serve()
        (first,) = await b.hold()
        before = b.clock()
        waits = [before - 60, before - 60, before]
        rest = await b.caller.publish(
            *[b.caller.request(n, accepted=at) for n, at in enumerate(waits)], b.caller.request(9)
        )
        b.instances[0].gate.set()
        await asyncio.gather(first, *rest)
        counts = histogram(totals(b))
        longest = [(place, count) for place, count in counts if place and BOUNDS[place - 1] > 30]
        assert [count for _, count in longest] == [2]
        assert quantile(longest, 0.99) == pytest.approx(60, rel=0.2)
        assert shown(b)[0] == 5
        assert sum(count for _, count in counts) == 3


async def test_nobody_waits_for_a_record_of_the_batch_lane() -> None:
    async with bench() as b:
        await b.serve(DELAYED)
        await b.caller.ask(b.caller.request(1, accepted=b.clock()), lane=Lane.BATCH)
        assert (shown(b)[0], histogram(totals(b))) == (1, [])


async def test_an_answer_for_a_topic_is_counted_like_any_other() -> None:
    async with bench() as b:
        await b.serve()
        for number in range(3):
            await sent(b, f"row-{number}", number)
        await until(lambda: len(on_topic(b)) == 3)
        assert shown(b)[:3] == (3, 0, 3)


async def test_a_model_that_raises_counts_failures_and_every_run() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.error = ModelFailed("no")
        await b.caller.ask(b.caller.request(1))
        assert (shown(b), failed(b)) == ((0, 1, 0, 1), {"BACKEND": 1})
        await b.caller.ask(b.caller.request(1), b.caller.request(2))  # together, then each alone
        assert (shown(b), failed(b)) == ((0, 3, 0, 4), {"BACKEND": 3})
        assert instance.batches == [[1], [1, 2], [1], [2]]
        agree(b, serving)


@pytest.mark.parametrize("config", [IDENTITY, ORDERED])
async def test_a_batch_that_runs_again_in_parts_counts_each_request_once_and_each_run(config: str) -> None:
    async with bench() as b:
        instance = await fragile(b, config, deadly=frozenset({5.0}))
        await together(b, *range(8))  # and one before them
        assert (shown(b)[:3], failed(b)) == ((8, 1, 8), {"BACKEND": 1})
        assert shown(b)[3] == len(instance.batches)
        agree(b, b.serving[-1])


async def test_a_queue_timeout_is_a_rejection() -> None:
    async with bench() as b:
        await b.serve(IMPATIENT)
        first = await b.hold()
        (late,) = await b.caller.publish(b.caller.request(1))
        await late
        assert failed(b) == {"REJECTED": 1}
        b.instances[0].gate.set()
        await asyncio.gather(*first)
        assert shown(b) == (1, 1, 1, 1)


async def test_a_deadline_that_passes_in_the_queue_is_a_rejection() -> None:
    async with bench() as b:
        await b.serve()
        first = await b.hold()
        await b.caller.ask(b.caller.request(1, deadline=b.clock() - 1))
        assert (shown(b)[:2], failed(b)) == ((0, 1), {"REJECTED": 1})
        b.instances[0].gate.set()
        await asyncio.gather(*first)
        assert shown(b) == (1, 1, 1, 1)


async def test_a_full_queue_is_a_rejection() -> None:
    async with bench() as b:
        serving = await b.serve(BOUNDED)
        first = await b.hold()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(1, 20)])
        await until(lambda: serving.statistics.rejections.total() > 0)
        b.instances[0].gate.set()
        await asyncio.gather(*first, *futures)
        rejected = serving.statistics.rejections.total()
        assert failed(b) == {"REJECTED": rejected}
        assert shown(b)[0] == 20 - rejected
        agree(b, serving)


async def test_a_cancelled_request_counts_as_cancelled() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        request = b.caller.request(1, accepted=b.clock())
        (future,) = await b.caller.publish(request)
        await until(lambda: serving.runner.in_flight == 2)
        await b.caller.cancel(request)
        await future
        assert failed(b) == {"CANCELED": 1}
        b.instances[0].gate.set()
        await asyncio.gather(*first)
        assert shown(b) == (1, 1, 1, 1)


async def test_a_record_that_is_no_request_counts_where_its_sender_is_known() -> None:
    async with bench() as b:
        await b.serve()
        await sent(b, "right", 1)
        await send(b, b"{", JSON, ("id", b"wrong"))
        await until(lambda: len(on_topic(b)) == 2)
        assert (shown(b)[:2], failed(b)) == ((1, 1), {"OTHER": 1})


async def test_what_two_workers_run_is_counted_once() -> None:
    """A worker runs a batch whose partition is meanwhile another's, which runs it too and is faster."""
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        requests = [b.caller.request(n) for n in range(3)]
        futures = await b.caller.publish(*requests)
        await instance.started()
        await until(lambda: serving.runner.in_flight == 3)
        store = b.caller.transport.results
        other = Counts(KEY, {"ok": 1, "rows": 1})
        payload = encode_reply(InferReply("m", "1"))
        await store.finish([Terminal(request.id, payload, request.reply_to, counts=other) for request in requests[:2]])
        instance.gate.set()
        await asyncio.gather(*futures)
        await until(lambda: shown(b)[0] == 3)
        assert serving.statistics.success.count == 3
        assert shown(b)[:3] == (3, 0, 3)


async def test_a_call_that_the_store_did_not_confirm_is_counted_once() -> None:
    async with bench() as b:
        serving = await b.serve()
        right, lost = b.store.finish_now, 0

        def finish_now(answers: Any) -> Any:
            nonlocal lost
            outcomes = right(answers)
            if lost < 2:
                lost += 1
                raise ConnectionError("the reply was lost, says the test")
            return outcomes

        b.store.finish_now = finish_now  # type: ignore[method-assign]
        await b.caller.ask(*[b.caller.request(n) for n in range(4)])
        await until(lambda: serving.runner.in_flight == 0)
        assert shown(b)[:3] == (4, 0, 4)
        assert shown(b)[3] == serving.statistics.execution_count


async def test_loading_a_version_again_keeps_its_counts() -> None:
    async with bench() as b:
        serving = await b.serve()
        await b.caller.ask(b.caller.request(1))
        await serving.close()
        b.serving.remove(serving)
        again = await b.serve()
        await b.caller.ask(b.caller.request(2))
        assert again.statistics.success.count == 1
        assert shown(b) == (2, 0, 2, 2)
