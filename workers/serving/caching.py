"""A model version whose configuration has `response_cache { enable: true }`: equal requests are answered without a run.

Decides which requests are looked up and which answers are kept. Invariants: only successful answers of whole interactive requests
are kept; a request that is found joins no queue and no batch; a redelivered one is answered once all the same, as the store keeps
the first answer; a model that keeps the order of its answers is answered from the cache only while nothing else is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from protocol.answer_times import bucket
from protocol.messages import Failure
from protocol.ports import Terminal
from workers.backends.base import Outcome
from workers.instances.job import Entry, Job
from workers.response_cache import Outputs, ResponseCache, key_of
from workers.serving.pipeline import Pipeline
from workers.serving.runner import Runner

REASON: Final = "cache hit"
"""Instead of a reason of release, in the timing of an answer that came from the cache."""


class CachingRunner(Runner):
    """See `Runner`; the cache is the context's."""

    def _make_pipeline(self, *arguments: Any) -> Pipeline:
        return CachingPipeline(*arguments)

    def _lead(self, entry: Entry) -> bool:
        cache = self._context.cache
        if cache is None or (self.ordered and self._entries):
            return super()._lead(entry)
        began = self._clock()
        key = key_of(entry.payload, self._context.digest)
        if key is None:
            return super()._lead(entry)
        outputs = cache.get(key)
        if outputs is None:
            entry.cache_key, entry.looked_up = key, self._clock() - began
            return super()._lead(entry)
        self._answer(entry, outputs, began)
        return False

    def _answer(self, entry: Entry, outputs: Outputs, began: float) -> None:
        now = self._clock()
        answer = self._replies.of_cached(entry, outputs, REASON, now)
        answer.counts = self._statistics.cached(now - entry.enqueued, now - began, bucket(entry.payload.accepted, now))
        self._writer.put([answer], [entry])


class CachingPipeline(Pipeline):
    """See `Pipeline`; answers of requests that were looked up are kept."""

    def _emit(self, job: Job, outcomes: Sequence[Outcome], answers: list[Terminal]) -> None:
        cache = self._context.cache
        if cache is not None:
            for entry, outcome in zip(job.entries, outcomes, strict=True):
                if entry.cache_key:
                    self._keep(cache, entry, outcome)
        super()._emit(job, outcomes, answers)

    def _keep(self, cache: ResponseCache, entry: Entry, outcome: Outcome) -> None:
        began = self._clock()
        if not isinstance(outcome, Failure):
            cache.put(entry.cache_key, outcome)
            self._statistics.cache_missed(entry.looked_up + self._clock() - began)
