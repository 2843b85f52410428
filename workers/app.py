"""A worker process, put together: settings in, a worker that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from typing import Final

import structlog

from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from workers.settings import WorkerSettings
from workers.worker import Worker

__all__ = ["Worker", "run", "serve", "tune"]

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread that wants the interpreter gets it. With Python's 5 ms an instance that has finished waits that long
behind an event loop that is busy."""


def tune() -> None:
    """Settings of the interpreter that a process with a worker in it wants; call it once everything is imported."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def serve(settings: WorkerSettings, transport: TransportSettings) -> None:
    """Run one worker on its own transport until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting or a model is wrong.
        Unavailable: broker or store did not answer in time.
    """
    carriers = open_transport(transport)
    await carriers.open()
    try:
        worker = Worker(settings, carriers, transport.names)
        tune()
        await worker.serve()
    finally:
        await carriers.close()


def run(settings: WorkerSettings, transport: TransportSettings) -> None:
    """`serve` on the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, transport))
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, transport))


def configure_logs(form: str, level: str) -> None:
    """Log lines for people ("human") or machines ("json") on standard error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(number, logging.INFO), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
