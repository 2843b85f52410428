"""Answers that go to topics: one writer per topic, so that a topic that cannot be written delays no other answer.

Invariants: `on_settled` is called once for every entry, after its topic has the answer; the answers that wait are bounded
(`full`), because the records of a topic that cannot be written stay undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from protocol.codec import payload_bytes
from protocol.ports import FinishOutcome, Terminal
from protocol.runtime.tasks import BackgroundTasks
from workers.context import Context
from workers.instances.job import Entry
from workers.results.topic_writer import TopicWriter, Waiting

MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Answers that may wait for topics, and their bytes, before the model version takes no more requests."""
MAX_KNOWN: Final = 64
"""Topics without waiting answers that are remembered."""
LOOKUPS: Final = 8
"""Topics that are looked up or created at the same time."""


class AnswerTopics:
    """The topics of results to which one model version's answers go.

    Args:
        context: the model version's.
        on_settled: gets the entries whose records are done.

    Attributes:
        pending: answers that are not in their topics yet.
    """

    def __init__(self, context: Context, on_settled: Callable[[Sequence[Entry]], None]) -> None:
        self.pending = 0
        self._bytes = 0
        self._context = context
        self._on_settled = on_settled
        self._writers: dict[str, TopicWriter] = {}
        self._tasks = BackgroundTasks("answers to topics")
        self._creating = asyncio.Semaphore(LOOKUPS)

    @property
    def full(self) -> bool:
        """Whether so many answers wait that no more requests should be taken in."""
        return self.pending >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES

    def problem(self) -> str:
        """Which topics cannot be written, and why; "" for none."""
        return "; ".join([text for writer in self._writers.values() if (text := writer.retry.problem())][:4])

    def put(self, answer: Terminal, entry: Entry, outcome: FinishOutcome) -> None:
        """Publish an answer that was written to the store, or the one that the store had before."""
        payload = payload_bytes(answer.payload)
        self._put(Waiting(entry, payload, answer.retriable, outcome is FinishOutcome.WRITTEN, len(payload)))

    def put_stored(self, entry: Entry) -> None:
        """Publish the answer that the store has, unless that was done before."""
        self._put(Waiting(entry))

    async def drained(self) -> None:
        """Return once every topic has its answers."""
        await self._tasks.join()

    def abandon(self) -> None:
        """Stop abruptly: the records stay in the log and are delivered again."""
        self._tasks.cancel()

    def _put(self, answer: Waiting) -> None:
        self.pending += 1
        self._bytes += answer.counted
        writer = self._writer(self._context.names.reply_topic(answer.entry.payload.reply_to))
        writer.put(answer)
        if not writer.busy:
            writer.busy = True
            self._tasks.spawn(writer.run())

    def _writer(self, topic: str) -> TopicWriter:
        writer = self._writers.pop(topic, None)
        if writer is None:
            writer = TopicWriter(self._context, topic, self._creating, self._delivered)
            idle = [name for name, other in self._writers.items() if not other.busy]
            for name in idle[: max(0, len(idle) - MAX_KNOWN + 1)]:
                del self._writers[name]
        self._writers[topic] = writer  # the last one used is the last one forgotten
        return writer

    def _delivered(self, answers: Sequence[Waiting]) -> None:
        self.pending -= len(answers)
        self._bytes -= sum([answer.counted for answer in answers])
        self._on_settled([answer.entry for answer in answers])
