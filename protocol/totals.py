"""The totals of a model version: named numbers that only grow, kept by the result store, and what each answer adds to them. Pure.

A store adds an answer's numbers in the step that writes the answer, and only if it writes it: so a call repeated after a lost
reply, a redelivered record and a worker killed at any moment neither lose a count nor add one twice. `protocol.model_stats` has
the table of what counts as what; here a name is only a name, except `LAST`.

Units: counts, and nanoseconds (names that end in `.ns`). A number that would reach `WRAPS` starts again from what is added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

LAST: Final = "last"
"""Milliseconds since the epoch; totals keep the largest instead of the sum."""
WRAPS: Final = 2**63
"""Redis and SQLite hold smaller numbers."""

Numbers = Mapping[str, int]
Key = tuple[str, str]
"""(model, version)."""


@dataclasses.dataclass(slots=True, eq=False)
class Counts:
    """What answers add to their model version's totals. Several answers that add the same may share one object without `batch`.

    Attributes:
        key: (model, version).
        answer: added for each answer that is written.
        batch: added once if at least one counted answer of the same call is written: of runs that no answer has reported yet.
    """

    key: Key
    answer: Numbers
    batch: Numbers = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Tally:
    """What the answers of one call add.

    Attributes:
        batch: added if any of them is written.
        kinds: different additions of single answers.
        kind_of: for each answer, the place of its addition in `kinds`, or -1 if it is not counted.
    """

    batch: dict[str, int]
    kinds: list[Numbers]
    kind_of: list[int]

    def total(self, written: Sequence[bool] | None = None) -> dict[str, int]:
        """The sum over the answers that were written; over all unless it is given. Empty if none was."""
        if written is None and self.kind_of == [0]:
            total = dict(self.kinds[0])
            add(total, self.batch)
            return total
        times = [0] * len(self.kinds)
        for at, kind in enumerate(self.kind_of):
            if kind >= 0 and (written is None or written[at]):
                times[kind] += 1
        total = {}
        if any(times):
            for numbers, count in zip(self.kinds, times, strict=True):
                if count:
                    add(total, numbers, count)
            add(total, self.batch)
        return total


def tally(counts: Sequence[Counts | None]) -> Tally:
    """Group the counts of one call's answers, in order; all of one model version."""
    if len(counts) == 1 and counts[0] is not None:
        return Tally(dict(counts[0].batch), [counts[0].answer], [0])
    result = Tally({}, [], [])
    places: dict[int, int] = {}
    for one in counts:
        if one is None:
            result.kind_of.append(-1)
            continue
        place = places.get(id(one))
        if place is None:
            place = places[id(one)] = len(result.kinds)
            result.kinds.append(one.answer)
            if one.batch:
                add(result.batch, one.batch)
        result.kind_of.append(place)
    return result


def add(total: dict[str, int], numbers: Numbers, times: int = 1) -> None:
    """Add the numbers so many times."""
    get = total.get
    for name, number in numbers.items():
        if name == LAST:
            total[name] = max(get(name, 0), number)
        else:
            value = get(name, 0) + number * times
            total[name] = value if value < WRAPS else number


class KeptTotals:
    """The totals that a store in this process keeps.

    Attributes:
        totals: by model version; of each that was ever counted.
    """

    def __init__(self, totals: dict[Key, dict[str, int]] | None = None) -> None:
        self.totals: dict[Key, dict[str, int]] = totals if totals is not None else {}

    def count(self, counts: Sequence[Counts | None], written: Sequence[bool]) -> set[Key]:
        """Add what the written answers of one call add; returns whose totals have changed."""
        if len(counts) == 1:
            return self._count_one(counts[0]) if written[0] else set()
        changed: set[Key] = set()
        keys = {one.key for one in counts if one is not None}
        for key in keys:
            mine = [one if one is not None and one.key == key else None for one in counts] if len(keys) > 1 else counts
            grown = tally(mine).total(written)
            if grown:
                add(self.totals.setdefault(key, {}), grown)
                changed.add(key)
        return changed

    def _count_one(self, counts: Counts | None) -> set[Key]:
        if counts is None:
            return set()
        total = self.totals.setdefault(counts.key, {})
        add(total, counts.answer)
        add(total, counts.batch)
        return {counts.key}

    def read(self, keys: Sequence[Key]) -> list[dict[str, int]]:
        """Copies; empty where nothing was counted."""
        return [dict(self.totals.get((model, version), ())) for model, version in keys]
