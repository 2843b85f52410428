"""Which parts of a worker's heartbeats are written. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.heartbeat_parts.encoding import (
    NOTHING,
    encode_description,
    encode_loads,
    encode_numbers,
    encode_pulse,
    revision,
)
from protocol.messages import Heartbeat, Pulse

SETTLE: Final = 8
"""Models whose numbers are repeated although they stand still, before a new description takes them in."""
REWRITE: Final = 30
"""Heartbeats after which all parts are written again: a replica that became the primary may lack some."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What is to be written of a heartbeat. A part that stays as it was is None."""

    pulse: bytes
    description: bytes | None
    loads: bytes | None


def _facts(beat: Heartbeat) -> tuple[object, ...]:
    """All that a description has, but the numbers."""
    return (
        beat.worker, beat.incarnation, beat.host, beat.pid, dict(beat.members), beat.control, beat.memory, beat.mode, beat.unloaded,
        beat.restarts,
        [(m.model, m.version, m.state, m.partitions, m.digest, m.batch_partitions, m.unready) for m in beat.models],
    )  # fmt: skip


class BeatWriter:
    """Takes one worker's heartbeats apart."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The next heartbeat is written whole: what was written may not be there."""
        self._facts: tuple[object, ...] | None = None
        self._asked: tuple[str, ...] | None = None
        self._base: list[bytes] = []
        self._last: list[bytes] = []
        self._description = self._loads = self._written = NOTHING
        self._since = 0

    def parts(self, beat: Heartbeat) -> Parts:
        """The parts to write. Whoever has answered an ask wrote elsewhere too: then all are written."""
        if beat.asked != self._asked:
            self.forget()
        self._asked = beat.asked
        self._since += 1
        facts, numbers = _facts(beat), [encode_numbers(load) for load in beat.models]
        description = loads = None
        if again := self._since > REWRITE:  # the same bytes, so that nobody reads them again
            self._since, description = 1, self._written
        if facts != self._facts or self._stands_still(numbers):
            self._written = description = encode_description(beat, numbers)
            self._facts, self._base, self._description = facts, numbers, revision(description)
        self._last = numbers
        changed = {at: now for at, (now, base) in enumerate(zip(numbers, self._base, strict=True)) if now != base}
        encoded = encode_loads(self._description, changed)
        if (wanted := revision(encoded)) != self._loads or again:
            self._loads, loads = wanted, encoded
        pulse = Pulse(
            beat.worker,
            beat.incarnation,
            beat.at,
            beat.draining,
            beat.asked is not None,
            self._description,
            self._loads,
        )
        return Parts(encode_pulse(pulse), description, loads)

    def _stands_still(self, numbers: Sequence[bytes]) -> bool:
        """Whether most numbers in the loads are only repeated."""
        repeated = sum([now != base for now, base in zip(numbers, self._base, strict=True)])
        moving = sum([now != last for now, last in zip(numbers, self._last, strict=True)])
        return repeated > SETTLE + 2 * moving
