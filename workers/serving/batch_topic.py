"""When the batch topic of a model version is read: from when somebody has made it, and not while the result store fills.

Invariants: waiting for the topic costs the broker one small request every few seconds, at a time of each version's own; the store
is asked about once a second, and only while records of the lane are here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from protocol.errors import Unavailable
from workers.context import Context
from workers.intake.consumer import Intake
from workers.serving.batch_lane import BatchLane

FIRST_PAUSE: Final = 2.0
"""Seconds between looks for a topic that does not exist."""
LONGEST_PAUSE: Final = 5.0
OPENING: Final = 5.0
"""Seconds that closing waits for an intake that is being opened."""
FILL_INTERVAL: Final = 1.0
"""Seconds between looks at the store."""
FULL: Final = 0.7
"""Share of the store's memory from which on batch work waits: the rest is for the answers to interactive calls."""

log = structlog.get_logger(__name__)


class BatchTopic:
    """Opens the lane's intake, and slows it.

    Args:
        context: the model version's.
        intake: of the batch topic.
        lane: takes its entries.
    """

    def __init__(self, context: Context, intake: Intake, lane: BatchLane) -> None:
        self._context = context
        self._intake = intake
        self._lane = lane
        self._opened = False
        self._not_opening = asyncio.Event()
        self._not_opening.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def opened(self) -> bool:
        """Whether the topic is read."""
        return self._opened

    async def start(self, like: str) -> None:
        """Read the topic once it exists. In one process it costs nothing and is made now, with as many partitions as `like`."""
        bus = self._context.bus
        if bus.immediate is not None:
            await bus.ensure_topic(self._intake.topic, await bus.partitions(like))
            await self._step(self._open_if_there)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, *, evict: bool) -> None:
        """Stop reading; see `Intake.close`."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):  # a half-made consumer could not be closed
                async with asyncio.timeout(OPENING):
                    await self._not_opening.wait()
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._opened:
            await self._intake.close(evict=evict)

    def abandon(self) -> None:
        """Stop abruptly, as a crash would."""
        if self._task is not None:
            self._task.cancel()
        self._intake.abandon()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while not await self._step(self._open_if_there):
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311  # not a secret
            pause = min(LONGEST_PAUSE, pause * 1.25)
        while True:
            await asyncio.sleep(FILL_INTERVAL)
            await self._step(self._look_at_store)

    async def _step(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Take a step, which is repeated if it fails; whether the topic is read now."""
        try:
            await step()
        except Unavailable as exc:
            log.info("a step of the batch lane is retried", topic=self._intake.topic, error=exc.message)
        except Exception as exc:
            log.error("a step of the batch lane failed; it is retried", topic=self._intake.topic, exc_info=exc)
        return self._opened

    async def _open_if_there(self) -> None:
        if self._opened or not await self._context.bus.partitions(self._intake.topic):
            return
        self._not_opening.clear()
        try:
            await self._intake.open(self._lane)
            self._opened = True
        finally:
            self._not_opening.set()

    async def _look_at_store(self) -> None:
        lane = self._lane
        if not lane.in_flight and not lane.slowed:
            return
        fill = await self._context.results.fill()
        slowed = f"the result store is {fill:.0%} full; the batch lane goes on below {FULL:.0%}" if fill >= FULL else ""
        if bool(slowed) != bool(lane.slowed):
            log.warning(
                "the batch lane waits" if slowed else "the batch lane goes on", topic=self._intake.topic, fill=fill
            )
        lane.slowed = slowed
        if not slowed:
            self._intake.room_freed()
