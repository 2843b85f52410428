"""The answers of the batch lane's records: put together from their parts, on another thread where that takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from protocol.errors import Code, FleetError
from protocol.messages import Failure, Timing
from protocol.ports import Terminal
from protocol.runtime.tasks import BackgroundTasks
from workers.results.replies import Replies
from workers.results.writer import ResultWriter
from workers.serving.rows import BatchRecord
from workers.statistics import ModelStatistics

LARGE: Final = 1024 * 1024
"""Bytes of outputs above which another thread puts them together."""

log = structlog.get_logger(__name__)


class RecordAnswers:
    """Answers records whose parts are all back.

    Args:
        replies: makes the answers.
        writer: stores them.
        statistics: counts them.
        clock: of the fleet.
        refuse: answers a record whose outputs make no answer.
        background: runs what takes long.
    """

    def __init__(
        self,
        replies: Replies,
        writer: ResultWriter,
        statistics: ModelStatistics,
        clock: Callable[[], float],
        refuse: Callable[[BatchRecord, Failure], None],
        background: BackgroundTasks,
    ) -> None:
        self._replies = replies
        self._writer = writer
        self._statistics = statistics
        self._clock = clock
        self._refuse = refuse
        self._background = background

    def answer(self, record: BatchRecord) -> None:
        """Answer a record; a large one later."""
        if record.output_bytes > LARGE:
            self._background.spawn(self._answer_large(record))
        else:
            self._put(record, *self._made(record))

    async def _answer_large(self, record: BatchRecord) -> None:
        self._put(record, *await asyncio.get_running_loop().run_in_executor(None, self._made, record))

    def _made(self, record: BatchRecord) -> tuple[Terminal | Failure, Timing]:
        """The record's answer, or why it has none, and when its parts ran; on any thread."""
        timing = record.timing()
        timing.emitted = self._clock()
        try:
            return self._replies.of_record(record.entry, record.outputs(), timing), timing
        except FleetError as exc:
            return Failure(exc.code, exc.message), timing
        except Exception as exc:
            log.error("the outputs of a record cannot be put together", request=record.entry.payload.id, exc_info=exc)
            return Failure(Code.INTERNAL, "the worker failed to put the outputs of this record together"), timing

    def _put(self, record: BatchRecord, made: Terminal | Failure, timing: Timing) -> None:
        entry = record.entry
        if isinstance(made, Failure):
            self._refuse(record, made)
            return
        compute = record.compute_seconds()
        made.counts = self._statistics.record_succeeded(
            entry.rows, entry.enqueued, timing.compute_start, compute, timing.emitted
        )
        self._writer.put([made], [entry])
