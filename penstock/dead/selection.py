"""Filters on dead letters, and counts by reason. Pure."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import re
from collections.abc import Iterable
from typing import Final

from penstock.dead.letters import ReadLetter
from protocol.errors import InvalidArgument

_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)\Z")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """A filter on letters; an empty field does not filter.

    Attributes:
        reasons: the reason is one of these.
        since: dead-lettered at or after this, seconds since the epoch.
        worker: the worker that gave them up.
        ids: one of these is the letter's id, its `principal/id`, or its place.
    """

    reasons: tuple[str, ...] = ()
    since: float = 0.0
    worker: str = ""
    ids: tuple[str, ...] = ()

    def covers(self, letter: ReadLetter) -> bool:
        """Whether the filter selects the letter."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and letter.dead_lettered_at >= self.since
            and (not self.worker or letter.worker == self.worker)
            and (not self.ids or any(is_called(letter, name) for name in self.ids))
        )


def is_called(letter: ReadLetter, name: str) -> bool:
    """Whether `name` is the letter's id, `principal/id` or place."""
    return name in (letter.id, letter.ref, letter.place)


def counted(letters: Iterable[ReadLetter]) -> dict[str, int]:
    """Counts per reason, the most frequent first."""
    return dict(collections.Counter(letter.reason for letter in letters).most_common())


def since(text: str, now: float) -> float:
    """Parse an age (`90s`, `30m`, `2h`, `7d`) or an ISO date and time (without a zone: UTC) into seconds since the epoch.

    Raises:
        InvalidArgument: it is neither.
    """
    if age := _AGE.match(text):
        return now - float(age[1]) * _SECONDS[age[2]]
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            f"--since {text!r} is neither an age (90s, 30m, 2h, 7d) nor a date (2026-01-31T12:00)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
