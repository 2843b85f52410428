"""`penstock scaler`."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.options import fleet_options, log_options, metrics_option, option, options
from penstock.cli.ports import require_free
from penstock.cli.settings import made, transport_settings
from protocol.errors import ConfigError


@click.command()
@options(
    fleet_options,
    option("--host", default="127.0.0.1", help="Address of gRPC; 0.0.0.0 if KEDA is on another host."),
    option("--grpc-port", type=int, default=6000, envvar="PENSTOCK_SCALER_GRPC_PORT", help="Port of gRPC; 0 takes a free one."),
    option("--tls-certificate", default="", help="PEM file; with --tls-key gRPC speaks TLS."),
    option("--tls-key", default="", help="PEM file."),
    option("--tls-client-ca", default="", help="PEM file of the authorities that sign client certificates; callers must then have one."),  # noqa: E501
    metrics_option,
    log_options,
)  # fmt: skip
def command(log_format: str, log_level: str, **flags: Any) -> None:
    """Tell KEDA how many workers are wanted: its external-push scaler. Any number of scalers may run.

    penstock scaler --kafka localhost:9092 --redis redis://localhost:6379
    """
    from protocol.runtime import logs, loop

    if not flags["kafka"]:
        raise ConfigError("a scaler needs --kafka HOST:PORT and --redis URL")
    logs.configure(log_format, log_level)
    loop.run(_serve(flags))


async def _serve(flags: dict[str, Any]) -> None:
    from gateway.scaler.app import MEANWHILE, Scaler
    from gateway.scaler.settings import ScalerSettings
    from protocol.transport import open_transport

    settings, own = transport_settings(**flags), made(ScalerSettings, flags)
    require_free(flags)
    async with open_transport(settings, MEANWHILE) as transport:
        await Scaler(own, transport, settings.names).serve()
