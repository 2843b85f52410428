"""Sets of line numbers as spans: a million consecutive lines are one pair of numbers. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from protocol.errors import CodecError

Span = tuple[int, int]
"""First and last line, both included."""


def spans_of(lines: Sequence[int]) -> list[Span]:
    """The spans of ascending line numbers."""
    if not lines:
        return []
    if lines[-1] - lines[0] + 1 == len(lines):
        return [(lines[0], lines[-1])]
    found: list[Span] = []
    first = last = lines[0]
    for line in lines[1:]:
        if line != last + 1:
            found.append((first, last))
            first = line
        last = line
    found.append((first, last))
    return found


class Spans:
    """A set of positive integers that is cheap while they are consecutive."""

    __slots__ = ("_first", "_last")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in spans:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Add the lines from `first` to `last`, both included."""
        low = bisect.bisect_left(self._last, first - 1)
        high = bisect.bisect_right(self._first, last + 1)
        if low < high:
            first, last = min(first, self._first[low]), max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def update(self, spans: Iterable[Span]) -> None:
        """Add several spans."""
        for first, last in spans:
            self.add(first, last)

    def __contains__(self, line: int) -> bool:
        at = bisect.bisect_right(self._first, line) - 1
        return at >= 0 and line <= self._last[at]

    def covers(self, first: int, last: int) -> bool:
        """Whether every line from `first` to `last` is in the set."""
        at = bisect.bisect_right(self._first, first) - 1
        return at >= 0 and last <= self._last[at]

    def touches(self, first: int, last: int) -> bool:
        """Whether any line from `first` to `last` is in the set."""
        at = bisect.bisect_left(self._last, first)
        return at < len(self._first) and self._first[at] <= last

    def __iter__(self) -> Iterator[Span]:
        return iter(zip(self._first, self._last, strict=True))

    def __bool__(self) -> bool:
        return bool(self._first)

    def count(self) -> int:
        """How many lines are in the set."""
        return sum(self._last) - sum(self._first) + len(self._first)

    def drain(self) -> list[Span]:
        """The spans, leaving the set empty."""
        taken = list(self)
        self._first, self._last = [], []
        return taken


def read_spans(value: Any) -> list[Span]:
    """Spans from a journal's JSON.

    Raises:
        CodecError: it holds something else.
    """
    try:
        found = [(first, last) for first, last in value]
        if not all(type(first) is int and type(last) is int and 0 < first <= last for first, last in found):
            raise ValueError
    except (TypeError, ValueError):
        raise CodecError("a journal's spans must be pairs of line numbers") from None
    return found
