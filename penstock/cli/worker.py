"""`penstock worker`."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.options import fleet_options, log_options, metrics_option, model_options, option, options
from penstock.cli.settings import chosen, transport_settings
from protocol.errors import ConfigError


@click.command()
@options(
    fleet_options,
    model_options,
    option("--worker", default="", show_default=False, help="This worker's id and static membership: unique in the fleet, the same after a restart. [made up]"),  # noqa: E501
    metrics_option,
    option("--metrics-host", default="127.0.0.1", help="Address of metrics and health routes."),
    log_options,
)  # fmt: skip
def command(log_format: str, log_level: str, **flags: Any) -> None:
    """Drain Kafka into dynamic batches, run models, answer through Redis. Any number of workers share the work.

    \b
        penstock worker --model-repository models --kafka localhost:9092 --redis redis://localhost:6379
    """
    from workers.settings import WorkerSettings

    if not flags["kafka"]:
        raise ConfigError("a worker needs --kafka HOST:PORT and --redis URL; without them: penstock serve")
    if not flags["model_repository"]:
        raise ConfigError(
            "a worker needs --model-repository, a folder of model folders; start one with: penstock new NAME"
        )
    settings = WorkerSettings(**chosen(WorkerSettings, flags))
    from protocol import logs
    from workers.app import run

    logs.configure(log_format, log_level)
    run(settings, transport_settings(**flags))
