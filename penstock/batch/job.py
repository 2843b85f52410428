"""A batch job as a state machine: which records are sent, awaited, divided and sent again, and when a line is done. Pure.

Invariants: every line that holds something becomes exactly one line of output or of errors, however often its answer arrives; a
line that was done, or whose record is in the log, is not sent again; what is in flight or waits to be written is bounded. A record
of several rows that fails is sent again row by row, so that one bad row costs only itself; a failure that may heal is tried again
`ATTEMPTS` times first.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from penstock.batch.columns import Columns
from penstock.batch.ordering import Chunk, Ordering, Watermark
from penstock.batch.packing import records_of, rows_of
from penstock.batch.records import Bad, Block, Mark, Record, bad, parse_id, record_id
from penstock.batch.rendering import Answer, Render
from penstock.batch.spans import Spans, spans_of
from protocol.errors import RETRYABLE, Code, FleetError
from protocol.messages import InferReply
from protocol.ports import Place

ATTEMPTS: Final = 3
"""How often a record is sent again after a failure that may heal."""
FIRST_PAUSE: Final = 1.0
"""Seconds before the first of them; each further pause is twice as long."""
READ_BYTES: Final = 64 * 1024 * 1024
"""Bytes of requests in flight and of answers that wait to be written, above which nothing more is read."""


@dataclasses.dataclass(slots=True)
class Known:
    """What a journal and the log say of an earlier run of the same job.

    Attributes:
        done: lines whose output is written.
        sent: lines in the log in their first record.
        alone: lines in the log as a record of their own, after their first record failed.
        logged: ids that are known to be in the log.
    """

    done: Spans = dataclasses.field(default_factory=Spans)
    sent: Spans = dataclasses.field(default_factory=Spans)
    alone: Spans = dataclasses.field(default_factory=Spans)
    logged: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How a job runs.

    Attributes:
        run: the name in its ids.
        rows: of a record, at most.
        window: rows in flight or unwritten, at most.
        unordered: write answers as they come.
        errors_apart: lines without an answer go to a file of their own.
        sends: false to collect only what is in the log.
        awaits: false to send everything and not wait.
    """

    run: str
    rows: int
    window: int
    unordered: bool = False
    errors_apart: bool = False
    sends: bool = True
    awaits: bool = True


def _size(reply: InferReply) -> int:
    return sum([len(tensor.data) for tensor in reply.outputs])


def _first(entry: tuple[int, Bad]) -> int:
    return entry[0]


@dataclasses.dataclass(slots=True)
class _Reading:
    """A block of which some rows are not yet written."""

    mark: Mark
    after: Mark
    open: int = 0


@dataclasses.dataclass(slots=True)
class _Hold:
    """The answers, by their places, that must be read again after a kill as long as some of these rows are not written."""

    reading: _Reading
    rows: int
    size: int
    places: list[Place] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class _Open:
    """A record whose answer is awaited, and the numbers of its rows in the order of reading."""

    record: Record
    numbers: Sequence[int]
    hold: _Hold


