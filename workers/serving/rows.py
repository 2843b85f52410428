"""Rows of a record of the batch lane: cut off in parts, and their outputs put together again. Pure.

Invariants: every row is cut once, in order, unless its part is put back; parts are views of the record's data; a record is finished
once every part that was cut is back, and no row is left or none will be cut any more; its outputs are joined in the order of its
rows.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import struct
from collections.abc import Sequence
from typing import ClassVar, Final

from protocol.dead_letter import DeadLetter
from protocol.errors import Code, ModelFailed
from protocol.frames import MAX_RECORD
from protocol.messages import Failure, InferReply, InferRequest, Timing
from protocol.tensors import Tensor, element_count
from workers.instances.job import Entry
from workers.serving.spans import covered

MARGIN: Final = 5.0
"""Seconds before its deadline from which on a record runs only in batches of the lane: a batch with a late entry is formed anew."""
_LENGTH: Final = struct.Struct("<I")


@dataclasses.dataclass(slots=True, eq=False)
class Slice(Entry):
    """Some rows of a record, on their way through a batch like any entry; `whole` gets their outcome.

    Attributes:
        start: the first of its rows.
    """

    sliced: ClassVar[bool] = True

    whole: BatchRecord | None = None
    start: int = 0


class BatchRecord:
    """One record of the batch lane, from its first part to its answer.

    Args:
        entry: of the record.
        divisible: the model batches, so that rows may run apart.

    Attributes:
        left: rows that are not cut yet and will be.
        out: parts that were cut and are not back, by their first row.
        failure: the first that a part had.
        letter: of the part that goes to the dead letters.
        answered: the store has the answer already.
        dropped: another worker has the record now.
        scanned: its strings' places are known, or it has none.
    """

    __slots__ = (
        "_again", "_back", "_edges", "_next", "_size", "answered", "divisible", "dropped", "entry", "failure", "left", "letter",
        "out", "scanned",
    )  # fmt: skip

    def __init__(self, entry: Entry, *, divisible: bool) -> None:
        self.entry = entry
        self.divisible = divisible
        self.left = entry.rows
        self.out: dict[int, Slice] = {}
        self.failure: Failure | None = None
        self.letter: DeadLetter | None = None
        self.answered = self.dropped = False
        self.scanned = not divisible or entry.rows == 1 or not any(t.datatype == "BYTES" for t in entry.payload.inputs)
        self._edges: dict[str, list[int]] = {}
        self._next = 0
        self._again: collections.deque[tuple[int, int]] = collections.deque()
        self._back: dict[int, InferReply] = {}
        self._size = 0

    @property
    def strings(self) -> int:
        """BYTES elements that `scan` walks over."""
        return sum([element_count(t.shape) for t in self.entry.payload.inputs if t.datatype == "BYTES"])

    def scan(self) -> None:
        """Find where each row of strings begins; on any thread."""
        for tensor in self.entry.payload.inputs:
            if tensor.datatype == "BYTES":
                self._edges[tensor.name] = row_edges(tensor)
        self.scanned = True

    def harmless(self, now: float) -> bool:
        """Whether its rows may run beside interactive requests: no run is known to have died with it, nor does it expire there."""
        entry = self.entry
        if entry.needs_attempt or entry.run_alone or entry.attempt > 1:
            return False
        return entry.deadline is None or entry.deadline > now + MARGIN

    @property
    def bytes_per_row(self) -> int:
        """Of its inputs."""
        return self.entry.nbytes // self.entry.rows

    @property
    def finished(self) -> bool:
        """Whether nothing of it runs or will run."""
        return not self.left and not self.out

    def cut(self, rows: int) -> Slice:
        """The next rows, at most so many; all of them if the record cannot be divided. There must be some left."""
        entry = self.entry
        start, end = self._next_rows(rows)
        payload = entry.payload
        if start > 0 or end < entry.rows:
            payload = dataclasses.replace(payload, inputs=self._inputs(payload, start, end))
        nbytes = entry.nbytes * (end - start) // entry.rows
        part = Slice(
            entry.ref, end - start, entry.shape_class, payload, entry.enqueued, entry.published, entry.priority, entry.deadline,
            entry.timeout, nbytes, entry.partition, entry.offset, entry.token, entry.fetched, entry.needs_attempt, None,
            entry.attempt, entry.cancelled, record=entry.record, run_alone=entry.run_alone,
            attempt_stored=entry.attempt_stored, whole=self, start=start,
        )  # fmt: skip
        self.left -= end - start
        self.out[start] = part
        return part

    def _next_rows(self, rows: int) -> tuple[int, int]:
        if not self.divisible:
            return 0, self.entry.rows
        if self._again:
            start, end = self._again.popleft()
            if end - start > rows:
                self._again.appendleft((start + rows, end))
            return start, min(end, start + rows)
        start = self._next
        self._next = min(self.entry.rows, start + rows)
        return start, self._next

    def put_back(self, part: Slice) -> None:
        """The part was too large: its rows are cut again, in smaller parts, unless the record has ended."""
        del self.out[part.start]
        self._note_attempt(part)
        if not self.ended:
            self._again.append((part.start, part.start + part.rows))
            self.left += part.rows

    @property
    def ended(self) -> bool:
        """Whether no more rows will be cut, though some may be left."""
        return self.dropped or self.answered or self.failure is not None

    def _inputs(self, payload: InferRequest, start: int, end: int) -> tuple[Tensor, ...]:
        inputs = []
        for tensor in payload.inputs:
            edges = self._edges.get(tensor.name)
            if edges is not None:
                first, last = edges[start], edges[end]
            else:
                width = len(tensor.data) // self.entry.rows
                first, last = start * width, end * width
            data = memoryview(tensor.data)[first:last]
            inputs.append(Tensor(tensor.name, tensor.datatype, (end - start, *tensor.shape[1:]), data))
        return tuple(inputs)

    def came_back(self, part: Slice, reply: InferReply) -> None:
        """A part has its outcome."""
        del self.out[part.start]
        self._note_attempt(part)
        if reply.failure is not None:
            self.fail(self._placed(reply.failure, part))
            return
        self._back[part.start] = reply
        self._size += sum([len(tensor.data) for tensor in reply.outputs])
        if self._size > MAX_RECORD:
            self._back = {part.start: dataclasses.replace(reply, outputs=())}
            self.fail(
                Failure(
                    Code.TOO_LARGE,
                    f"the outputs of the first rows have {self._size} bytes; an answer may have {MAX_RECORD}",
                )
            )

    def left_out(self, part: Slice, failure: Failure | None) -> None:
        """A part will not run: it is late or cancelled, or the record has its answer already (None)."""
        del self.out[part.start]
        self._note_attempt(part)
        if failure is None:
            self.answered = True
            self.left = 0
        else:
            self.fail(failure)

    def died(self, part: Slice, letter: DeadLetter, failure: Failure) -> None:
        """A part killed its instances."""
        del self.out[part.start]
        self._note_attempt(part)
        self.letter = self.letter or letter
        self.fail(self._placed(failure, part))

    def fail(self, failure: Failure) -> None:
        """Cut no more rows; the record is answered with its first failure."""
        self.failure = self.failure or failure
        self.left = 0

    def drop(self) -> None:
        """Cut no more rows, and answer nothing."""
        self.dropped = True
        self.left = 0

    def _note_attempt(self, part: Slice) -> None:
        """The attempt that a part began is the record's: later parts need none."""
        entry = self.entry
        if part.attempt_stored and part.attempt > 0:
            entry.attempt = max(entry.attempt, part.attempt)
            entry.attempt_stored = True
            entry.needs_attempt = False

    def _placed(self, failure: Failure, part: Slice) -> Failure:
        """The failure with the rows that it concerns, if they are not all."""
        if part.rows == self.entry.rows:
            return failure
        where = f"rows {part.start} to {part.start + part.rows - 1} of {self.entry.rows}"
        return Failure(failure.code, f"{failure.message} (in {where})")

    def outputs(self) -> tuple[Tensor, ...]:
        """The record's outputs; on any thread.

        Raises:
            ModelFailed: an output does not have the rows of its inputs, or differs between the parts.
        """
        parts = sorted(self._back.items())
        if not self.divisible or self.entry.rows == 1:
            return tuple(parts[0][1].outputs)
        starts = [start for start, _ in parts]
        counts = [end - start for start, end in itertools.pairwise([*starts, self.entry.rows])]
        columns = zip(*[reply.outputs for _, reply in parts], strict=True)
        try:
            return tuple([join_rows(column, counts) for column in columns])
        except ValueError:
            raise ModelFailed("it gave different numbers of outputs for different rows of one record") from None

    def timing(self) -> Timing:
        """When the record's parts ran: the first release and start, the last end, how long any of them ran, and the largest
        batch."""
        timings = [reply.timing for reply in self._back.values()]
        if len(timings) == 1:
            return timings[0]
        largest = max(timings, key=lambda timing: timing.batch_rows)
        return dataclasses.replace(
            largest,
            released=min([timing.released for timing in timings]),
            compute_start=min([timing.compute_start for timing in timings]),
            compute_end=max([timing.compute_end for timing in timings]),
            computed=covered([(timing.compute_start, timing.compute_end) for timing in timings]),
            attempt=self.entry.attempt,
        )

    @property
    def ran(self) -> bool:
        """Whether any of its rows ran and gave outputs."""
        return bool(self._back)

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs so far."""
        return self._size

    def compute_seconds(self) -> float:
        """Seconds that the batches of its parts ran."""
        return sum([reply.timing.compute_end - reply.timing.compute_start for reply in self._back.values()])


def row_edges(tensor: Tensor) -> list[int]:
    """The byte at which each row of a BYTES tensor begins, and the end. Its framing must have been checked."""
    per_row = element_count(tensor.shape[1:])
    data, unpack = tensor.data, _LENGTH.unpack_from
    position, edges = 0, [0]
    for _ in range(tensor.shape[0]):
        for _ in range(per_row):
            position += 4 + unpack(data, position)[0]
        edges.append(position)
    return edges


def join_rows(column: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One output of consecutive parts along the first axis; `counts` are the parts' rows.

    Raises:
        ModelFailed: a part's output does not have its rows in front, or the parts differ in name, datatype or the other sizes.
    """
    first = column[0]
    for tensor, rows in zip(column, counts, strict=True):
        if not tensor.shape or tensor.shape[0] != rows:
            raise ModelFailed(
                f"output '{tensor.name}' has shape {list(tensor.shape)} for {rows} rows of a record of the batch lane; its rows "
                "run in several batches, so the first size of every output must be the number of rows"
            )
        if (tensor.name, tensor.datatype, tensor.shape[1:]) != (first.name, first.datatype, first.shape[1:]):
            raise ModelFailed(
                f"output '{tensor.name}' is {tensor.datatype}{list(tensor.shape)} for some rows of a record and "
                f"{first.datatype}{list(first.shape)} for others; a record's outputs are joined, so they must be alike"
            )
    if len(column) == 1:
        return first
    data = b"".join([tensor.data for tensor in column])
    return Tensor(first.name, first.datatype, (sum(counts), *first.shape[1:]), data)
