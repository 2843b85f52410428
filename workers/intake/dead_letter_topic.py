"""Writes dead letters: the record byte for byte into its model's dead topic, with the evidence in headers behind its own.

Invariant: value, key and own headers are the original's, except for a record that Kafka accepts from others and not from us (over
`MAX_RECORD`, or with content that our client does not write): its letter has the evidence alone. A letter may be written twice
(after a crash), never in part.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from protocol.codec import record_bytes
from protocol.dead_letter import DEAD_LEFT_OUT, DeadLetter, DeadReason, encode_evidence
from protocol.errors import FleetError, NotFound, TooLarge
from protocol.ports import OutRecord, Record
from workers.context import Context
from workers.statistics import ModelStatistics

log = structlog.get_logger(__name__)


class DeadLetterTopic:
    """The dead topic of one model.

    Args:
        context: the worker's.
        model: its name.
        digest: of the model version's files.
        statistics: counts the letters.
    """

    def __init__(self, context: Context, model: str, digest: str, statistics: ModelStatistics) -> None:
        self.topic = context.names.dead_topic(model)
        self._context = context
        self._digest = digest
        self._statistics = statistics

    async def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Publish the letters; returns once they are acknowledged, however long that takes."""
        if not await self._try_publish(letters):
            for letter in letters:
                if not await self._try_publish([letter]):
                    await self._try_publish([letter], bare=True)
        for letter in letters:
            self._statistics.dead_letters[letter.reason.value] += 1
        first = letters[0]
        log.warning(
            "records moved to the dead letters", topic=self.topic, records=len(letters), partition=first.record.partition,
            offset=first.record.offset, reason=first.reason.value, error=first.error,
        )  # fmt: skip

    async def note_loss(self, topic: str, partition: int, committed: int, start: int) -> None:
        """Write a note that records were deleted from the log unread."""
        lost = start - committed
        self._statistics.lost += lost
        error = (
            f"{lost} records of {topic}-{partition} from offset {committed} were deleted unread; retention is too short"
        )
        log.error("records were lost", topic=topic, partition=partition, lost=lost, committed=committed, start=start)
        record = Record(topic, partition, committed, 0.0, b"", ())
        await self._try_publish([DeadLetter(record, DeadReason.LOST, error, "")], bare=True)
        self._statistics.dead_letters[DeadReason.LOST.value] += 1

    def _record(self, letter: DeadLetter) -> OutRecord:
        value, headers = record_bytes(letter.record)
        return OutRecord(value, [*headers, *self._evidence(letter)], letter.record.key)

    def _bare(self, letter: DeadLetter) -> OutRecord:
        """The evidence alone, for a record that we cannot write; the original stays in its topic until retention deletes it."""
        record = letter.record
        size = record.size + len(record.key or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        left_out = [(DEAD_LEFT_OUT, f"{size} bytes of value, key and headers")] if size else []
        return OutRecord(b"", self._evidence(letter, *left_out))

    def _evidence(self, letter: DeadLetter, *more: tuple[str, str]) -> list[tuple[str, bytes | None]]:
        headers = (*encode_evidence(letter, self._context.worker, self._digest), *more)
        return [(name, text.encode(errors="replace")) for name, text in headers]

    async def _try_publish(self, letters: Sequence[DeadLetter], *, bare: bool = False) -> bool:
        """Whether they were written; False where no retry can write them as they are."""
        context = self._context

        async def publish() -> bool:
            try:
                records = [self._bare(letter) if bare else self._record(letter) for letter in letters]
                try:
                    await context.bus.publish(self.topic, records)
                except NotFound:
                    await context.bus.ensure_topic(self.topic, 1)
                    await context.bus.publish(self.topic, records)
            except TooLarge:
                return False
            except FleetError:
                raise
            except Exception as exc:  # foreign content that our client does not write
                if bare:
                    raise
                log.warning("a dead letter cannot be written as it is", topic=self.topic, exc_info=exc)
                return False
            return True

        return await context.retry.call("publish dead letters", publish)