class Job:
    """See the module.

    Args:
        plan: how it runs.
        columns: of the model.
        render: turns outputs into the rows' lines (`rendering.json_lines` or Parquet's).
        error_line: a line of errors.
        known: of an earlier run.
        watermark: of the topic of answers.
    """

    def __init__(
        self,
        plan: Plan,
        columns: Columns,
        render: Render,
        error_line: Callable[[int, Bad], bytes],
        known: Known | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self.plan = plan
        self.known = known or Known()
        self.watermark = watermark or Watermark()
        self.fresh = Known()
        """What became known since the last `checkpoint`."""
        self.mark = Mark()
        """Where reading must begin after a kill."""
        self.ended = False
        self.gone: Bad | None = None
        """Set once no further answer can come: the failure of every line that still waits for one."""
        self.early_bytes = 0
        """Bytes of answers to lines that were not read yet."""
        self.answered = self.failed = 0
        self._columns, self._render, self._error_line = columns, render, error_line
        self._ordering = Ordering(unordered=plan.unordered)
        self._numbers = itertools.count()
        self._open: dict[str, _Open] = {}
        self._rows = self._bytes = 0
        self._readings: deque[_Reading] = deque()
        self._early: dict[str, tuple[InferReply, Place | None]] = {}
        self._ready: list[Chunk] = []
        self._later: list[tuple[float, int, Record]] = []

    # --- reading ---

    @property
    def room(self) -> bool:
        """Whether a further block may be read."""
        return self._rows < self.plan.window and self._bytes + self._ordering.held < READ_BYTES

    @property
    def finished(self) -> bool:
        """Whether every line is done; without waiting for answers, whether every line was handed over."""
        return self.ended and not self._rows and not self._ready

    @property
    def in_flight(self) -> int:
        """Rows whose answers are awaited, or wait for earlier ones."""
        return self._rows

    def admit(self, block: Block, now: float) -> list[Record]:
        """Take in a block of the input; returns the records to send."""
        self.ended = block.last
        lines = block.lines
        reading = _Reading(block.mark, block.after)
        self._readings.append(reading)
        done = self.known.done if lines and self.known.done.touches(lines[0], lines[-1]) else None
        numbers = {line: next(self._numbers) for line in lines if done is None or line not in done}
        to_send: list[Record] = []
        if numbers:
            # The whole block is packed, so that its records are the same as before a kill, and done lines are left out afterwards.
            groups, wrong = self._columns.arrange(lines, block.rows)
            records, large = records_of(self.plan.run, groups, self.plan.rows)
            for record in records:
                for part in self._undone(record, numbers):
                    to_send += self._admit_record(part, numbers, reading, now)
            for line, why in sorted(wrong + large, key=_first):
                if line in numbers and self.plan.awaits:
                    self._refuse(line, why, numbers[line], reading)
        self._advance()
        return to_send

    def _undone(self, record: Record, numbers: Mapping[int, int]) -> Sequence[Record]:
        """The record, or those of its rows that are not done: only a record that was divided is partly done."""
        left = [line for line in record.lines if line in numbers]
        if len(left) == len(record.lines):
            return [record]
        if record.id in self._early and (place := self._pop_early(record.id)[1]):
            self.watermark.release(*place)
        return [each for each in rows_of(self.plan.run, record) if each.lines[0] in numbers] if left else []

    def _admit_record(self, record: Record, numbers: Mapping[int, int], reading: _Reading, now: float) -> list[Record]:
        logged = self._is_logged(record)
        if logged and not self.plan.awaits:
            return []
        hold = _Hold(reading, len(record.lines), record.size)
        self._rows += hold.rows
        self._bytes += hold.size
        if not self.plan.awaits:
            return [record]
        reading.open += hold.rows
        self._open[record.id] = _Open(record, [numbers[line] for line in record.lines], hold)
        return self._begin(record, now)

    def _refuse(self, line: int, why: Bad, number: int, reading: _Reading) -> None:
        self._rows += 1
        reading.open += 1
        self._finish([line], [why], [number], _Hold(reading, 1, 0))

    def _begin(self, record: Record, now: float) -> list[Record]:
        """The records to send for one whose answer is awaited from now on: it, unless it is in the log."""
        if record.id in self._early:
            return self._take_early(record.id, now)
        if self.gone is not None:
            self._fail(record.id, self.gone)
            return []
        if self._is_logged(record):
            return []
        if self.plan.sends:
            return [record]
        self._fail(record.id, bad("the line was never sent", Code.NOT_FOUND))
        return []

    def _is_logged(self, record: Record) -> bool:
        if record.id in self.known.logged:
            return True
        spans = self.known.alone if record.alone else self.known.sent
        return not record.attempt and bool(spans) and all(spans.covers(*span) for span in spans_of(record.lines))

    # --- answers ---

    def answer(self, name: str, reply: InferReply, place: Place | None, now: float) -> list[Record]:
        """Take in an answer; returns records to send because of it.

        Args:
            name: the record's id.
            reply: outputs or a failure.
            place: in the topic of answers, if it comes from one.
            now: seconds.
        """
        if place is not None:
            self.watermark.arrived(*place)
        if name in self._open:
            return self._answer(self._open[name], reply, place, now)
        at = parse_id(self.plan.run, name)
        if at is not None and at.first not in self.known.done and name not in self._early:
            self._early[name] = reply, place
            self.early_bytes += _size(reply)
        elif place is not None:
            self.watermark.release(*place)
        return []

    def _take_early(self, name: str, now: float) -> list[Record]:
        reply, place = self._pop_early(name)
        return self._answer(self._open[name], reply, place, now)

    def _pop_early(self, name: str) -> tuple[InferReply, Place | None]:
        reply, place = self._early.pop(name)
        self.early_bytes -= _size(reply)
        return reply, place

    def give_up(self, why: Bad) -> None:
        """No further answer can come."""
        self.gone = why
        for name in list(self._open):
            self._fail(name, why)

    def _answer(self, found: _Open, reply: InferReply, place: Place | None, now: float) -> list[Record]:
        if place is not None:
            found.hold.places.append(place)
        if reply.failure is not None:
            return self._failed(found, reply.failure, now)
        self._answered(found, reply)
        return []

    def _answered(self, found: _Open, reply: InferReply) -> None:
        record = found.record
        del self._open[record.id]
        try:
            rows = self._render(record.lines, reply.outputs, self._columns.config.batching)
        except FleetError as error:
            rows = [bad(error.message, Code.MODEL_FAILED)] * len(record.lines)
        self._finish(record.lines, rows, found.numbers, found.hold)

    def _failed(self, found: _Open, failure: Bad, now: float) -> list[Record]:
        record = found.record
        if failure.code in RETRYABLE:
            if record.attempt < ATTEMPTS and self.plan.sends:
                return self._again(found, now)
        elif len(record.lines) > 1:
            return self._divided(found, failure, now)
        self._fail(record.id, failure)
        return []

    def _fail(self, name: str, failure: Bad) -> None:
        found = self._open.pop(name)
        self._finish(found.record.lines, [failure] * len(found.record.lines), found.numbers, found.hold)

    def _again(self, found: _Open, now: float) -> list[Record]:
        """The same rows once more under another id, after a pause."""
        record = found.record
        again = dataclasses.replace(record, attempt=record.attempt + 1)
        again.id = record_id(self.plan.run, record.lines[0], record.lines[-1], again.attempt)
        del self._open[record.id]
        self._open[again.id] = _Open(again, found.numbers, found.hold)
        if again.id in self._early or self._is_logged(again):
            return self._begin(again, now)
        heapq.heappush(self._later, (now + FIRST_PAUSE * 2**record.attempt, record.lines[0], again))
        return []

    def _divided(self, found: _Open, failure: Bad, now: float) -> list[Record]:
        """Each row of a record that failed."""
        del self._open[found.record.id]
        to_send: list[Record] = []
        for each, number in zip(rows_of(self.plan.run, found.record), found.numbers, strict=True):
            self._open[each.id] = _Open(each, [number], found.hold)
            if self.plan.sends or each.id in self._early or self._is_logged(each):
                to_send += self._begin(each, now)
            else:
                self._fail(each.id, failure)
        return to_send

    def due(self, now: float) -> list[Record]:
        """The records whose pause is over."""
        found: list[Record] = []
        while self._later and self._later[0][0] <= now:
            found.append(heapq.heappop(self._later)[2])
        return found

    def next_due(self) -> float | None:
        """When the next pause is over."""
        return self._later[0][0] if self._later else None

    def found(self, names: Collection[str]) -> None:
        """These records are in the log, though the journal does not know it; the next checkpoint says so."""
        self.known.logged |= set(names)
        self.fresh.logged |= set(names)

    def logged(self, record: Record) -> None:
        """The broker has the record."""
        if record.attempt:
            self.fresh.logged.add(record.id)
        else:
            (self.fresh.alone if record.alone else self.fresh.sent).update(spans_of(record.lines))
        if not self.plan.awaits:
            self._rows -= len(record.lines)
            self._bytes -= record.size

    # --- writing ---

    def _finish(self, lines: Sequence[int], rows: Sequence[Answer], numbers: Sequence[int], hold: _Hold) -> None:
        """Hand rows to the ordering, those that follow one another as one chunk."""
        start, count = 0, len(lines)
        while start < count:
            stop = start + 1
            while stop < count and numbers[stop] == numbers[stop - 1] + 1:
                stop += 1
            chunk = self._chunk(lines[start:stop], rows[start:stop])
            chunk.owner = hold
            self._ready += self._ordering.put(numbers[start], stop - start, chunk)
            start = stop

    def _chunk(self, lines: Sequence[int], rows: Sequence[Answer]) -> Chunk:
        good = [row for row in rows if type(row) is bytes]
        spans = spans_of(lines)
        if len(good) == len(rows):
            return Chunk(spans, b"".join(good), b"", len(good), 0)
        wrong = [
            self._error_line(line, row) for line, row in zip(lines, rows, strict=True) if not isinstance(row, bytes)
        ]
        if self.plan.errors_apart:
            return Chunk(spans, b"".join(good), b"".join(wrong), len(good), len(wrong))
        errors = iter(wrong)
        output = b"".join([row if isinstance(row, bytes) else next(errors) for row in rows])
        return Chunk(spans, output, b"", len(good), len(wrong))

    def take_ready(self) -> list[Chunk]:
        """What may be written now, in its order; it counts as written from here on."""
        ready, self._ready = self._ready, []
        for chunk in ready:
            hold, count = chunk.owner, chunk.answered + chunk.failed
            self.answered += chunk.answered
            self.failed += chunk.failed
            self.fresh.done.update(chunk.spans)
            self.known.done.update(chunk.spans)
            self._rows -= count
            hold.reading.open -= count
            hold.rows -= count
            if not hold.rows:
                self._bytes -= hold.size
                for place in hold.places:
                    self.watermark.release(*place)
        self._advance()
        return ready

    def _advance(self) -> None:
        """Move the mark past the blocks that are done; their empty lines are done with them."""
        while self.plan.awaits and self._readings and not self._readings[0].open:
            past = self._readings.popleft()
            self.mark = past.after
            if past.mark.line < past.after.line:
                self.fresh.done.add(past.mark.line, past.after.line - 1)
                self.known.done.add(past.mark.line, past.after.line - 1)

    def checkpoint(self) -> Known:
        """What became known since the last call; forgets answers that arrived again after their line was done."""
        fresh, self.fresh = self.fresh, Known()
        for name in [name for name in self._early if self._is_done(name)]:
            if place := self._pop_early(name)[1]:
                self.watermark.release(*place)
        return fresh

    def _is_done(self, name: str) -> bool:
        at = parse_id(self.plan.run, name)
        return at is None or at.first in self.known.done
