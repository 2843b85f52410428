"""A gateway of several processes: they share the ports, their metrics are a sum, and none of them takes the others with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest

from penstock import AsyncClient
from tests.integration.doors import Connection, Lost, acceptors, by_label, one_of_each, owner_of
from tests.integration.fleet import Process, fleet, wait_for
from tests.integration.repositories import COUNT, executed, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CALLERS = 32
RESTARTED_WITHIN = 1.0
SLACK = 9.0
"""Additional seconds, because the test machine may be busy."""


class Site:
    """Starts gateways of two processes before the same kind of models.

    Attributes:
        numbers: the file in which the counting model notes what it runs.
    """

    def __init__(self, start: Callable[..., Process], command: Sequence[str], numbers: Path) -> None:
        self._start, self._command, self.numbers = start, command, numbers

    def refused(self, *flags: str) -> tuple[int, str]:
        """Exit code and stderr of a gateway that cannot start."""
        command = [sys.executable, "-m", "penstock", *self._command, "--processes", "2", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def start(self, *flags: str) -> Process:
        parent = self._start("--processes", "2", *flags)

        def ready() -> bool:
            if parent.process.poll() is not None:
                raise AssertionError(f"{parent.name} ended:\n{parent.tail()}")
            with contextlib.suppress(httpx.HTTPError):
                model = httpx.get(f"{parent.url}/v2/models/count/ready").status_code == 200
                return model and parent.metric("penstock_gateway_processes") == 2
            return False

        wait_for("two processes that serve the model", ready, within=150.0)  # a worker that starts yields the CPU
        return parent


@pytest.fixture(scope="module", params=[pytest.param("kafka", marks=pytest.mark.servers), "memory", "data-dir"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("processes")
    write_model(folder / "models", "count", COUNT % (folder / "runs"))
    if request.param != "kafka":
        yield from embedded_site(folder, durable=request.param == "data-dir")
        return
    kafka, redis = request.getfixturevalue("kafka_bootstrap"), request.getfixturevalue("redis_url")
    with fleet(kafka, redis, f"p{time.time_ns() % 10**9}", folder, folder / "models") as running:
        running.add_worker()
        command = ["gateway", "--kafka", kafka, "--redis", redis, "--prefix", running.prefix]
        yield Site(running.add_gateway, command, folder / "runs")
        running.workers[0].stop()
        for gateway in running.gateways:
            gateway.stop()


def embedded_site(folder: Path, durable: bool) -> Iterator[Site]:
    """Servers of one machine, each with models of its own."""
    command = ["serve", "--model-repository", str(folder / "models")]
    servers: list[Process] = []

    def start(*flags: str) -> Process:
        name = f"serve-{len(servers)}"
        data = ("--data-dir", str(folder / f"data-{len(servers)}")) if durable else ()
        servers.append(Process(name, folder / f"{name}.log", *command, *data, *flags))
        return servers[-1]

    yield Site(start, command, folder / "runs")
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def parent(site: Site) -> Process:
    """A gateway that the tests of this file share."""
    return site.start()


@pytest.fixture(autouse=True)
async def connections_close() -> AsyncIterator[None]:
    yield
    await Connection.close_all()


async def test_all_processes_serve_and_the_metrics_tell_their_sum(parent: Process) -> None:
    connections = await one_of_each(parent)
    answers = [await connection.count(-1) for connection in connections.values() for _ in range(5)]
    assert [status for status, _ in answers] == [200] * 10

    each = by_label(parent, "penstock_gateway_process_answers_total")
    assert len(each) == 2
    assert all(count >= 5 for count in each.values()), each
    assert sum(each.values()) == parent.metric("penstock_gateway_requests_total")
    assert parent.metric("penstock_gateway_requests_total") == parent.metric("penstock_gateway_request_seconds_count")
    assert parent.metric("penstock_gateway_ready") == 1
    assert parent.metric("penstock_gateway_processes") == 2
    health = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{parent.metrics_port}/v2/health/ready")
    assert (health.status_code, health.text) == (200, "")


async def test_the_times_of_every_process_are_in_order_and_within_the_callers_own(parent: Process) -> None:
    """Each process has a clock of its own, and so has the worker."""
    for _ in range(20):
        began = time.perf_counter()
        async with AsyncClient(parent.url) as client:
            answer = await client.infer("count", {"NUMBER": np.array([[-4]])})
        took = time.perf_counter() - began
        times = answer.times
        assert times.delivered, answer.timing
        assert times.total is not None
        known = [part for part in (times.queued, times.waiting, times.model, times.way) if part is not None]
        assert all(part >= 0 for part in known), answer.timing
        assert sum(known) == pytest.approx(times.total)
        assert times.total <= took, answer.timing


class Load:
    """Callers that count all the time, each on its own connection."""

    def __init__(self, connections: list[Connection]) -> None:
        self.answered = 0
        self.lost: set[int] = set()
        self.wrong: list[object] = []
        self._stopped = False
        self._tasks = [asyncio.create_task(self._call(each)) for each in connections]

    async def _call(self, connection: Connection) -> None:
        try:
            while not self._stopped:
                status, body = await connection.count(-2)
                self.answered += 1
                if status != 200:
                    self.wrong.append(body)
        except Lost:
            self.lost.add(connection.port)

    async def until(self, answered: int) -> None:
        async with asyncio.timeout(30):
            while self.answered < answered:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def answered(parent: Process) -> Connection:
    """A connection with an answer. A dying process takes connections until its last thread has ended, and loses them."""
    async with asyncio.timeout(5):
        while True:
            connection = await Connection.open(parent)
            with contextlib.suppress(Lost):
                assert (await connection.count(-3))[0] == 200
                return connection


async def test_a_killed_process_takes_only_its_own_connections_with_it(parent: Process) -> None:
    connections = [await Connection.open(parent) for _ in range(CALLERS)]
    load = Load(connections)
    await load.until(CALLERS * 5)
    owners = {connection.port: owner_of(parent, connection) for connection in connections}
    victim, _ = sorted(acceptors(parent))
    counts = [parent.metric("penstock_gateway_requests_total")]
    answers = [by_label(parent, "penstock_gateway_process_answers_total")]

    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    await asyncio.to_thread(wait_for, "its death", lambda: gone(victim), within=5, pause=0.001)
    during = await answered(parent)  # the kernel gives the port's connections to the living processes
    assert owner_of(parent, during) in set(acceptors(parent)) - {victim}
    restarted = 0.0
    while time.monotonic() < killed + RESTARTED_WITHIN + SLACK and not restarted:
        await asyncio.sleep(0.02)
        counts.append(await asyncio.to_thread(parent.metric, "penstock_gateway_requests_total"))
        answers.append(await asyncio.to_thread(by_label, parent, "penstock_gateway_process_answers_total"))
        if await asyncio.to_thread(parent.metric, "penstock_gateway_processes") == 2:
            restarted = time.monotonic() - killed
    print(f"restarted after {restarted:.2f} s")
    await load.stop()

    assert restarted, "the killed process was not started again"
    assert load.lost == {port for port, owner in owners.items() if owner == victim}
    assert load.wrong == []
    assert counts == sorted(counts)
    for label in answers[0]:
        assert [each[label] for each in answers] == sorted(each[label] for each in answers)
    assert sum(by_label(parent, "penstock_gateway_process_restarts_total").values()) >= 1
    assert set(await one_of_each(parent)) == set(acceptors(parent))


async def test_grpc_reaches_all_processes(parent: Process) -> None:
    address = f"127.0.0.1:{parent.grpc_port}"
    for process in acceptors(parent).values():
        assert parent.grpc_port in {each.laddr.port for each in process.net_connections("tcp") if not each.raddr}
    for _ in range(4):
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            alive = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert await alive(b"", timeout=10) == b"\x08\x01"


async def test_keys_and_handles_mean_the_same_in_every_process(site: Site, parent: Process) -> None:
    first, second = (await one_of_each(parent)).values()
    number = -time.time_ns() // 1000
    answers = await asyncio.gather(*[each.count(number, idempotency_key=f"k{number}") for each in (first, second)])
    assert [status for status, _ in answers] == [200, 200]
    assert executed(site.numbers).count(number) == 1

    status, accepted = await first.count(number - 1, prefer="respond-async")
    assert status == 202
    status, done = await second.send("GET", f"/v2/requests/{accepted['id']}?wait_s=20")
    assert status == 200, done
    assert done["outputs"][0]["data"] == [number - 1]


async def test_sigterm_answers_everything_in_flight(site: Site) -> None:
    parent = site.start()
    connections = [await Connection.open(parent) for _ in range(8)]
    calls = [asyncio.create_task(connection.count(600)) for connection in connections]
    await asyncio.to_thread(wait_for, "calls in flight", lambda: parent.metric("penstock_gateway_inflight") >= 2)
    parent.process.terminate()

    assert [status for status, _ in await asyncio.gather(*calls)] == [200] * len(calls)
    assert await asyncio.to_thread(parent.process.wait, 30) == 0


async def test_a_second_signal_cuts_the_drain_short(site: Site) -> None:
    parent = site.start()
    connections = [await Connection.open(parent) for _ in range(6)]
    calls = [asyncio.create_task(connection.count(3_000)) for connection in connections]
    await asyncio.to_thread(wait_for, "calls in flight", lambda: parent.metric("penstock_gateway_inflight") >= 3)
    parent.process.terminate()
    # Two signals that wait for one process are one.
    await asyncio.to_thread(wait_for, "the drain", lambda: parent.log.read_bytes().count(b"is draining") == 2)
    began = time.monotonic()
    parent.process.terminate()

    assert await asyncio.to_thread(parent.process.wait, 30) == 0
    assert time.monotonic() - began < 3.0 + SLACK, "only the call that runs is waited for, where the models are"
    for call in calls:
        with contextlib.suppress(Lost):
            assert (await call)[0] in (200, 503)


def test_children_die_with_their_parent(site: Site) -> None:
    parent = site.start()
    children = acceptors(parent)
    os.kill(parent.process.pid, signal.SIGKILL)
    parent.process.wait()
    wait_for("the children's death", lambda: not any(psutil.pid_exists(pid) for pid in children), within=5)


def test_a_wrong_setting_ends_everything_with_one_line(site: Site, parent: Process) -> None:
    free = ("--http-port", "0", "--grpc-port", "off", "--metrics-port", "0")
    for flags, text in (
        ((*free, "--tls-certificate", "/nowhere", "--tls-key", "/nowhere"), "TLS certificate '/nowhere'"),
        ((*free, "--metrics-port", str(parent.metrics_port)), "choose another --metrics-port"),
        ((*free, "--max-queued-calls", "1"), "max_queued_calls is 1"),
        ((*free, "--http-port", str(parent.http_port)), "choose another --http-port"),
    ):
        code, said = site.refused(*flags)
        assert code == 3, said
        lines = [line for line in said.splitlines() if line.startswith("penstock: ")]
        assert len(lines) == 1
        assert text in lines[0]
