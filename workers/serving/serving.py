"""A loaded model version that takes requests: its two lanes' intakes, its runner and its instances."""

from __future__ import annotations

import asyncio
import contextlib
import math

import structlog

from protocol.errors import Code, Unavailable
from protocol.messages import Failure, Lane, ModelLoad, ModelState
from protocol.request_check import MAX_BATCH_LANE_ROWS
from protocol.texts import shortened
from workers.batching.lanes import LaneSettings
from workers.context import Context
from workers.instances.loaded import LoadedModel
from workers.intake.consumer import Intake
from workers.intake.decoder import RecordDecoder
from workers.repository.signature import Signature
from workers.retry import Retry
from workers.serving.batch_lane import BatchLane
from workers.serving.batch_topic import BatchTopic
from workers.serving.caching import CachingRunner
from workers.serving.memory import BATCH_LANE, QueueMemory
from workers.serving.runner import Runner
from workers.statistics import ModelStatistics

LAG_INTERVAL = 0.1
"""Seconds between checks of the lag of a topic that is being drained."""

MAX_REASON = 1024
"""Characters of what a heartbeat says about a version that is not ready."""

log = structlog.get_logger(__name__)


class Serving:
    """A version from its first request to its last.

    Args:
        context: the worker's.
        loaded: the instances.
        memory: bounds the bytes of requests that wait or run; shared by all versions of the process.
        batch: how much the batch lane may take.

    Attributes:
        key: (model, version).
        last_lag, last_batch_lag: as of the last heartbeat.
    """

    def __init__(
        self, context: Context, loaded: LoadedModel, memory: QueueMemory, batch: LaneSettings | None = None
    ) -> None:
        version = loaded.version
        self.key = (version.model, str(version.version))
        self.loaded = loaded
        buckets = [control.buckets for control in version.config.metric_controls]
        self.statistics = ModelStatistics(self.key, *buckets[:1])
        self.last_lag = self.last_batch_lag = 0
        config, digest = version.config, version.digest
        context = self._context = context.of_a_model(digest)
        decoder = RecordDecoder(context.names, Signature(config), *self.key)
        self.intake = Intake(context, decoder, self.statistics, digest)
        decoder = RecordDecoder(
            context.names, Signature(config, MAX_BATCH_LANE_ROWS if config.batching else None), *self.key, Lane.BATCH
        )
        self.batch_intake = Intake(context, decoder, self.statistics, digest)
        self.batch_lane = BatchLane(
            context, config, self.statistics, self.batch_intake, batch or LaneSettings(), memory.open_queue(BATCH_LANE)
        )
        caching = bool(config.response_cache) and context.cache is not None
        self.runner = (CachingRunner if caching else Runner)(
            context, loaded, self.statistics, self.intake, memory.open_queue(), self.batch_lane
        )
        self._batch_topic = BatchTopic(context, self.batch_intake, self.batch_lane)

    @property
    def retry(self) -> Retry:
        """Repeats its calls of store and broker, and reports which fail."""
        return self._context.retry

    @property
    def topic(self) -> str:
        """The topic of its interactive requests; also their consumer group."""
        return self.intake.topic

    @property
    def reads_batches(self) -> bool:
        """Whether there is a batch topic, which is read."""
        return self._batch_topic.opened

    def intakes(self) -> list[Intake]:
        """Those that read a topic."""
        return [self.intake, self.batch_intake] if self.reads_batches else [self.intake]

    async def open(self) -> None:
        """Take requests from now on; the topic must exist, and that of batches is awaited."""
        await self.intake.open(self.runner)
        await self._batch_topic.start(self.topic)

    async def joined(self, within: float) -> None:
        """Return once partitions of the topic were assigned here, perhaps none, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.intake.joined.wait()

    async def finish(self, grace: float) -> bool:
        """Take nothing new and answer the requests that are here; returns whether that took at most `grace` seconds."""
        for intake in (self.intake, self.batch_intake):
            intake.pause()
        self.batch_lane.drain()
        self.runner.drain()
        try:
            async with asyncio.timeout(grace):
                await self.runner.drained()
                await self.batch_lane.drained()
        except TimeoutError:
            left = self.runner.in_flight + self.batch_lane.in_flight
            log.warning("requests were left unanswered; they stay in the log", topic=self.topic, requests=left)
            return False
        return True

    async def empty(self, grace: float) -> None:
        """Serve until this worker's partitions are empty; requests that are left after `grace` seconds are refused."""
        if await self._emptied(grace):
            return
        model, version = self.key
        failure = Failure(Code.UNAVAILABLE, f"model '{model}' version {version} has been unloaded")
        for intake in self.intakes():
            intake.refuse_all(failure)
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
        await self._batch_topic.close(evict=evict)
        await self.intake.close(evict=evict)
        self._abandon_lanes()
        await self.loaded.close()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would."""
        self._batch_topic.abandon()
        self.intake.abandon()
        self._abandon_lanes()

    def _abandon_lanes(self) -> None:
        self.runner.abandon()
        self.batch_lane.abandon()

    async def load(self, state: ModelState, *, statistics: bool = False) -> ModelLoad:
        """Its part of the heartbeat; with statistics, if they are asked for."""
        runner, counted = self.runner, self.statistics
        self.last_lag, self.last_batch_lag = await self._lag_of(self.intake), await self._lag_of(self.batch_intake)
        return ModelLoad(
            *self.key,
            state,
            partitions=tuple(sorted(self.intake.owned)),
            queued_rows=runner.queued_rows,
            queued_requests=runner.queued_requests,
            running_rows=runner.running_rows,
            lag=self.last_lag,
            oldest_age=self.oldest_age(),
            seconds_per_row=counted.latency.seconds_per_row() if statistics else {},
            statistics=counted.to_json() if statistics else {},
            digest=self.loaded.version.digest,
            batch_partitions=tuple(sorted(self.batch_intake.owned)),
            batch_lag=self.last_batch_lag,
            batch_queued_rows=self.batch_lane.queued_rows,
            unready=shortened(self.unready(), MAX_REASON),
            runs=counted.runs(),
            executed=counted.inference_count,
            last_inference=math.ceil(counted.last_inference),
            unanswered=runner.in_flight,
            unread=self.intake.backlog(),
            batch_unanswered=self.batch_lane.in_flight,
            batch_unread=self.batch_intake.backlog(),
            batch_oldest_age=self.batch_lane.age(self._context.clock()),
            batch_running_rows=self.batch_lane.out_rows,
        )

    def unready(self) -> str:
        """Why no instance is ready, as the first of them says; "" if one is. Requests are taken all the same."""
        problems = [executor.problem() for executor in self.loaded.executors]
        return problems[0] if problems and all(problems) else ""

    def members(self) -> dict[str, str]:
        """Its groups and its member id in each, for the heartbeat: peers take a dead worker out of all of them."""
        return {intake.topic: intake.member for intake in self.intakes()}

    def oldest_age(self) -> float:
        """Seconds since the oldest request here was published; 0 without requests."""
        oldest = self.runner.oldest_published()
        return 0.0 if oldest is None else max(0.0, self._context.clock() - oldest)

    async def _lag(self) -> int:
        return sum([await self._lag_of(intake) for intake in self.intakes()])

    async def _lag_of(self, intake: Intake) -> int:
        with contextlib.suppress(Unavailable):
            return await intake.lag()
        return self.runner.in_flight if intake is self.intake else self.batch_lane.in_flight
