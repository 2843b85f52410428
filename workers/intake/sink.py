"""Where intake delivers entries; `serving.Runner` implements it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from protocol.messages import Failure
from protocol.model_stats import FailureReason
from protocol.ports import Cancel
from workers.instances.job import Entry


class Sink(Protocol):
    """Takes entries, on the event loop; nothing here blocks."""

    def room(self) -> int:
        """How many more requests may be taken in."""

    def add(self, entry: Entry) -> None:
        """Queue the entry, or answer it with the reason why not. Call `turn` after the last of a group."""

    def refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Answer the entry with a failure; its record is done after that."""

    def answered(self, entries: Sequence[Entry]) -> None:
        """The store has the answers of these entries already: their records are done once their topics have them, too."""

    def cancel(self, cancel: Cancel) -> None:
        """Answer CANCELLED to the runs that it covers, if they are here and have not started."""

    def forget(self, owned: Collection[int]) -> None:
        """Drop entries that wait here from partitions not in `owned`."""

    def turn(self) -> None:
        """Form the batches that are due."""
