"""What passes between the parts of a job: blocks of rows, records to send, and the ids that name them. Pure.

An id is `<run>-<line>` for one row, `<run>-<first>..<last>` for several, and has `~<n>` at its end when it is sent again after a
failure that a retry may heal. `<run>` is the job's name, and `<job>_r<n>` from the second run of a job on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Final

from protocol.errors import Code, InvalidArgument, quoted
from protocol.messages import Failure
from protocol.tensors import Tensor

JOB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_PLACE: Final = re.compile(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?(?:~([0-9]{1,4}))?\Z")


def check_job(name: str) -> str:
    """The name of a job, which is also part of a topic's name and of a folder's.

    Raises:
        InvalidArgument: it is not 1 to 64 letters, digits, dashes and underscores.
    """
    if not JOB.match(name):
        raise InvalidArgument(
            f"job name {quoted(name)} must be 1 to 64 letters, digits, dashes and underscores, and begin with a letter or digit"
        )
    return name


def run_name(job: str, run: int) -> str:
    """The name in ids and in the topic of answers: of the first run the job's own."""
    return job if run == 1 else f"{job}_r{run}"


def record_id(run: str, first: int, last: int, attempt: int = 0) -> str:
    """The id of the record with these first and last lines."""
    lines = f"{run}-{first}" if first == last else f"{run}-{first}..{last}"
    return f"{lines}~{attempt}" if attempt else lines


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What an id says: first and last line, and which attempt."""

    first: int
    last: int
    attempt: int


def parse_id(run: str, name: str) -> Place | None:
    """The place of a record of this run; None for any other id."""
    head, dash, tail = name.rpartition("-")
    match = _PLACE.match(tail) if dash and head == run else None
    if match is None:
        return None
    first = int(match[1])
    return Place(first, int(match[2] or first), int(match[3] or 0))


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A place in the input where reading can begin.

    Attributes:
        line: the number of the next line (the next row of a Parquet file), from 1.
        offset: bytes before it; 0 where that means nothing.
    """

    line: int = 1
    offset: int = 0


Bad = Failure
"""Why a line is no row of the model; in the place of its row."""


@dataclasses.dataclass(slots=True)
class Block:
    """Consecutive lines of the input, as one turn reads them; the same input always makes the same blocks.

    Attributes:
        mark: where it begins.
        after: where the next one begins.
        lines: numbers of the lines that hold something, ascending.
        rows: what each holds: values by column, the cells of a CSV row, or why it cannot be read.
        last: nothing follows.
    """

    mark: Mark
    after: Mark
    lines: list[int]
    rows: list[Any]
    last: bool = False


@dataclasses.dataclass(slots=True)
class Record:
    """Rows of one shape that travel together.

    Attributes:
        id: see the module.
        lines: their line numbers, ascending.
        tensors: the inputs, with all rows in the first dimension if the model batches.
        attempt: from 0.
        alone: it is a row of a record that failed.
    """

    id: str
    lines: Sequence[int]
    tensors: tuple[Tensor, ...]
    attempt: int = 0
    alone: bool = False

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum([len(tensor.data) for tensor in self.tensors])


def bad(message: str, code: Code = Code.INVALID_ARGUMENT) -> Bad:
    """Why a line cannot be sent."""
    return Failure(code, message)
