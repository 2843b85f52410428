"""Promises to callers, on a fleet of two gateways, two workers, four partitions and two models."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from penstock.client import AsyncClient, Client
from protocol import codec
from protocol.errors import Code, FleetError
from protocol.naming import Names
from tests.integration.fleet import Fleet, fleet, wait_for
from tests.integration.repositories import ADD, COUNT, executed, executed_by, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

LONG = 1200
"""Milliseconds of a call that keeps the counting model's instance busy."""


class Site:
    """The fleet of this file and the counting model's own notes."""

    def __init__(self, running: Fleet, counter: Path) -> None:
        self.fleet, self.counter = running, counter
        self.urls = [gateway.url for gateway in running.gateways]
        self._next = 100_000

    def number(self) -> int:
        """A number that no other test sends; negative ones take no time."""
        self._next += 1
        return -self._next

    def begun(self) -> collections.Counter[str]:
        """Long calls begun so far, by the worker's process."""
        return collections.Counter({process: runs.count(LONG) for process, runs in executed_by(self.counter).items()})

    def ran(self, number: int) -> int:
        """How often the model began to run that number."""
        return executed(self.counter).count(number)


@pytest.fixture(scope="module")
def site(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("fleet")
    repository = folder / "models"
    write_model(repository, "add", ADD % (folder / "adds"))
    write_model(repository, "count", COUNT % str(folder / "runs"))
    with fleet(kafka_bootstrap, redis_url, f"f{time.time_ns() % 10**9}", folder, repository) as running:
        for _ in range(2):
            running.add_gateway()
            running.add_worker("--partitions", "4")
        running.wait_ready(models=2)
        yield Site(running, folder / "runs")
        assert running.stop() == [0, 0, 0, 0]


def count(number: int) -> dict[str, np.ndarray]:
    return {"NUMBER": np.array([[number]])}


async def keep_busy(site: Site, client: AsyncClient) -> list[asyncio.Task]:
    """Keep the counting model busy; returns once both workers have begun one of these calls, with others behind it.

    A gateway that still believes one worker to be busy, by a heartbeat from before the last test's end, sends all of a round to
    the other one. By the next round it knows better.
    """
    before, tasks = site.begun(), []
    for _ in range(5):
        for _ in range(8):
            call = await client.submit("count", count(LONG))
            tasks.append(asyncio.create_task(client.result(call, wait=60)))
        with contextlib.suppress(AssertionError):
            await asyncio.to_thread(wait_for, "both to be busy", lambda: len(site.begun() - before) >= 2, within=3)
            return tasks
    raise AssertionError(f"one worker got all of {len(tasks)} calls: {site.begun() - before}")


async def test_one_idempotency_key_runs_once_on_two_gateways_at_the_same_time(site: Site) -> None:
    number = site.number()
    async with AsyncClient(site.urls[0]) as first, AsyncClient(site.urls[1]) as second:
        answers = await asyncio.gather(
            *(client.infer("count", count(number), idempotency_key="k1") for client in (first, second) * 4)
        )
        again = await second.infer("count", count(number), idempotency_key="k1")

        with pytest.raises(FleetError) as refused:
            await first.infer("count", count(number - 50_000), idempotency_key="k1")

    assert {int(answer.outputs["NUMBER"][0, 0]) for answer in (*answers, again)} == {number}
    assert len({answer.request_id for answer in (*answers, again)}) == 1
    assert site.ran(number) == 1
    assert refused.value.code is Code.KEY_REUSED


async def test_a_call_in_the_batch_lane_may_have_more_rows_than_a_batch(site: Site) -> None:
    rows = 40
    tensor = {"datatype": "FP32", "shape": [rows, 4], "data": list(range(4 * rows))}
    body = {"inputs": [{"name": "A", **tensor}, {"name": "B", **tensor}]}
    lane = {"penstock-lane": "batch"}
    async with httpx.AsyncClient(timeout=60.0) as client:
        refused = await client.post(f"{site.urls[0]}/v2/models/add/infer", json=body)
        answer = await client.post(f"{site.urls[0]}/v2/models/add/infer", json=body, headers=lane)
        accepted = await client.post(
            f"{site.urls[0]}/v2/models/add/infer", json=body, headers={**lane, "prefer": "respond-async"}
        )
        later = await client.get(f"{site.urls[1]}{accepted.headers['location']}", params={"wait_s": "30"})

    assert refused.status_code == 400
    for done in (answer, later):
        assert done.status_code == 200, done.text
        assert done.json()["outputs"][0]["data"] == [2.0 * value for value in range(4 * rows)]


async def test_few_calls_are_gathered_on_one_worker_and_both_serve_many(site: Site) -> None:
    ones = {"A": np.ones((1, 4), np.float32), "B": np.ones((1, 4), np.float32)}
    files = site.counter.parent

    def shares() -> list[int]:
        return sorted(len(numbers) for numbers in executed_by(files / "adds").values())

    async with AsyncClient(site.urls[0]) as client:
        for _ in range(6):  # rates are known after some readings of the heartbeats, batch sizes after some batches
            await asyncio.gather(*(client.infer("add", ones) for _ in range(64)))
            for _ in range(20):
                await client.infer("add", ones)
        before = shares()
        for _ in range(40):
            await client.infer("add", ones)
        few = [after - then for after, then in zip(shares(), before, strict=True)]

    assert min(before) > 40, "both served the bursts"
    assert sorted(few)[0] <= 10, few


async def test_two_runs_of_a_client_that_numbers_from_one_execute_twice(site: Site) -> None:
    number = site.number()
    async with AsyncClient(site.urls[0]) as client:
        answers = [await client.infer("count", count(number), label="1") for _ in range(2)]

    assert [answer.label for answer in answers] == ["1", "1"]
    assert answers[0].request_id != answers[1].request_id
    assert site.ran(number) == 2


async def test_a_queued_request_that_is_cancelled_never_runs(site: Site) -> None:
    number = site.number()
    async with AsyncClient(site.urls[0]) as client, AsyncClient(site.urls[1]) as other:
        busy = await keep_busy(site, client)
        pending = await client.submit("count", count(number))
        await other.cancel(pending)
        await asyncio.gather(*busy)

        with pytest.raises(FleetError) as ended:
            await client.result(pending, wait=10)

    assert ended.value.code is Code.CANCELLED
    assert site.ran(number) == 0


async def test_a_request_whose_deadline_passes_in_the_queue_never_runs(site: Site) -> None:
    number = site.number()
    async with AsyncClient(site.urls[0]) as client:
        busy = await keep_busy(site, client)
        with pytest.raises(FleetError) as ended:
            await client.infer("count", count(number), timeout=0.3)
        await asyncio.gather(*busy)

    assert ended.value.code is Code.DEADLINE_EXCEEDED
    assert site.ran(number) == 0


async def test_a_caller_that_hangs_up_takes_its_queued_request_back(site: Site) -> None:
    number = site.number()
    body = {"inputs": [{"name": "NUMBER", "shape": [1, 1], "datatype": "INT64", "data": [number]}]}
    async with AsyncClient(site.urls[0]) as client:
        busy = await keep_busy(site, client)
        async with httpx.AsyncClient(base_url=site.urls[0]) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post(
                    "/v2/models/count/infer", content=orjson.dumps(body), timeout=httpx.Timeout(5, read=0.3)
                )
        await asyncio.gather(*busy)
        await client.infer("count", count(site.number()))

    assert site.ran(number) == 0


async def test_a_v2_json_record_of_any_producer_is_answered_in_its_stream(site: Site) -> None:
    number, names = site.number(), Names(site.fleet.prefix)
    body = {"inputs": [{"name": "NUMBER", "shape": [1, 1], "datatype": "INT64", "data": [number]}]}
    async with AIOKafkaProducer(bootstrap_servers=site.fleet.kafka) as producer:
        headers = [("content-type", b"application/json"), ("id", b"order-7"), ("principal", b"shop")]
        await producer.send_and_wait(names.infer_topic("count", "1"), orjson.dumps(body), headers=headers)
    async with Redis.from_url(site.fleet.redis) as store:
        entries = await asyncio.to_thread(wait_for_entry, site.fleet.redis, names.result_key("shop/order-7"))
        assert 3000 < await store.ttl(names.result_key("shop/order-7")) <= 3600
    reply = codec.decode_reply(entries[-1][1][b"r"])

    assert reply.outputs[0].array().tolist() == [[number]]


def wait_for_entry(url: str, key: str) -> list:
    from redis import Redis as Blocking

    with Blocking.from_url(url) as store:
        return wait_for(f"an entry in {key}", lambda: store.xrange(key), within=20)


async def test_a_record_that_nobody_can_read_goes_to_the_dead_letters_and_holds_up_nothing(site: Site) -> None:
    names = Names(site.fleet.prefix)
    async with AIOKafkaProducer(bootstrap_servers=site.fleet.kafka) as producer:
        for partition in range(4):
            await producer.send_and_wait(names.infer_topic("count", "1"), b"\xff not a request", partition=partition)
    number = site.number()
    async with AsyncClient(site.urls[0]) as client:
        await asyncio.gather(*(client.infer("count", count(number)) for _ in range(8)))

    assert site.ran(number) == 8


async def test_statistics_count_every_answer_of_both_workers_at_once(site: Site) -> None:
    ones = {"A": np.ones((2, 4), np.float32), "B": np.ones((2, 4), np.float32)}
    with Client(site.urls[0]) as client:
        before = inferences(client)
        for _ in range(3):
            client.infer("add", ones)
            before += 2
            assert inferences(client) == before
        async with AsyncClient(site.urls[0], connections=32) as many:
            await asyncio.gather(*[infer_often(many, ones, 25) for _ in range(20)])
        assert inferences(client) == before + 1000


async def infer_often(client: AsyncClient, inputs: dict[str, np.ndarray], count: int) -> None:
    for _ in range(count):
        await client.infer("add", inputs)


def inferences(client: Client) -> int:
    return sum(stats["inference_count"] for stats in client.get("/v2/models/add/stats")["model_stats"])


async def test_an_asynchronous_result_survives_the_gateway_that_accepted_it(
    kafka_bootstrap: str, redis_url: str, site: Site
) -> None:
    number = site.number()
    third = site.fleet.add_gateway()
    site.fleet.gateways.pop()
    await asyncio.to_thread(
        wait_for, "the third gateway", lambda: b"gateway is serving" in third.log.read_bytes() and knows(third.url)
    )
    async with AsyncClient(third.url) as doomed, AsyncClient(site.urls[1]) as other:
        pending = await doomed.submit("count", count(number))
        third.kill()
        answer = await other.result(pending, wait=20)

    assert answer is not None
    assert answer.outputs["NUMBER"].tolist() == [[number]]
    assert site.ran(number) == 1


def knows(url: str) -> bool:
    with Client(url) as client:
        return client.ready() and bool(client.models())


async def test_a_worker_that_is_told_to_stop_answers_what_it_has(site: Site) -> None:
    extra = site.fleet.add_worker("--partitions", "4", name="leaver")
    site.fleet.workers.pop()
    await asyncio.to_thread(wait_for, "the extra worker", lambda: b"partitions assigned" in extra.log.read_bytes())
    async with AsyncClient(site.urls[0]) as client:
        calls = [asyncio.create_task(client.infer("count", count(50))) for _ in range(60)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        code = await asyncio.to_thread(extra.stop)
        answers = await asyncio.gather(*calls)

    assert code == 0
    assert len(answers) == 60
