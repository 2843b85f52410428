"""What a scaler knows: the catalogue, heartbeats, logs and hints, and who waits for a change.

Invariant: each loop has its own task and is restarted when it fails; meanwhile what was known grows stale, and calls fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.catalogue.catalogue import Catalogue
from gateway.catalogue.heartbeats import is_sound
from gateway.counters import Counters
from gateway.scaler.metadata import Trigger
from gateway.scaler.settings import ScalerSettings
from gateway.scaling.fleet import GroupScaling
from gateway.scaling.view import ScalingView
from protocol.control import ControlTable
from protocol.errors import Exhausted, Unavailable
from protocol.naming import Names
from protocol.runtime.clock import Clock
from protocol.runtime.tasks import BackgroundTasks, run_forever
from protocol.transport import Transport

MAX_GROUPS: Final = 1000
"""Groups of models that are decided at the same time."""
FORGET_AFTER: Final = 3600.0
"""Seconds after which a group is forgotten that nobody asks for."""
BETWEEN: Final = 0.01
"""Seconds between two decisions that hints lead to."""
RESYNC_EVERY: Final = 10.0
READ_AFTER_HINT: Final = 0.1
"""Seconds: what the logs said so lately is not read again for a hint."""
_NEVER: Final = float("-inf")

_log = structlog.get_logger("gateway.scaler")


class Knowledge:
    """Follows a fleet.

    Args:
        settings: of the scaler.
        transport: of the fleet, open.
        names: of its topics.
        clock: the fleet's.

    Attributes:
        view: what is known.
        hints: that were heard, for the metrics.
    """

    def __init__(self, settings: ScalerSettings, transport: Transport, names: Names, clock: Clock) -> None:
        counters: dict[tuple[str, str], Counters] = {}
        self._settings = settings
        self._transport = transport
        self._names = names
        self._clock = clock
        self._catalogue = Catalogue(names, counters)
        self.view = ScalingView(
            transport.bus, transport.results, names, self._catalogue, clock, settings.worker_timeout
        )
        self._control = ControlTable()
        self.view.follow(self._control)
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks("scaler")
        self._groups: dict[Trigger, float] = {}
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._caught_up = self._controlled = False
        self._beats_at = self._logs_at = self._decided_at = _NEVER
        self._scheduled: asyncio.TimerHandle | None = None
        self._look = asyncio.Event()
        self.hints = 0

    async def start(self) -> None:
        """Begin to follow; returns before everything is known.

        Raises:
            Unavailable: the store does not answer.
        """
        await self._clock.resync(self._transport.results.now)
        await self._transport.directory.listen_waiting(self._on_hint)
        work: dict[str, Callable[[], Awaitable[None]]] = {
            "catalogue": self._follow,
            "control": self._follow_control,
            "heartbeats": self._watch,
            "logs": self._read,
            "clock": self._resync,
        }
        for name, run in work.items():
            self._tasks.spawn(run_forever(name, run), name=f"scaler-{name}")

    async def close(self) -> None:
        """Stop."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        await self._tasks.close()
        await self.view.close()

    @property
    def problem(self) -> str:
        """Why too little is known to answer; "" if enough is."""
        now, oldest = self._loop.time(), self._settings.stale_after
        if not (self._caught_up and self._controlled):
            return f"{self._names.catalogue_topic} and {self._names.control_topic} have not been read yet"
        if now - self._beats_at > oldest:
            return f"the workers' heartbeats could not be read from the store for {oldest:g} s"
        if now - self._logs_at > oldest:
            return f"the ends of the logs could not be read from the broker for {oldest:g} s"
        return ""

    def group(self, trigger: Trigger) -> GroupScaling:
        """The workers of a trigger's models.

        Raises:
            Unavailable: too little is known.
            Exhausted: too many groups are asked for.
        """
        if problem := self.problem:
            raise Unavailable(f"{problem}; nothing is scaled meanwhile", retry_after=1.0)
        if trigger not in self._groups and len(self._groups) >= MAX_GROUPS:
            raise Exhausted(f"{MAX_GROUPS} groups of models are scaled already; at most so many may be")
        self._groups[trigger] = self._loop.time()
        return self.view.fleet.group(trigger.models, trigger.policy)

    async def change(self, wait: float) -> None:
        """Return after the next decision, or after `wait` seconds."""
        await asyncio.wait([self._changed], timeout=wait)

    # --- what happens -------------------------------------------------------------------------------------------------

    def _on_hint(self, topic: str) -> None:
        self.hints += 1
        self.view.fleet.woken(topic, self._clock())
        self._look.set()
        if self._scheduled is None:
            pause = max(0.0, self._decided_at + BETWEEN - self._loop.time())
            self._scheduled = self._loop.call_later(pause, self._decide_for_hints)

    def _decide_for_hints(self) -> None:
        self._scheduled = None
        self._decided_at = self._loop.time()
        self.view.update()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, self._loop.create_future()
        changed.set_result(None)

    async def _follow(self) -> None:
        topic = self._names.catalogue_topic
        await self._transport.bus.ensure_topic(topic, 1, compacted=True)
        async for records in self._transport.bus.follow(topic):
            for problem in self._catalogue.apply(records):
                _log.warning("announcement could not be read", error=problem)
            if not records:
                self._caught_up = True
                self._look.set()

    async def _follow_control(self) -> None:
        """Follow which models are pinned or should be loaded."""
        topic = self._names.control_topic
        await self._transport.bus.ensure_topic(topic, 1, compacted=True)
        async for records in self._transport.bus.follow(topic):
            for problem in self._control.apply(records):
                _log.warning("control record could not be read", error=problem)
            self._controlled = self._controlled or not records

    async def _watch(self) -> None:
        while True:
            beats = [beat for beat in await self._transport.directory.workers() if is_sound(beat)]
            self._beats_at = self._loop.time()
            self.view.observe(beats)
            self.view.update()
            self._forget()
            self._tell()
            await asyncio.sleep(self._settings.heartbeats_every)

    async def _read(self) -> None:
        """Read the logs in turn, and at once after a hint."""
        while True:
            self._look.clear()
            if self._caught_up and self._beats_at != _NEVER:
                await self.view.refresh(READ_AFTER_HINT)
                self._logs_at = self._loop.time()
                self._tell()
                await asyncio.sleep(READ_AFTER_HINT)
            try:
                async with asyncio.timeout(self._settings.logs_every):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_EVERY)
            await self._clock.resync(self._transport.results.now)

    def _forget(self) -> None:
        """Forget groups that nobody asks for."""
        since = self._loop.time() - FORGET_AFTER
        for trigger in [trigger for trigger, asked in self._groups.items() if asked < since]:
            del self._groups[trigger]
            self.view.fleet.forget_group(trigger.models, trigger.policy)
