"""Writes answers to the result store with as few calls as possible; only then are their records done.

Invariants: answers are written in the order of `put`, one call at a time; a failing call is retried until it succeeds, and none of
its answers counts as written before; `on_settled` is called once for every entry, after the store has its answer (or had one), and
after its topic has it if it goes to one.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from protocol.naming import names_topic
from protocol.ports import FinishOutcome, ImmediateResults, Terminal
from workers.context import Context
from workers.instances.job import Entry
from workers.results.topics import AnswerTopics
from workers.statistics import ModelStatistics

MAX_ANSWERS: Final = 512
"""Per call: the store runs one script at a time, which must be short."""
MAX_BYTES: Final = 4 * 1024 * 1024

log = structlog.get_logger(__name__)


class ResultWriter:
    """Replies of one model version on their way to the store.

    Attributes:
        pending: answers that are not written yet.
        topics: where answers go that are for a topic.
    """

    def __init__(
        self, context: Context, statistics: ModelStatistics, on_settled: Callable[[Sequence[Entry]], None]
    ) -> None:
        self._context = context
        self._immediate = context.results.immediate
        self._statistics = statistics
        self._on_settled = on_settled
        self.topics = AnswerTopics(context, on_settled)
        self._waiting: collections.deque[tuple[Terminal, Entry]] = collections.deque()
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self._abandoned = False
        self.pending = 0

    def put(self, answers: Sequence[Terminal], entries: Sequence[Entry]) -> None:
        """Write these answers; those that are put in one turn of the event loop go out together."""
        if self._abandoned:
            return
        self._waiting.extend(zip(answers, entries, strict=True))
        self.pending += len(answers)
        if self._task is not None or self._due:
            return
        if self._immediate is not None and not self._context.retry.failing:
            self._due = True
            self._context.microtasks.add(self._write_now, self._immediate)
        else:
            self._start()

    def settle_answered(self, entries: Sequence[Entry]) -> None:
        """Settle entries whose answers the store had before; those for a topic once the topic has them."""
        plain = []
        for entry in entries:
            if names_topic(entry.payload.reply_to):
                self.topics.put_stored(entry)
            else:
                plain.append(entry)
        if plain:
            self._on_settled(plain)

    async def drained(self) -> None:
        """Return once every answer that was put is written, and published if it goes to a topic."""
        while self._task is not None or self._due:
            if self._task is None:
                self._start()
            else:
                await asyncio.shield(self._task)
        await self.topics.drained()

    def abandon(self) -> None:
        """Stop abruptly: the records stay in the log and are delivered again."""
        self._abandoned = True
        self.topics.abandon()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._send_all())

    def _write_now(self, store: ImmediateResults) -> None:
        """Write what waits to a store that does not wait; what it refuses is retried as elsewhere."""
        self._due = False
        while self._waiting and self._task is None and not self._abandoned:
            started = self._context.clock()
            answers, entries = self._next_group()
            try:
                outcomes = store.finish_now(answers)
            except Exception:
                self._waiting.extendleft(reversed(list(zip(answers, entries, strict=True))))
                self._start()
            else:
                self._written(answers, entries, outcomes, started)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send(*self._next_group())
        finally:
            self._task = None

    def _next_group(self) -> tuple[list[Terminal], list[Entry]]:
        answers: list[Terminal] = []
        entries: list[Entry] = []
        size = 0
        while self._waiting and len(answers) < MAX_ANSWERS and size < MAX_BYTES:
            answer, entry = self._waiting.popleft()
            if isinstance(answer.payload, bytes):
                size += len(answer.payload)
            answers.append(answer)
            entries.append(entry)
        return answers, entries

    async def _send(self, answers: list[Terminal], entries: list[Entry]) -> None:
        context = self._context
        started = context.clock()
        outcomes = await context.retry.call("finish", lambda: context.results.finish(answers))
        self._written(answers, entries, outcomes, started)

    def _written(
        self, answers: Sequence[Terminal], entries: Sequence[Entry], outcomes: Sequence[FinishOutcome], started: float
    ) -> None:
        self._statistics.emit_seconds.observe(self._context.clock() - started)
        self.pending -= len(answers)
        refused = [
            answer.ref
            for answer, outcome in zip(answers, outcomes, strict=True)
            if outcome is not FinishOutcome.WRITTEN
        ]
        if refused:
            # First wins: another delivery, a cancellation or a deadline came before. The caller has that answer.
            log.info("answers refused", requests=len(refused), first=refused[0])
        self._settle(answers, entries, outcomes)

    def _settle(self, answers: Sequence[Terminal], entries: Sequence[Entry], outcomes: Sequence[FinishOutcome]) -> None:
        """Settle the entries; those whose answers go to a topic once it has them."""
        if not any(answer.to_topic for answer in answers):
            self._on_settled(entries)
            return
        plain = []
        for answer, entry, outcome in zip(answers, entries, outcomes, strict=True):
            if answer.to_topic:
                self.topics.put(answer, entry, outcome)
            else:
                plain.append(entry)
        if plain:
            self._on_settled(plain)
