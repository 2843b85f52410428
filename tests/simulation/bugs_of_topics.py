"""Bugs between the store and a topic of results."""

from __future__ import annotations

from typing import Any

from protocol.ports import FinishOutcome
from tests.simulation.planting import bug
from workers.results.topic_writer import TopicWriter
from workers.results.topics import AnswerTopics
from workers.results.writer import ResultWriter


@bug("a record is done before its topic has the answer", AnswerTopics, "put", 1)
def _(right: Any) -> Any:
    def put(self: Any, answer: Any, entry: Any, outcome: Any) -> None:
        right(self, answer, entry, outcome)
        self._on_settled([entry])

    return put


@bug("a worker publishes its own answer even if another came first", AnswerTopics, "put", 2)
def _(right: Any) -> Any:
    return lambda self, answer, entry, outcome: right(self, answer, entry, FinishOutcome.WRITTEN)


@bug("a redelivered request that is answered in the store is not published", ResultWriter, "settle_answered", 507, 521)
def _(right: Any) -> Any:
    return lambda self, entries: self._on_settled(entries)


@bug("an answer is trimmed before its topic has it", TopicWriter, "_first_answers", 132)
def _(right: Any) -> Any:
    async def first(self: Any, group: Any) -> Any:
        wanted = await right(self, group)
        await self._trim(wanted)
        return wanted

    return first


@bug("what is trimmed counts as lost, and fails", TopicWriter, "_first_answers", 2)
def _(right: Any) -> Any:
    async def first(self: Any, group: Any) -> Any:
        wanted = await right(self, group)
        return [*wanted, *[answer for answer in group if answer not in wanted and not answer.payload]]

    return first
