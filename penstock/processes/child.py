"""`python -m penstock.processes.child PARENT CHANNEL [MODELS]`: one acceptor process, started by `slot`.

PARENT is the parent's number, CHANNEL the descriptor of the channel to it, and MODELS that of the socket to the process with the
models and the log, if the gateway has no fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from workers.system import cpu_yield, parent_death

if TYPE_CHECKING:
    from protocol.transport import Transport

TELL_EVERY: Final = 1.0
"""Seconds between two reports of the metrics that nobody asked for: so much is lost of what a killed process counted."""


class Child:
    """An acceptor process.

    Args:
        channel: to the parent.
        models: to the process with the models; None with a fleet.

    Attributes:
        siblings: tells the other acceptor processes of this gateway something.
    """

    def __init__(self, channel: socket.socket, models: socket.socket | None) -> None:
        from prometheus_client import CollectorRegistry

        from penstock.processes.channel import Channel, ProcessChannel
        from protocol.runtime.tasks import BackgroundTasks

        self._end = channel
        self._models = models
        self._start: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._channel = Channel(self._on_message, _orphaned)
        self._registry = CollectorRegistry()
        self._tasks = BackgroundTasks("acceptor")
        self.siblings = ProcessChannel(self._channel.send)

    async def run(self) -> int:
        """Serve until the parent passes a signal on; returns the exit code."""
        from penstock.processes.outages import tell_parent
        from protocol.errors import FleetError
        from protocol.runtime import logs

        await self._channel.open(self._end)
        start = await self._start
        logs.configure(*start["logs"])
        tell_parent(self._channel.send)
        try:
            await self._serve(start)
        except FleetError as error:
            self._channel.send("failed", (error.code.value, error.message))
            return 1
        finally:
            await self._tasks.close()
            self._channel.close()
        return 0

    async def _serve(self, start: dict[str, Any]) -> None:
        from gateway.app import Gateway
        from penstock.processes.starting import gateway_settings, names

        transport = self._transport(start)
        self._gateway = Gateway(gateway_settings(start), transport, names(start), registry=self._registry)
        async with transport:
            await self._gateway.serve(self._started)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that cuts others' drains short: this one has ended
            await self._tell()

    def _transport(self, start: dict[str, Any]) -> Transport:
        from gateway.app import MEANWHILE
        from penstock.processes.starting import fleet_settings
        from protocol.transport import Transport, open_transport

        if self._models is None:
            return open_transport(fleet_settings(start), MEANWHILE)
        from protocol.transport.embedded.remote import RemoteBus, RemoteCalls, RemoteStore

        calls = RemoteCalls(self._models, _orphaned)
        store = RemoteStore(calls)
        return Transport(RemoteBus(calls), store, store)

    def _started(self) -> None:
        from penstock.processes.sharing import Sharing

        self._sharing = Sharing(self._gateway.service, self.siblings)
        self._channel.send("started")
        self._tasks.spawn(self._tell_forever())

    async def _tell_forever(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            await self._tell()

    async def _tell(self) -> None:
        from penstock.processes.metrics import collected
        from penstock.processes.sums import plain

        self._channel.send("metrics", plain(await asyncio.to_thread(collected, self._registry)))

    async def _tell_ready(self) -> None:
        self._channel.send("ready", await self._gateway.readiness())

    def _on_message(self, kind: str, value: Any) -> None:
        if kind == "start":
            self._start.set_result(value)
        elif kind == "published":
            self.siblings.received(*value)
        elif kind == "metrics":
            self._tasks.spawn(self._tell())
        elif kind == "ready":
            self._tasks.spawn(self._tell_ready())


def _orphaned() -> None:
    os._exit(1)  # the parent is gone, and with it the ports and the metrics


def main(parent: str, channel: str, models: str = "") -> int:
    """Run it; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the gateway handles it
    parent_death.die_with(int(parent))
    gc.disable()  # until `spare_collector`
    ends = [socket.socket(fileno=int(descriptor)) for descriptor in (channel, models) if descriptor]
    for end in ends:
        end.set_inheritable(False)
    with cpu_yield.thread():
        _import_all(fleet=not models)
    from protocol.runtime import loop

    return loop.run(_run(*ends))


def _import_all(*, fleet: bool) -> None:
    """Import what a gateway needs before there is anything to do: the process may be a spare."""
    modules = [
        "gateway.app",
        "gateway.rpc.server",
        "penstock.processes.metrics",
        "penstock.processes.sharing",
        "penstock.processes.starting",
        "uvloop",
    ]
    if fleet:
        modules += ["protocol.transport.kafka.bus", "protocol.transport.redis.store"]
    else:
        modules += ["protocol.transport.embedded.remote"]
    for name in modules:
        with contextlib.suppress(ImportError):  # uvloop is not everywhere
            importlib.import_module(name)


async def _run(channel: socket.socket, models: socket.socket | None = None) -> int:
    return await Child(channel, models).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
