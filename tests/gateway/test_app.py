"""A gateway's life: start, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry

from gateway.app import Gateway
from gateway.rest.listening import bind
from gateway.settings import GatewaySettings
from protocol.errors import ConfigError, Unavailable
from protocol.messages import ModelState
from protocol.naming import PREFIX
from tests.gateway.fleet import NAMES, Site, Worker, add_sub, raw_request, read_response, until

BODY = orjson.dumps(add_sub())


async def test_models_announced_before_and_after_the_start_are_known(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    assert (await gateway.infer()).status_code == 200
    later = Worker(await fleet.transport(), {"name": "late", "backend": "identity", **_TENSORS})
    await later.announce()

    await until(lambda: len(gateway.gateway.service.catalogue.all()) == 2)

    assert (await gateway.get("/v2/models/late")).status_code == 200


_TENSORS = {
    "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}],
}


async def test_an_announcement_that_cannot_be_read_stops_nothing(fleet: Site) -> None:
    from protocol.ports import OutRecord

    await fleet.worker()
    bus = (await fleet.transport()).bus
    await bus.publish(NAMES.catalogue_topic, [OutRecord(b"\xc1", (), b"x/1")])
    gateway = await fleet.gateway()

    assert (await gateway.infer()).status_code == 200
    assert (await gateway.get("/v2/health/ready")).status_code == 200


async def test_every_gateway_has_an_id_of_its_own(fleet: Site) -> None:
    one, other = await fleet.gateway(), await fleet.gateway()

    assert one.gateway.settings.gateway != other.gateway.settings.gateway
    assert PREFIX.match(one.gateway.settings.gateway)
    assert NAMES.is_reply_to(one.gateway.service.channel)


async def test_drain_answers_what_is_in_flight_and_takes_nothing_new(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    idle, _ = await gateway.connect()
    writer.write(raw_request(BODY))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)

    draining = asyncio.ensure_future(gateway.gateway.drain())
    assert await idle.read() == b""
    with pytest.raises(ConnectionError):
        await gateway.connect()
    assert gateway.metric("penstock_gateway_ready") == 0
    worker.open.set()
    answer = await read_response(reader)

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await asyncio.wait_for(draining, 5)


async def test_a_connection_in_use_hears_that_the_gateway_is_draining(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    service = gateway.gateway.service
    service.draining = True

    refused, ready, live = (
        await gateway.infer(),
        await gateway.get("/v2/health/ready"),
        await gateway.get("/v2/health/live"),
    )

    assert (refused.status_code, ready.status_code, live.status_code) == (503, 503, 200)
    assert "Server is stopping" in refused.json()["error"]
    assert ready.json() == {"error": "Server exiting"}


async def test_what_does_not_end_within_the_grace_is_503(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(drain_grace=0.05)
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)

    stopping = asyncio.ensure_future(gateway.gateway.drain())
    await stopping
    closing = asyncio.ensure_future(gateway.gateway.close())
    answer = await read_response(reader)
    await closing
    gateway._stopped = True

    assert answer.status == 503
    assert "Server is stopping" in answer.json["error"]


async def test_a_call_that_waits_for_its_model_does_not_delay_the_end(fleet: Site) -> None:
    gateway = await fleet.gateway(drain_grace=0.05, model_wait=3600.0)
    calling = asyncio.ensure_future(gateway.infer())
    await until(lambda: gateway.gateway.service.admission.polls == 1)

    await gateway.gateway.drain()
    await gateway.gateway.close()
    gateway._stopped = True

    answer = await calling
    assert answer.status_code == 503
    assert "Server is stopping" in answer.json()["error"]


async def test_a_keyed_call_in_flight_at_the_end_runs_on_for_the_next_gateway(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    one, other = await fleet.gateway(drain_grace=0.05), await fleet.gateway()
    first = asyncio.ensure_future(one.infer(idempotency_key="k"))
    await until(lambda: one.metric('penstock_gateway_claims_total{state="fresh"}') == 1)
    await one.gateway.drain()
    await one.gateway.close()
    one._stopped = True
    assert (await first).status_code == 503
    second = asyncio.ensure_future(other.infer(idempotency_key="k"))
    await until(lambda: other.metric('penstock_gateway_claims_total{state="attached"}') == 1)
    worker.open.set()

    assert (await second).status_code == 200
    assert len(worker.ran) == 1


@pytest.mark.parametrize("name", ["http_port", "metrics_port"])
async def test_a_port_that_is_taken_is_a_clear_error_and_leaves_nothing_behind(fleet: Site, name: str) -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port}.*--{name.replace('_', '-')}"):
            await fleet.gateway(**{name: port})

    tasks = [task.get_name() for task in asyncio.all_tasks()]
    assert not [task for task in tasks if task.startswith("gateway-")]


def test_a_host_that_is_none_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        bind("no.such.host.invalid", 0)


async def test_a_store_that_is_away_at_the_start_is_unavailable(fleet: Site) -> None:
    transport = await fleet.transport()
    await transport.results.close()

    with pytest.raises(Unavailable):
        await fleet.gateway(transport)


async def test_metrics_are_served(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(metrics_port=0)
    await gateway.infer()

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.gateway.metrics_port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    text = await asyncio.get_running_loop().run_in_executor(None, scrape)

    assert 'penstock_gateway_requests_total{code="OK",model="add_sub",version="1"} 1.0' in text
    assert "penstock_gateway_wake_age_seconds_count 1.0" in text
    assert "penstock_gateway_publish_records_count 1.0" in text


async def test_metrics_are_on_loopback_unless_told_and_say_whether_the_gateway_is_ready(fleet: Site) -> None:
    gateway = await fleet.gateway(host="0.0.0.0", api_key="secret", metrics_port=0)
    status = gateway.gateway._status
    assert status is not None
    assert status._server is not None

    assert status._server.sockets[0].getsockname()[0] == "127.0.0.1"
    url = f"http://127.0.0.1:{gateway.gateway.metrics_port}/v2/health/ready"
    assert (await gateway.client.get(url)).status_code == 200
    gateway.gateway.service.draining = True
    assert (await gateway.client.get(url)).text == "it is shutting down"


async def test_ipv6(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(host="::1")

    answer = await gateway.client.get(f"http://[::1]:{gateway.gateway.port}/v2/health/live")

    assert answer.status_code == 200


async def test_unknown_until_loaded_then_known_then_gone(fleet: Site) -> None:
    gateway = await fleet.gateway()
    assert (await gateway.infer()).status_code == 404
    worker = await fleet.worker()
    await until(lambda: bool(gateway.gateway.service.catalogue.all()))
    assert (await gateway.infer()).status_code == 200

    await worker.announce(ModelState.UNAVAILABLE)
    await until(lambda: not gateway.gateway.service.catalogue.versions("add_sub")[0].ready)

    assert (await gateway.infer()).status_code == 404


_SERVE = """
import asyncio
from gateway.app import Gateway
from gateway.settings import GatewaySettings
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

