"""`penstock worker`."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import click

from penstock.cli.options import fleet_options, log_options, metrics_option, model_options, option, options
from protocol.errors import ConfigError
from workers.system import cpu_yield


@click.command()
@options(
    fleet_options,
    model_options,
    option("--worker", default="", show_default=False, help="This worker's id and static membership: unique in the fleet, the same after a restart. [random]"),  # noqa: E501
    metrics_option,
    option("--supervised/--not-supervised", default=True, envvar="PENSTOCK_SUPERVISED", help="Run the worker as a child process that is restarted when it dies; its partitions are then reassigned at once."),  # noqa: E501
    log_options,
)  # fmt: skip
def command(supervised: bool, log_format: str, log_level: str, **flags: Any) -> None:
    """Drain Kafka into dynamic batches, run models, answer through Redis. Any number of workers share the work.

    \b
        penstock worker --model-repository models --kafka localhost:9092 --redis redis://localhost:6379
    """
    cpu_yield.begin()  # before the imports, which take most of the start
    gc.disable()  # until `spare_collector`, which `serve` and `supervise` call
    from penstock.cli.ports import require_free
    from penstock.cli.repositories import split
    from penstock.cli.settings import made, transport_settings
    from workers.settings import WorkerSettings

    if not flags["kafka"]:
        raise ConfigError("a worker needs --kafka HOST:PORT and --redis URL; without them: penstock serve")
    if not flags["model_repository"]:
        raise ConfigError(
            "a worker needs --model-repository, a folder of model folders; start one with: penstock new NAME"
        )
    from protocol.runtime import logs, loop

    settings, transport = made(WorkerSettings, split(flags)), transport_settings(**flags)
    logs.configure(log_format, log_level)
    require_free(flags)
    if supervised:
        from workers.supervision.supervisor import supervise

        os.environ |= {"PENSTOCK_LOG_FORMAT": log_format, "PENSTOCK_LOG_LEVEL": log_level}
        sys.exit(loop.run(supervise(settings, transport)))
    from workers.app import serve

    loop.run(serve(settings, transport))
    loop.leave(0)
