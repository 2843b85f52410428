"""One worker: its models, its heartbeat and its background tasks, from start to drain to close.

Invariants: the transport is open before `start`, and its opener closes it; a background step that fails is retried, and readiness
reports it; after `drain` nothing more is fetched, and every fetched request is answered or stays in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from protocol.errors import FleetError, Unavailable
from protocol.naming import Names
from protocol.runtime.clock import Clock
from protocol.runtime.serving import serve
from protocol.runtime.status import StatusServer
from protocol.runtime.tasks import BackgroundTasks
from protocol.transport import Transport
from workers.context import Context
from workers.crash_journal import CrashJournal
from workers.devices import Hardware, cores
from workers.instances.limited import RateLimit
from workers.instances.rate_limiter import parse_resources
from workers.lifecycle.control import Control
from workers.lifecycle.loader import Loader
from workers.lifecycle.models import Models
from workers.lifecycle.spares import PartitionRaiser
from workers.metrics import WorkerMetrics
from workers.response_cache import ResponseCache
from workers.retry import Retry
from workers.settings import WorkerSettings, made_up_id
from workers.supervision.heartbeat import (
    DirectorySender,
    HeartbeatResponder,
    HeartbeatSender,
    HeartbeatSource,
    PipeSender,
    SupervisorGone,
)
from workers.system import cpu_yield

RESTART_PAUSE: Final = 1.0
LOOK_INTERVAL: Final = 1.0

log = structlog.get_logger(__name__)


class Worker:
    """Serves the models of its repositories from the bus into the results.

    Args:
        settings: what to serve.
        transport: open.
        names: of topics and channels.
        clock: the process's; it is synchronised with the result store's.
        registry: where its metrics are registered.

    Attributes:
        id: also its static membership.
        models: what it serves.
        control: follows the fleet's desired state; None without explicit control.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        transport: Transport,
        names: Names | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.id = settings.worker or made_up_id()
        self.registry = CollectorRegistry() if registry is None else registry
        self._settings = settings
        self._transport = transport
        self._clock = clock or Clock()
        self._context = _context(self.id, settings, transport, names or Names(), self._clock)
        hardware = Hardware()
        self.models = Models(self._context, settings, _loader(settings, hardware, self._clock), transport.directory)
        alone = (
            settings.metrics_port is not None
        )  # otherwise the registry is a gateway's, which has the fleet's figures
        self.metrics = WorkerMetrics(self.registry, self.models.serving, self._context.retry, hardware, inference=alone)
        explicit = settings.model_control_mode == "explicit"
        self.control = Control(self._context, settings, self.models, transport.directory) if explicit else None
        self._partitions = PartitionRaiser(self._context, self.models, transport.directory, settings.max_partitions)
        self._pulse = HeartbeatSource(self._context, self.models, settings.model_control_mode, self.control)
        self._pulse.restarts = self.metrics.restarts = settings.restarts
        self._outlet = _outlet(settings, transport)
        self._asks = HeartbeatResponder(self._pulse, self._outlet, transport.directory)
        self._failed: dict[str, str] = {}
        self._background = BackgroundTasks("worker", worker=self.id)
        self._started = self._closed = False
        self._status = StatusServer(self.registry, self.readiness, notes=self.notes)

    @property
    def metrics_port(self) -> int | None:
        """The port of metrics and health; None without one."""
        return self._status.port

    async def start(self) -> None:
        """Load the models and serve them; closes the worker if that fails.

        Raises:
            ConfigError: a model cannot be loaded, and `exit_on_error` is set.
            Unavailable: broker or store does not answer.
        """
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        log.info("worker ready", worker=self.id, models=len(self.models.serving()))

    async def _begin(self) -> None:
        names = self._context.names
        await self._clock.resync(self._transport.results.now)
        await self._transport.bus.ensure_topic(names.catalogue_topic, 1, compacted=True)
        self._start("heartbeat", self._beat)
        self._start("clock", self._resync)
        self._start("catalogue", self._look_again)
        self._start("partitions", self._look_at_partitions)
        self._start("asks", self._asks.answer)
        await self._asks.listen()
        if self.control is None:
            await self.models.start()
        else:
            self._start("desired state", self.control.follow)
            await self.control.begin()
            self._start("control", self.control.work)
        if self._settings.model_control_mode == "poll":
            self._start("repository", self._poll)
        self._started = True
        with contextlib.suppress(Unavailable):
            await self._say()
        await self._status.start(self._settings.metrics_host, self._settings.metrics_port)
        self.metrics.ready = lambda: not self._problems()

    async def readiness(self) -> list[str]:
        """Why this worker should get no work now, one sentence each; empty if it is ready."""
        problems = self._problems()
        if not await self._transport.bus.healthy():
            problems.append("the broker does not answer")
        if not await self._transport.results.healthy():
            problems.append("the result store does not answer")
        return problems

    def notes(self) -> list[str]:
        """What slows this worker although it is ready, one sentence each."""
        return [
            f"model '{m.key[0]}' version {m.key[1]}: {m.batch_lane.slowed}"
            for m in self.models.serving()
            if m.batch_lane.slowed
        ]

    def _problems(self) -> list[str]:
        problems = [f"{name} failed: {problem}" for name, problem in self._failed.items()]
        if not self._started:
            problems.append("the worker is starting")
        if self._pulse.draining:
            problems.append("the worker is draining")
        if text := self._context.retry.problem():
            problems.append(f"a call of store or broker: {text}")
        serving = self.models.serving()
        problems += [
            f"model '{m.key[0]}' version {m.key[1]} takes no requests: {text}"
            for m in serving
            if (text := m.retry.problem())
        ]
        problems += [
            f"fetching from {intake.topic} fails: {intake.problem}"
            for m in serving
            for intake in m.intakes()
            if intake.problem
        ]
        problems += [f"model '{m.key[0]}' version {m.key[1]}: {text}" for m in serving if (text := m.runner.problem())]
        problems += [
            f"{m.topic} has no partitions assigned yet" for m in self.models.serving() if not m.intake.joined.is_set()
        ]
        return problems + self.models.problems()

    async def drain(self, grace: float) -> None:
        """Fetch nothing more and answer the requests that are here, for at most `grace` seconds."""
        self._pulse.draining = True
        if self.control is not None:
            self.control.stop()
        with contextlib.suppress(Unavailable):
            await self._say()
        await self.models.drain(grace)

    async def close(self) -> None:
        """Leave all groups, free the models, stop. Without `drain`, fetched records are delivered again. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._background.close()
        if self.control is not None:
            await self.control.close()
        await self._status.close()
        await self.models.close()
        self.metrics.close()
        try:
            await self._transport.directory.forget(self.id)
        except Unavailable as exc:
            log.info("the directory keeps this worker's last heartbeat", error=exc.message)

    def abandon(self) -> None:
        """Stop abruptly, as a crash would: no answer, no commit, no heartbeat. For tests."""
        self._background.cancel()
        self.models.abandon()

    async def serve(self) -> None:
        """Start, run until SIGTERM or SIGINT, then drain and close; a second signal stops draining (`protocol.runtime.loop`)."""
        grace = self._settings.drain_grace
        await serve(self.start, self.close, drain=lambda asked: self.drain(asked.grace(grace)), worker=self.id)

    # --- background --------------------------------------------------------------------------------------------------

    def _start(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        self._background.spawn(self._repeat(name, step), name=f"worker-{name}")

    async def _repeat(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run the step repeatedly, with a pause after an error, which is logged once until it is over."""
        while True:
            try:
                await step()
                self._failed.pop(name, None)
            except Exception as exc:
                known = isinstance(exc, FleetError)
                if name not in self._failed:
                    log.warning(
                        "background task failed; it is retried",
                        task=name,
                        error=str(exc),
                        exc_info=None if known else exc,
                    )
                self._failed[name] = str(exc)
                await asyncio.sleep(RESTART_PAUSE)

    async def _beat(self) -> None:
        if self._started:
            cpu_yield.end()
        await self._say()
        await asyncio.sleep(self._settings.heartbeat_interval)

    async def _say(self) -> None:
        try:
            await self._outlet.beat(await self._pulse.current_heartbeat())
        except SupervisorGone:
            if not self._pulse.draining:
                log.error("the supervisor is gone; this worker drains and stops", worker=self.id)
                signal.raise_signal(signal.SIGTERM)
            raise

    async def _resync(self) -> None:
        await asyncio.sleep(self._settings.resync_interval)
        await self._clock.resync(self._transport.results.now)

    async def _look_again(self) -> None:
        await asyncio.sleep(LOOK_INTERVAL)
        await self.models.announcer.look_again()

    async def _look_at_partitions(self) -> None:
        await asyncio.sleep(LOOK_INTERVAL)
        if not self._pulse.draining:
            await self._partitions.look()

    async def _poll(self) -> None:
        await asyncio.sleep(self._settings.repository_poll_secs)
        await self.models.poll()


