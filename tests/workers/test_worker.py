import asyncio
import contextlib
import os
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from protocol.heartbeat_codec import decode_heartbeat
from protocol.messages import ModelState
from tests.workers.fleet import IDENTITY, NAMES, fleet, until, values, write_model
from workers.supervision.heartbeat import PipeSender
from workers.system.framing import frames

TOPIC = NAMES.infer_topic("m", "1")
SLOW = IDENTITY + 'parameters { key: "execute_delay_ms" value { string_value: "20" } }'


async def test_a_request_comes_back(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        replies = await caller.ask(caller.request(1, 2), caller.request(3, 4))
        assert values(replies) == [[1, 2], [3, 4]]
        assert await worker.readiness() == []


async def test_workers_share_a_topic(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW)
    async with fleet(tmp_path) as f:
        for _ in range(3):
            await f.worker()
        caller = await f.caller()
        futures = []
        for n in range(40):
            futures += await caller.publish(caller.request(n))
        replies = await asyncio.gather(*futures)
        assert values(replies) == [[n] for n in range(40)]
        assert {reply.timing.worker for reply in replies} == {"w0", "w1", "w2"}
        assert set(caller.counts.values()) == {1}


async def test_a_crash_in_the_middle_loses_nothing_and_answers_nothing_twice(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW)
    async with fleet(tmp_path) as f:
        workers = [await f.worker() for _ in range(2)]
        caller = await f.caller()
        futures = []
        for n in range(120):
            futures += await caller.publish(caller.request(n))
        await until(lambda: len(caller.answers) > 20)
        workers[0].abandon()
        await f.transports[1].bus.evict(TOPIC, ["w0"])
        async with asyncio.timeout(30):
            replies = await asyncio.gather(*futures)
        assert values(replies) == [[n] for n in range(120)]
        assert set(caller.counts.values()) == {1}
        second = workers[1].models.serving()[0].statistics
        assert second.redeliveries + second.already_answered > 0
        await until(lambda: sum(f.broker.topics[TOPIC].groups[TOPIC].committed.values()) == 120)


async def test_draining_leaves_nothing_behind_and_nothing_undone(tmp_path: Path) -> None:
    write_model(tmp_path, "m", SLOW)
    async with fleet(tmp_path) as f:
        first, second = await f.worker(), await f.worker()
        caller = await f.caller()
        futures = []
        for n in range(60):
            futures += await caller.publish(caller.request(n))
        await until(lambda: len(caller.answers) > 5)
        await first.drain(10)
        assert await first.readiness() != []
        assert first.models.serving()[0].runner.in_flight == 0
        await first.close()
        replies = await asyncio.gather(*futures)
        assert values(replies) == [[n] for n in range(60)]
        assert second.models.serving()[0].intake.owned == {0, 1, 2, 3}
        assert "w0" not in f.server.heartbeats
        statistics = second.models.serving()[0].statistics
        assert statistics.already_answered == statistics.redeliveries == 0


async def test_the_heartbeat_says_who_it_is_and_how_its_models_stand(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker(heartbeat_interval=0.01)
        caller = await f.caller()
        await caller.ask(caller.request(1), caller.request(2))
        await until(lambda: f.server.heartbeats["w0"].models[0].executed == 2)
        beat = f.server.heartbeats["w0"]
        (load,) = beat.models
        assert (beat.worker, beat.pid, beat.draining) == ("w0", os.getpid(), False)
        (serving,) = worker.models.serving()
        batches = NAMES.batch_topic("m", "1")
        assert beat.members == {TOPIC: serving.intake.member, batches: serving.batch_intake.member}
        assert (load.state, load.partitions) == (ModelState.READY, (0, 1, 2, 3))
        assert (load.runs[0][:2], load.statistics, load.seconds_per_row) == ((1, 2), {}, {})
        (asked,) = (await worker._pulse.current_heartbeat(statistics=True)).models
        assert (asked.statistics["inference_count"], list(asked.seconds_per_row)) == (2, ["1/2"])
        await until(lambda: f.server.heartbeats["w0"].models[0].lag == 0)
        drained = asyncio.ensure_future(worker.drain(1))
        await until(lambda: f.server.heartbeats["w0"].draining)
        await drained


async def test_another_model_is_served_while_one_loads(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        slow = (
            "import threading\n"
            "class Model:\n"
            "    def __init__(self):\n        threading.Event().wait(0.5)\n"
            "    def predict(self, X):\n        return {'Y': X}\n"
        )
        write_model(tmp_path, "slow", IDENTITY.replace("identity", "python"), {"model.py": slow})
        loading = asyncio.ensure_future(worker.models.poll())
        answered = 0
        while not loading.done():
            assert values(await caller.ask(caller.request(1))) == [[1]]
            answered += 1
        assert answered > 10
        await loading
        assert values(await caller.ask(caller.request(2, model="slow"))) == [[2]]


async def test_metrics_and_health_are_served(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker(metrics_port=0)
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.metrics_port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        text = await reader.read()
        writer.close()
        assert b'nv_inference_count{model="m",version="1"} 0.0' in text
        assert b"penstock_worker_ready 1.0" in text


async def test_a_closed_worker_leaves_its_registry_to_the_next(tmp_path: Path) -> None:
    from workers.worker import Worker

    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        registry = CollectorRegistry()
        for _ in range(2):
            worker = Worker(f.settings(), await f.transport(), NAMES, registry=registry)
            await worker.start()
            await worker.close()
            await worker.close()


async def test_heartbeats_go_through_the_supervisors_pipe() -> None:
    from protocol.messages import Heartbeat

    reader, writer = os.pipe()
    outlet = PipeSender(writer)
    beat = Heartbeat("w", "i", "h", 1, 2.0)
    await outlet.beat(beat)
    await outlet.beat(beat)
    os.set_blocking(reader, False)
    buffer = bytearray()

    def received() -> int:
        with contextlib.suppress(BlockingIOError):
            buffer.extend(os.read(reader, 65536))
        return len(buffer)

    await until(lambda: received() > 0 and len(frames(bytearray(buffer))) == 2)
    assert [decode_heartbeat(payload) for payload in frames(buffer)] == [beat, beat]
    os.close(reader)
    outlet.close()


async def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        transport = await f.transport()
        worker = await f.worker(transport)
        assert await worker.readiness() == []
        await transport.results.close()
        assert "the result store does not answer" in await worker.readiness()
        await transport.results.open()
        assert await worker.readiness() == []
        retry = worker.models._context.retry
        retry.repeated["announce"] = 1
        retry.errors["announce"] = "no"
        assert "a call of store or broker: 'announce' fails and is retried: no" in await worker.readiness()
        retry.repeated.clear()
        await transport.bus.close()
        assert "the broker does not answer" in await worker.readiness()
        await transport.bus.open()


async def test_a_heartbeat_that_cannot_be_sent_makes_it_unready_until_one_can(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        transport = await f.transport()
        worker = await f.worker(transport, heartbeat_interval=0.01)
        await transport.results.close()
        await until(lambda: "heartbeat" in worker._failed)
        assert any(problem.startswith("heartbeat failed: ") for problem in worker._problems())
        await transport.results.open()
        await until(lambda: not worker._failed)
        assert worker._problems() == []


async def test_the_clock_follows_the_stores(tmp_path: Path) -> None:
    async with fleet(tmp_path) as f:
        worker = await f.worker(resync_interval=0.01)
        worker._clock._offset += 3600.0
        await until(lambda: abs(worker._clock() - time.time()) < 60.0)


async def test_polling_goes_on_by_itself(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        worker = await f.worker(model_control_mode="poll", repository_poll_secs=0.01)
        write_model(tmp_path, "n")
        await until(lambda: ("n", "1") in worker.models.slots)
        await until(lambda: not worker.models.problems())


async def test_a_worker_that_was_replaced_by_another_of_the_same_id_says_so(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    async with fleet(tmp_path) as f:
        first = await f.worker(worker="twin")
        second = await f.worker(worker="twin")
        await until(lambda: any("same id" in problem for problem in first._problems()))
        assert second._problems() == []
        caller = await f.caller()
        assert values(await caller.ask(caller.request(1))) == [[1]]
