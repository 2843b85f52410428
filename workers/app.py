"""Assembles a worker process from its settings and runs it until it is stopped."""

from __future__ import annotations

import sys
from typing import Final

from protocol.runtime.loop import spare_collector
from protocol.runtime.outages import Meanwhile
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from workers.settings import WorkerSettings
from workers.worker import Worker

SWITCH_INTERVAL: Final = 0.0005
"""Seconds after which a thread that waits for the interpreter gets it. With Python's 5 ms a finished instance would wait that
long for a busy event loop."""

MEANWHILE: Final = Meanwhile(
    kafka="models stay loaded, and no requests come until it does",
    redis="models stay loaded, and finished answers are kept until it does",
)
"""What a worker does while a server is away."""


def tune() -> None:
    """Tune the interpreter for a process with a worker in it; call it once everything is imported."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    spare_collector()


async def serve(settings: WorkerSettings, transport: TransportSettings) -> None:
    """Run one worker on its own transport until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting or a model is wrong.
        Unavailable: broker or store did not answer in time.
    """
    async with open_transport(transport, MEANWHILE) as carriers:
        worker = Worker(settings, carriers, transport.names)
        tune()
        await worker.serve()
