"""Where intake delivers entries. The runner is one; intake knows no more of it than this."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from protocol.messages import Failure
from protocol.ports import Cancel
from workers.instances.job import Entry
from workers.statistics import FailureReason


class Sink(Protocol):
    """Takes entries, on the event loop; nothing here waits."""

    def room(self) -> int:
        """How many more requests may be taken in."""

    def add(self, entry: Entry) -> None:
        """Queue the entry, or answer why not. Call `turn` after the last of a group."""

    def refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Answer the entry with a failure; its record is done after that."""

    def cancel(self, cancel: Cancel) -> None:
        """Answer CANCELLED what is meant, is here and has not started."""

    def forget(self, owned: Collection[int]) -> None:
        """Drop what waits here from partitions that are not in `owned`."""

    def turn(self) -> None:
        """Form the batches that are due."""
