"""The scaler in this process, on the memory transport; a real gRPC client calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from gateway.scaler.app import Scaler
from gateway.scaler.settings import ScalerSettings
from protocol.control import DesiredModel, encode_desired
from protocol.errors import ConfigError
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import Announcement, ModelState
from protocol.ports import OutRecord
from protocol.transport import Transport
from tests.gateway.fleet import ADD_SUB, NAMES, Site, until
from tests.gateway.scaler.keda import SERVICE, Keda, keda, kind, ref

TOPIC = NAMES.infer_topic("add_sub", "1")
ADD = ref("add_sub", scaleDownWindowSeconds="0")


class Running:
    def __init__(self, scaler: Scaler, transport: Transport, client: Keda) -> None:
        self.scaler, self.transport, self.client = scaler, transport, client

    async def publish(self, count: int = 1, *, hint: bool = True) -> None:
        await self.transport.bus.publish(TOPIC, [OutRecord(b"x")] * count)
        if hint:
            await self.transport.directory.hint_waiting(TOPIC)

    @property
    def problem(self) -> str:
        return self.scaler._knowledge.problem


async def start(fleet: Site, transport: Transport, **settings: Any) -> Scaler:
    quick = {"grpc_port": 0, "metrics_port": 0, "heartbeats_every": 0.05, "logs_every": 0.05}
    scaler = Scaler(ScalerSettings(**{**quick, **settings}), transport, NAMES)
    await scaler.start()
    fleet.stack.push_async_callback(scaler.close)
    return scaler


@pytest.fixture
async def running(fleet: Site) -> AsyncIterator[Running]:
    """A scaler of a fleet whose only worker has announced its model and gone."""
    worker = await fleet.worker(ADD_SUB)
    await worker.stop()
    transport = await fleet.transport()
    await transport.directory.forget("w1")
    scaler = await start(fleet, transport)
    async with keda(scaler.port) as client:
        made = Running(scaler, transport, client)
        await until(lambda: not made.problem)
        yield made


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def test_the_metric_and_its_target(running: Running) -> None:
    spec = await running.client.spec(ADD)
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("penstock-workers", 1, 1.0)
    assert await running.client.metric(ADD) == 0
    assert not await running.client.is_active(ADD)


async def test_a_request_is_pushed_and_its_end_as_well(running: Running, fleet: Site) -> None:
    client = running.client
    stream = client.stream("StreamIsActive", ADD)
    assert not await client.next_active(stream)
    await running.publish()
    assert await client.next_active(stream)
    assert await client.metric(ADD) == 1
    worker = await fleet.worker(ADD_SUB)
    worker.fail = None
    await (await fleet.transport()).bus.committed(TOPIC, TOPIC)
    await worker.stop()
    stream.cancel()


async def test_the_log_is_read_where_no_hint_comes(running: Running) -> None:
    stream = running.client.stream("StreamIsActive", ADD)
    assert not await running.client.next_active(stream)
    await running.publish(3, hint=False)
    assert await running.client.next_active(stream)
    stream.cancel()


async def test_a_hint_about_a_topic_without_records_passes(running: Running) -> None:
    stream = running.client.stream("StreamIsActive", ADD)
    assert not await running.client.next_active(stream)
    await running.transport.directory.hint_waiting(TOPIC)
    await running.transport.directory.hint_waiting("no topic")
    assert await running.client.next_active(stream)
    assert not await running.client.next_active(stream)
    stream.cancel()


@pytest.mark.parametrize(("pinned", "state"), [(True, ModelState.READY), (False, ModelState.UNAVAILABLE)])
async def test_a_pinned_model_and_one_to_be_loaded_want_a_worker(
    running: Running, pinned: bool, state: ModelState
) -> None:
    stream = running.client.stream("StreamIsActive", ADD)
    assert not await running.client.next_active(stream)
    bus = running.transport.bus
    entry = Announcement("add_sub", "1", state, ADD_SUB, "digest")
    key, value = encode_announcement(entry)
    await bus.publish(NAMES.catalogue_topic, [OutRecord(value, (), key)])
    for loaded in (True, False):
        key, value = encode_desired(DesiredModel("add_sub", loaded, pinned=pinned))
        await bus.publish(NAMES.control_topic, [OutRecord(value, (), key)])
        assert await running.client.next_active(stream) is loaded
    stream.cancel()


async def test_a_stream_of_specs_says_it_at_once_and_stays_open(running: Running) -> None:
    stream = running.client.stream("StreamMetricSpec", ADD)
    (spec,) = kind("GetMetricSpecResponse").FromString(await stream.read()).metricSpecs
    assert spec.targetSizeFloat == 1.0
    waiting = asyncio.ensure_future(stream.read())
    assert await running.client.metric(ADD) == 0
    assert not waiting.done()
    stream.cancel()
    await asyncio.wait([waiting])


async def test_what_is_wrong_is_refused_by_name(running: Running) -> None:
    client = running.client
    for call, text in (
        (client.is_active(kind("ScaledObjectRef")(name="x")), "scalerMetadata lacks models"),
        (client.spec(ref("m", drainTargetSeconds="-1")), "drainTargetSeconds"),
        (client.metric(ADD, "another"), "there is no metric 'another'"),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in (error.details() or "")
    error = await refused(client.stream("StreamIsActive", ref("")).read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = await refused(client.call("Unknown", ADD, "IsActiveResponse"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    for raw in (b"\xff\xff\xff", b"\x1a\x05\x0a\x03ab", bytes(300_000)):
        error = await refused(client.channel.unary_unary(f"{SERVICE}/IsActive")(raw, timeout=20))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert not await client.is_active(ADD), "and it goes on"


async def test_it_answers_nothing_while_it_knows_too_little(fleet: Site) -> None:
    transport = await fleet.transport()
    scaler = await start(fleet, transport, stale_after=2.0)
    async with keda(scaler.port) as client, httpx.AsyncClient() as http:
        health = f"http://127.0.0.1:{scaler.metrics_port}/v2/health/ready"
        await until(lambda: not scaler._knowledge.problem)
        assert await client.is_active(ref("new")), "a model that was never announced wants a worker"
        stream = client.stream("StreamIsActive", ref("new"))
        assert await client.next_active(stream)
        assert (await http.get(health)).status_code == 200
        await transport.bus.close()
        await until(lambda: scaler._knowledge.problem)
        error = await refused(client.is_active(ref("new")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "could not be read" in (error.details() or "")
        assert (await http.get(health)).status_code == 503
        waiting = asyncio.ensure_future(stream.read())
        await transport.bus.open()
        await until(lambda: not scaler._knowledge.problem)
        assert await client.is_active(ref("new"))
        assert not waiting.done(), "the last word stands"
        stream.cancel()
        await asyncio.wait([waiting])


async def test_a_peer_that_speaks_something_else_is_cut_off(running: Running) -> None:
    for garbage in (
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + bytes(300),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.scaler.port)
        writer.write(garbage)
        async with asyncio.timeout(10.0):
            while await reader.read(4096):
                pass
        writer.close()
        await writer.wait_closed()
    assert not await running.client.is_active(ADD)


async def test_groups_and_calls_are_bounded(fleet: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.scaler.knowledge.MAX_GROUPS", 3)
    scaler = await start(fleet, await fleet.transport(), max_calls=5)
    await until(lambda: not scaler._knowledge.problem)
    async with keda(scaler.port) as client:
        for name in "abc":
            await client.is_active(ref(name))
        error = await refused(client.is_active(ref("d")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await client.is_active(ref("a"))
        streams = [client.stream("StreamIsActive", ref("a")) for _ in range(5)]
        for stream in streams:
            await client.next_active(stream)
        error = await refused(client.is_active(ref("a")))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()
        await until(lambda: not scaler._server._calls)
        assert await client.is_active(ref("a"))


async def test_its_metrics(running: Running) -> None:
    await running.publish(2)
    stream = running.client.stream("StreamIsActive", ADD)
    assert await running.client.next_active(stream)
    await until(lambda: not running.scaler._knowledge.view.fleet.hinted(TOPIC))
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{running.scaler.metrics_port}/metrics")).text
    assert 'penstock_backlog_requests{lane="interactive",model="add_sub",version="1"} 2.0' in text
    assert 'penstock_wanted_workers{model="add_sub",version="1"} 1.0' in text
    assert "penstock_scaler_hints_total 1.0" in text
    stream.cancel()


async def test_a_scaler_that_ends_ends_its_streams_in_order(running: Running) -> None:
    stream = running.client.stream("StreamIsActive", ADD)
    await running.client.next_active(stream)
    await running.scaler.close()
    assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    "wrong", [{"tls_certificate": "x"}, {"tls_client_ca": "x"}, {"grpc_port": 70_000}, {"stale_after": 0.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ScalerSettings(**wrong)


async def test_a_certificate_that_is_not_there_is_named(fleet: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pem"):
        await start(fleet, await fleet.transport(), tls_certificate=str(tmp_path / "nothing.pem"), tls_key="k")
