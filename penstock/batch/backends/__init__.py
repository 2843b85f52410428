"""The two ways to a fleet: the broker (`kafka`) and a gateway (`http`), behind one port.

Decided here: how records reach the fleet, how what is in the log is learnt after a kill, and when a fleet counts as unreachable.
Interface: `Backend`, and `Served` for what a backend knows of the model. Invariant: a backend calls back on the event loop only,
and loses no answer: a failure that it cannot heal ends the job (`Events.broken`), which can go on later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from penstock.batch.journal import Saved
from penstock.batch.records import Record
from protocol.messages import InferReply
from protocol.model_config import ModelConfig
from protocol.ports import Place


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """A model version of the fleet.

    Attributes:
        version: decimal.
        config: its configuration.
        partitions: of its topics.
    """

    version: str
    config: ModelConfig
    partitions: int = 1


class Events(Protocol):
    """What a backend calls, on the event loop."""

    def logged(self, records: Sequence[Record]) -> None:
        """The fleet has these records."""

    def answer(self, name: str, reply: InferReply, place: Place | None) -> None:
        """A record's answer; `place` is where it can be read again."""

    async def ready(self) -> None:
        """Wait until more answers may be passed on."""

    def caught_up(self) -> None:
        """All answers that were there at the begin have been passed on."""

    def broken(self, error: BaseException) -> None:
        """The fleet cannot be used any more; the job stops and can go on later."""


class Backend(Protocol):
    """One way to the fleet."""

    @property
    def where(self) -> dict[str, Any]:
        """The fleet's address, for the journal."""

    async def open(self) -> None:
        """Connect.

        Raises:
            Unavailable: nobody answers.
        """

    async def find(self, model: str, version: str) -> Served:
        """The model version; with "" the highest that is ready.

        Raises:
            NotFound: there is none.
        """

    async def begin(self, run: str, served: Served) -> Mapping[int, int]:
        """Prepare a run that begins now; returns from which places of the log on its records can be.

        Raises:
            FleetError: answers of another run of this name are there (ALREADY_EXISTS).
        """

    async def start(self, run: str, served: Served, saved: Saved, events: Events, *, awaits: bool) -> set[str]:
        """Begin to pass on answers; returns the ids of records that are in the log and not in the journal."""

    def send(self, records: Sequence[Record]) -> None:
        """Send records, soon."""

    def places(self) -> Mapping[int, int]:
        """From which places of the log on records can be that `Events.logged` was not called for."""

    async def cancel(self) -> int:
        """Cancel what is in flight; returns how many records."""

    async def close(self) -> None:
        """Stop and disconnect."""
