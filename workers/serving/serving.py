"""A loaded model version that takes requests: its intake, its runner and its instances."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from protocol.errors import Code, Unavailable
from protocol.messages import Failure, ModelLoad, ModelState
from workers.context import Context
from workers.instances.loaded import LoadedModel
from workers.intake.consumer import Intake
from workers.intake.decoder import RecordDecoder
from workers.repository.signature import Signature
from workers.retry import Retry
from workers.serving.runner import Runner
from workers.statistics import ModelStatistics

LAG_INTERVAL = 0.1
"""Seconds between checks of the lag of a topic that is being drained."""

log = structlog.get_logger(__name__)


class Serving:
    """A version from its first request to its last.

    Args:
        context: the worker's.
        loaded: the instances.
        max_bytes: of requests that wait or run.

    Attributes:
        key: (model, version).
        last_lag: as of the last heartbeat.
    """

    def __init__(self, context: Context, loaded: LoadedModel, max_bytes: int) -> None:
        version = loaded.version
        self.key = (version.model, str(version.version))
        self.loaded = loaded
        self.statistics = ModelStatistics()
        self.last_lag = 0
        context = self._context = context.of_a_model(version.digest)
        decoder = RecordDecoder(context.names, Signature(version.config), *self.key)
        self.intake = Intake(context, decoder, self.statistics, version.digest)
        self.runner = Runner(context, version.config, loaded.executors, self.statistics, self.intake, max_bytes)

    @property
    def retry(self) -> Retry:
        """Repeats its calls of store and broker, and reports which fail."""
        return self._context.retry

    @property
    def topic(self) -> str:
        """The topic that it reads; also its consumer group."""
        return self.intake.topic

    async def open(self) -> None:
        """Take requests from now on; the topic must exist."""
        await self.intake.open(self.runner)

    async def finish(self, grace: float) -> bool:
        """Take nothing new and answer the requests that are here; returns whether that took at most `grace` seconds."""
        self.intake.pause()
        self.runner.drain()
        try:
            async with asyncio.timeout(grace):
                await self.runner.drained()
        except TimeoutError:
            log.warning(
                "requests were left unanswered; they stay in the log", topic=self.topic, requests=self.runner.in_flight
            )
            return False
        return True

    async def empty(self, grace: float) -> None:
        """Serve until this worker's partitions are empty; requests that are left after `grace` seconds are refused."""
        if await self._emptied(grace):
            return
        model, version = self.key
        self.intake.refuse_all(Failure(Code.UNAVAILABLE, f"model '{model}' version {version} has been unloaded"))
        if not await self._emptied(grace):
            log.warning("requests were left in the topic of an unloaded model", topic=self.topic, lag=await self._lag())

    async def _emptied(self, within: float) -> bool:
        """Whether the lag fell to 0 within this many seconds."""
        deadline = self._context.clock() + within
        while await self._lag() > 0:
            if self._context.clock() >= deadline:
                return False
            await asyncio.sleep(LAG_INTERVAL)
        return True

    async def close(self, *, evict: bool = True) -> None:
        """Commit, leave the group and free the instances."""
        await self.intake.close(evict=evict)
        self.runner.abandon()
        await self.loaded.close()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would."""
        self.intake.abandon()
        self.runner.abandon()

    async def load(self, state: ModelState) -> ModelLoad:
        """Its part of the heartbeat."""
        runner = self.runner
        self.last_lag = await self._lag()
        return ModelLoad(
            *self.key,
            state,
            partitions=tuple(sorted(self.intake.owned)),
            queued_rows=runner.queued_rows,
            queued_requests=runner.queued_requests,
            running_rows=runner.running_rows,
            lag=self.last_lag,
            oldest_age=self.oldest_age(),
            seconds_per_row=self.statistics.latency.seconds_per_row(),
            statistics=self.statistics.to_json(),
            digest=self.loaded.version.digest,
        )

    def oldest_age(self) -> float:
        """Seconds since the oldest request here was published; 0 without requests."""
        oldest = self.runner.oldest_published()
        return 0.0 if oldest is None else max(0.0, self._context.clock() - oldest)

    async def _lag(self) -> int:
        with contextlib.suppress(Unavailable):
            return await self.intake.lag()
        return self.runner.in_flight