def _context(worker: str, settings: WorkerSettings, transport: Transport, names: Names, clock: Clock) -> Context:
    return Context(
        worker,
        secrets.token_hex(8),
        names,
        clock,
        transport.bus,
        transport.results,
        Retry(),
        settings.fence_ttl,
        settings.max_attempts,
        None if settings.journal_fd is None else CrashJournal(settings.journal_fd),
        microtasks=transport.microtasks,
        topic_fence_ttl=settings.topic_fence_ttl,
        cache=ResponseCache(settings.cache_bytes) if settings.cache_bytes else None,
    )


def _loader(settings: WorkerSettings, hardware: Hardware, clock: Clock) -> Loader:
    loader = Loader(
        hardware.gpus if settings.gpus is None else settings.gpus,
        settings.cores or cores(),
        settings.default_max_batch_size if settings.auto_complete_config else None,
        settings.load_threads,
        clock,
        _rate_limit(settings),
    )
    loader.check_batching = settings.check_batching
    return loader


def _rate_limit(settings: WorkerSettings) -> RateLimit | None:
    return (
        RateLimit(parse_resources(settings.rate_limit_resource)) if settings.rate_limit == "execution_count" else None
    )


def _outlet(settings: WorkerSettings, transport: Transport) -> HeartbeatSender:
    if settings.heartbeat_fd is not None:
        return PipeSender(settings.heartbeat_fd)
    return DirectorySender(transport.directory)
