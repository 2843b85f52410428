"""The background loops of a gateway: follow the catalogue and the control topic, sweep waiting calls, check the fleet's health.

Invariant: each loop has its own task, is restarted when it fails, and while it fails the gateway is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.calls.dispatcher import Dispatcher
from gateway.calls.service import Service
from gateway.catalogue.heartbeats import is_sound
from gateway.fleet_metrics import FleetMetrics
from gateway.repository.control import RepositoryControl
from protocol.errors import FleetError, Unavailable
from protocol.heartbeat_codec import SECRET_BYTES, SECRET_KEY
from protocol.ports import OutRecord
from protocol.runtime.tasks import BackgroundTasks, run_forever

_SWEEP_EVERY: Final = 0.1
_LOOK_EVERY: Final = 1.0
_WORKERS_EVERY: Final = 0.5
_RESYNC_EVERY: Final = 10
_READ_CATALOGUE: Final = 30.0

_log = structlog.get_logger("gateway.background")


class Background:
    """Runs the background loops of one gateway.

    Args:
        service: gets what they find out.
        repository: gets the heartbeats, as `fleet_metrics` does.
        dispatcher: sweeps.
        fleet_metrics: of the workers.
    """

    def __init__(
        self, service: Service, repository: RepositoryControl, dispatcher: Dispatcher, fleet_metrics: FleetMetrics
    ) -> None:
        self._service = service
        self._repository = repository
        self._fleet_metrics = fleet_metrics
        self._dispatcher = dispatcher
        self._caught_up = asyncio.Event()
        self._controlled = asyncio.Event()
        self._failed: dict[str, str] = {}
        self._tasks = BackgroundTasks("gateway")

    async def start(self) -> None:
        """Start all loops; returns when the catalogue and the control topic have been read and health is known.

        Raises:
            Unavailable: they could not be read in time.
        """
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "catalogue": self._follow,
            "control": self._follow_control,
            "sweep": self._sweep,
            "health": self._health,
            "workers": self._watch_workers,
        }
        for name, run in work.items():
            self._tasks.spawn(run_forever(name, run, functools.partial(self._ended, name)), name=f"gateway-{name}")
        try:
            async with asyncio.timeout(_READ_CATALOGUE):
                await self._caught_up.wait()
                await self._controlled.wait()
        except TimeoutError:
            task = "control" if self._caught_up.is_set() else "catalogue"
            problem = self._failed.get(task, f"not done after {_READ_CATALOGUE:.0f} s")
            names = self._service.names
            topic = names.control_topic if self._caught_up.is_set() else names.catalogue_topic
            raise Unavailable(f"the {task} {topic} could not be read: {problem}") from None
        await self._examine()
        if not self._service.not_ready:
            await self._look_at_workers()

    async def close(self) -> None:
        """Stop everything."""
        await self._tasks.close()

    def _ended(self, name: str, problem: str) -> None:
        restarts = self._service.metrics.restarts
        restarts[name] = restarts.get(name, 0) + 1
        self._failed[name] = problem

    async def _follow(self) -> None:
        service = self._service
        topic = service.names.catalogue_topic
        await service.transport.bus.ensure_topic(topic, 1, compacted=True)
        agreed = service.keys.given
        async for records in service.transport.bus.follow(topic):
            for problem in service.catalogue.apply(records):
                _log.warning("announcement could not be read", error=problem)
            for record in records:
                if record.key == SECRET_KEY and len(record.value) == SECRET_BYTES:
                    service.keys.add(bytes(record.value))
                    agreed = True
            service.arrivals.changed()
            if not records:
                if not agreed:
                    await self._propose_secret(topic)
                self._caught_up.set()
                self._failed.pop("catalogue", None)

    async def _follow_control(self) -> None:
        """Follow the models' desired state; `service.control` hands the records on."""
        service = self._service
        topic = service.control.topic
        await service.transport.bus.ensure_topic(topic, 1, compacted=True)
        async for records in service.transport.bus.follow(topic):
            for problem in service.control.apply(records):
                _log.warning("control record could not be read", error=problem)
            if not records:
                self._controlled.set()
                self._failed.pop("control", None)

    async def _propose_secret(self, topic: str) -> None:
        """Publish a random signing secret. When two gateways do so at once, the later one wins; both verify with either."""
        service, secret = self._service, secrets.token_bytes(SECRET_BYTES)
        try:
            await service.transport.bus.publish(topic, [OutRecord(secret, (), SECRET_KEY)])
        except FleetError as error:
            _log.warning(
                "the secret that signs handles could not be shared: other gateways will not accept this gateway's handles; "
                "allow gateways to write to the topic, or set --signing-secret",
                topic=topic,
                error=error.message,
            )
        service.keys.add(secret)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY)
            await self._dispatcher.sweep()
            await self._dispatcher.trim()
            self._failed.pop("sweep", None)

    async def _health(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            turn += 1
            if turn % _RESYNC_EVERY == 0:
                await self._service.clock.resync(self._service.transport.results.now)
            await self._examine()
            self._failed.pop("health", None)

    async def _examine(self) -> None:
        """Update readiness, and the fill of the result store."""
        service, transport = self._service, self._service.transport
        service.admissions.measure(service.clock())
        service.not_ready = await self._problem()
        if not service.not_ready:
            service.arrivals.ready()
            service.fill = await transport.results.fill()

    async def _watch_workers(self) -> None:
        while True:
            await asyncio.sleep(_WORKERS_EVERY)
            if not self._service.not_ready:
                await self._look_at_workers()
            self._failed.pop("workers", None)

    async def _look_at_workers(self) -> None:
        """Update what the catalogue and the router know of the workers, from one reading of their heartbeats."""
        service, transport = self._service, self._service.transport
        heartbeats = [beat for beat in await transport.directory.workers() if is_sound(beat)]
        for served in service.catalogue.seen(heartbeats, service.clock() - service.settings.worker_timeout):
            _log.warning("files differ", model=served.model, version=served.version, problem=served.mixed)
        self._repository.observe(heartbeats)
        service.capacity.observe(heartbeats)
        service.scaling.observe(heartbeats)
        self._fleet_metrics.observe(heartbeats, service.clock() - service.settings.worker_timeout)
        for topic in service.capacity.unsure():
            with contextlib.suppress(FleetError):
                service.capacity.learn(topic, await transport.bus.partitions(topic))

    async def _problem(self) -> str:
        if not self._caught_up.is_set():
            return "the catalogue has not been read"
        if not await self._service.transport.bus.healthy():
            return "the broker does not answer"
        if not await self._service.transport.results.healthy():
            return "the result store does not answer"
        return next((f"{name} failed: {problem}" for name, problem in self._failed.items()), "")
