"""The parent of a gateway's acceptor processes: it starts them, tells their sum, and ends with them. It takes no calls itself.

Invariants: a process that dies is started again after a pause (`workers.system.backoff`), unless everything is stopping or no
process has ever been ready: a setting that is wrong ends the gateway as it ends a single process. SIGTERM and SIGINT are passed on,
each time; the parent ends once all processes have ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from gateway.settings import GatewaySettings
from penstock.processes.acceptor import Spare
from penstock.processes.channel import Kept
from penstock.processes.limits import settings_of
from penstock.processes.metrics import SumCollector
from penstock.processes.outages import Outages
from penstock.processes.ports import reserved
from penstock.processes.slot import Slot
from penstock.processes.starting import start_message
from penstock.processes.sums import Family
from protocol.runtime.loop import pass_signals_on, spare_collector
from protocol.runtime.outages import log as outages_log
from protocol.runtime.status import StatusServer
from protocol.transport.settings import TransportSettings

log = structlog.get_logger(__name__)


class Processes:
    """All acceptor processes of one gateway.

    Args:
        count: of processes.
        settings: of the gateway as a whole; each process gets its part of the limits.
        transport: of the fleet, or of this process's transport if there is `attach`.
        logs: format and level.
        attach: makes a new connection to this process's transport, and returns the child's end of it.
        registry: of further metrics that this process serves beside the sums.

    Attributes:
        settings: as given, with the ports that were free.
        spare: a process that has no place yet.
    """

    def __init__(
        self,
        count: int,
        settings: GatewaySettings,
        transport: TransportSettings,
        logs: tuple[str, str],
        attach: Callable[[], socket.socket] | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        parts = [settings_of(settings, count, number) for number in range(count)]
        self.settings, self._ports = reserved(settings)
        self.spare = Spare(attach)
        self._kept = Kept()
        self._outages = Outages()
        self._sums = SumCollector(registry if registry is not None else CollectorRegistry(), count)
        self._status = StatusServer(self._sums.registry, self._readiness, notes=self._notes, refresh=self._refresh)
        self._first_ready = asyncio.Event()
        self._stopping = False
        self._unready: list[str] = []
        self._slots = [
            Slot(number, functools.partial(self._start_message, part, transport, logs), self, settings.drain_grace)
            for number, part in enumerate(parts)
        ]

    def _start_message(self, part: GatewaySettings, *rest: Any) -> dict[str, Any]:
        return start_message(self._with_ports(part), *rest)

    def _with_ports(self, part: GatewaySettings) -> GatewaySettings:
        settings = self.settings
        return dataclasses.replace(
            part, http_port=settings.http_port, grpc_port=settings.grpc_port, metrics_at=self._status.address
        )

    @property
    def metrics_port(self) -> int | None:
        """The port of Prometheus; None without one."""
        return self._status.port

    @property
    def pids(self) -> list[int | None]:
        """The living processes' numbers, by slot."""
        return [slot.pid for slot in self._slots]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let all processes drain and exit. A second call cuts it short."""
        self._stopping = True
        for slot in self._slots:
            slot.stop(number)

    async def run(self) -> int:
        """Serve until `stop`; returns the exit code: 0 if every process answered all its calls.

        Raises:
            ConfigError, Unavailable: no process could start.
        """
        await self._status.start(self.settings.metrics_host, self.settings.metrics_port)
        try:
            codes = await asyncio.gather(*[slot.run(self._restarts) for slot in self._slots])
            if not self._first_ready.is_set():
                for slot in self._slots:
                    if slot.failure is not None:
                        raise slot.failure
            return next((code for code in codes if code), 0)
        finally:
            await self.spare.close()
            await self._status.close()
            for port in self._ports:
                port.close()

    async def started(self) -> None:
        """Wait until a process takes calls."""
        await self._first_ready.wait()

    def _restarts(self, _: int) -> bool:
        if self._first_ready.is_set():
            return True
        self.stop()  # no process has ever been ready, so none of them will be
        return False

    # --- what the slots tell -----------------------------------------------------------------------------------------

    def became_ready(self, number: int) -> None:
        """See `slot.Crew`."""
        self._first_ready.set()
        if all(slot.ready for slot in self._slots):
            log.info(
                "all acceptor processes take calls", processes=len(self._slots), port=self.settings.http_port,
                grpc_port=self.settings.grpc_port,
            )  # fmt: skip
            self.spare.fill()

    def counted(self, number: int, families: list[Family]) -> None:
        """See `slot.Crew`."""
        self._sums.sums.update(number, families)

    def died(self, number: int) -> None:
        """See `slot.Crew`."""
        self._sums.sums.retire(number)
        self._outages.died(number)
        if not self._stopping:
            self._sums.restarts[number] += 1

    def published(self, number: int, key: str, value: bytes) -> None:
        """See `slot.Crew`."""
        if self._kept.take(key, value):
            for slot in self._slots:
                if slot.number != number:
                    slot.send("published", (key, value))

    def away(self, number: int, server: str, away: bool, level: int, line: str) -> None:
        """See `slot.Crew`."""
        if self._outages.written(number, server, away=away):
            outages_log.log(level, line)

    def kept(self) -> Mapping[str, bytes]:
        """See `slot.Crew`."""
        return self._kept.values

    # --- metrics and health ------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Ask all processes for their metrics."""
        await asyncio.gather(*[slot.ask("metrics") for slot in self._slots])
        self._sums.ready = [slot.ready for slot in self._slots]

    async def _readiness(self) -> list[str]:
        """Why no process is ready; [] if one is. `_notes` says which are not."""
        answers = await asyncio.gather(*[slot.ask("ready") for slot in self._slots])
        self._unready = []
        for slot, reasons in zip(self._slots, answers, strict=True):
            silent = ["it does not answer" if slot.ready else "it is starting"]
            self._unready += [f"process {slot.number}: {reason}" for reason in (silent if reasons is None else reasons)]
        if self._stopping:
            return ["it is shutting down", *self._unready]
        return self._unready if all(answer is None or answer for answer in answers) else []

    def _notes(self) -> list[str]:
        return self._unready


async def serve(count: int, settings: GatewaySettings, transport: TransportSettings, logs: tuple[str, str]) -> int:
    """Run a gateway of several processes until SIGTERM or SIGINT; returns its exit code.

    Raises:
        ConfigError, Unavailable: as a single process.
    """
    processes = Processes(count, settings, transport, logs)
    pass_signals_on(processes.stop)
    spare_collector()
    return await processes.run()
