"""Records that cannot be served go to the model's dead topic, byte for byte, with the reason beside them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from protocol.errors import NotFound
from protocol.ports import OutRecord, Record
from workers.context import Context
from workers.statistics import ModelStatistics

MAX_REASON = 1000
"""Bytes of the reason: it may quote what a stranger sent."""

log = structlog.get_logger(__name__)


class DeadLetters:
    """The dead topic of one model."""

    def __init__(self, context: Context, model: str, statistics: ModelStatistics) -> None:
        self._context = context
        self._topic = context.names.dead_topic(model)
        self._statistics = statistics

    async def bury(self, records: Sequence[tuple[Record, str]], kind: str) -> None:
        """Publish each record with its reason; returns once they are acknowledged, however long that takes.

        Args:
            records: with the sentence that says what is wrong with each.
            kind: label of the metric.
        """
        buried = [
            OutRecord(
                record.value if isinstance(record.value, bytes) else bytes(record.value),
                _headers(record, reason),
                record.key,
            )
            for record, reason in records
        ]
        await self._publish(buried)
        self._statistics.dead_letters[kind] += len(records)
        record, reason = records[0]
        log.warning(
            "records moved to the dead letters", topic=self._topic, records=len(records), partition=record.partition,
            offset=record.offset, reason=reason,
        )  # fmt: skip

    async def note_loss(self, topic: str, partition: int, committed: int, start: int) -> None:
        """Leave a note that records were deleted from the log before anybody read them."""
        lost = start - committed
        self._statistics.lost += lost
        reason = (
            f"{lost} records of {topic}-{partition} from offset {committed} were deleted unread; retention is too short"
        )
        log.error("records were lost", topic=topic, partition=partition, lost=lost, committed=committed, start=start)
        await self._publish([OutRecord(b"", _headers(Record(topic, partition, committed, 0.0, b"", ()), reason))])
        self._statistics.dead_letters["lost"] += 1

    async def _publish(self, records: Sequence[OutRecord]) -> None:
        context = self._context

        async def publish() -> None:
            try:
                await context.bus.publish(self._topic, records)
            except NotFound:
                await context.bus.ensure_topic(self._topic, 1)
                await context.bus.publish(self._topic, records)

        await context.patience.call("publish dead letters", publish)


def _headers(record: Record, reason: str) -> list[tuple[str, bytes]]:
    return [
        *record.headers,
        ("dead-reason", reason.encode(errors="replace")[:MAX_REASON]),
        ("dead-topic", record.topic.encode()),
        ("dead-partition", b"%d" % record.partition),
        ("dead-offset", b"%d" % record.offset),
    ]