async def main():
    transport = open_transport(TransportSettings())
    await transport.open()
    gateway = Gateway(GatewaySettings(http_port=PORT, metrics_port=None), transport)
    await gateway.serve()
    await transport.close()
    print("ended in order")

asyncio.run(main())
"""


async def test_sigterm_ends_the_process_in_order() -> None:
    with contextlib.closing(bind("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(  # noqa: ASYNC220 (its output is read in a thread)
        [sys.executable, "-c", _SERVE.replace("PORT", str(port))],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(f"http://127.0.0.1:{port}/v2/health/ready")).status_code == 200:
                            break
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.get_running_loop().run_in_executor(None, process.communicate)
    finally:
        process.kill()

    assert process.returncode == 0
    assert "ended in order" in output.decode()
    assert "Traceback" not in output.decode()


def test_settings_are_checked_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError):
        GatewaySettings(host="0.0.0.0")


async def test_two_gateways_can_share_a_process(fleet: Site) -> None:
    transport = await fleet.transport()
    await fleet.worker()
    gateways = [
        Gateway(GatewaySettings(http_port=0, metrics_port=None), transport, NAMES, registry=CollectorRegistry())
        for _ in range(2)
    ]
    for gateway in gateways:
        await gateway.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        for gateway in gateways:
            url = f"http://127.0.0.1:{gateway.port}/v2/models/add_sub/infer"
            assert (await client.post(url, content=BODY)).status_code == 200
    for gateway in gateways:
        await gateway.drain()
        await gateway.close()
