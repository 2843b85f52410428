"""`penstock gateway`."""

from __future__ import annotations

import sys
from typing import Any

import click

from penstock.cli import grpc_port
from penstock.cli.options import (
    fleet_options,
    gateway_options,
    log_options,
    metrics_option,
    option,
    options,
    processes_option,
)
from penstock.cli.ports import require_free
from penstock.cli.settings import made, transport_settings
from protocol.errors import ConfigError


@click.command()
@options(
    fleet_options,
    gateway_options,
    processes_option,
    metrics_option,
    option("--model-wait", type=float, default=10.0, help="Seconds after its start during which a call for an unknown model waits for it; after that, 404."),  # noqa: E501
    option("--signing-secret", default="", show_default=False, help="Signs the handles of asynchronous calls; must be the same on all gateways. [a random one that the gateways of a fleet share]"),  # noqa: E501
    option("--max-queued-bytes", type=int, default=512 * 1024 * 1024, help="Bytes of requests and answers that the gateway holds at once; beyond it answers 429 or 503."),  # noqa: E501
    option("--max-long-polls", type=int, default=1024, help="Maximum number of waiting long polls; more are answered 429."),
    option("--json-processes", type=int, default=2, help="Maximum number of processes for JSON above 1 MB."),
    option("--drain-grace", type=float, default=30.0, help="Seconds that calls in flight get after SIGTERM."),
    log_options,
)  # fmt: skip
def command(log_format: str, log_level: str, **flags: Any) -> None:
    """Take calls over HTTP and gRPC, publish them to Kafka, answer from Redis. Any number of gateways share a fleet.

    penstock gateway --kafka localhost:9092 --redis redis://localhost:6379
    """
    from protocol.runtime import logs, loop

    if not flags["kafka"]:
        raise ConfigError("a gateway needs --kafka HOST:PORT and --redis URL; without them: penstock serve")
    logs.configure(log_format, log_level)
    if flags["processes"] > 1:
        sys.exit(loop.run(_serve_processes(flags, (log_format, log_level))))
    loop.run(_serve(flags))


async def _serve_processes(flags: dict[str, Any], logs: tuple[str, str]) -> int:
    from gateway.settings import GatewaySettings
    from penstock.processes import parent

    grpc_port.choose(flags)
    settings = made(GatewaySettings, flags)
    require_free(flags)
    return await parent.serve(flags["processes"], settings, transport_settings(**flags), logs)


async def _serve(flags: dict[str, Any]) -> None:
    from gateway.app import MEANWHILE, Gateway
    from gateway.settings import GatewaySettings
    from protocol.transport import open_transport

    grpc_port.choose(flags)
    settings, own = transport_settings(**flags), made(GatewaySettings, flags)
    require_free(flags)
    async with open_transport(settings, MEANWHILE) as transport:
        await Gateway(own, transport, settings.names).serve()
