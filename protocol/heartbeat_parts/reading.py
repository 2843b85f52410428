"""Which parts of all workers' heartbeats are read, and the heartbeats that they make. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from protocol.errors import CodecError, quoted
from protocol.heartbeat_parts.encoding import (
    LOADS_START,
    MARK_END,
    NOTHING,
    PULSE,
    decode_loads,
    decode_pulse,
    described_heartbeat,
    pulse_around,
    revision,
    unpack_description,
)
from protocol.heartbeat_parts.loads import Loads
from protocol.messages import Heartbeat, Pulse
from protocol.tensors import Buffer


@dataclasses.dataclass(slots=True)
class _Known:
    """What was read of one worker.

    Attributes:
        pulse: the one that was decoded last; None if it cannot be read. A later one may differ in what follows here.
        before, between: the bytes around the time of `pulse`, before the revision of the loads; b"" if they have unusual sizes.
        at: when the newest pulse was written.
        named: the revision of the loads in the newest pulse.
        description, loads: the revisions of the parts that were read; b"" for none.
        mark: how loads of this description begin, after the length of their array.
        said: what the description says besides numbers, as it was packed.
        head: the heartbeat that this makes.
        base: the numbers in the description.
    """

    worker: str
    pulse: Pulse | None = None
    before: bytes = NOTHING
    between: bytes = NOTHING
    at: float = 0.0
    named: bytes = NOTHING
    description: bytes = NOTHING
    loads: bytes = NOTHING
    mark: bytes = NOTHING
    said: Mapping[str, Any] | None = None
    head: Heartbeat | None = None
    models: Loads = dataclasses.field(default_factory=lambda: Loads((), ()))
    base: tuple[bytes, ...] = ()

    def take(self, data: bytes) -> str:
        """Take in loads; returns why they cannot be read, or "". Their revision is looked at when somebody looks at them."""
        if self.head is None:
            return ""
        if self.mark not in (data[1:MARK_END], data[3 : 2 + MARK_END]):
            try:
                description, _ = decode_loads(data)
            except CodecError as exc:
                self.loads = revision(data)
                return exc.message
            if description != self.description:
                return ""  # it comes with the next reading
        self.loads = self.named
        self.models = self.models.later(self.base, data, self.check)
        return ""

    def check(self, models: Loads, data: bytes) -> None:
        """Read the loads again if they are not those that the pulse named: another process wrote them in between."""
        if models is self.models and revision(data) != self.loads:
            self.loads = NOTHING

    def decode(self, data: bytes) -> str:
        """Take in a pulse; returns why it cannot be read, or ""."""
        self.before = self.between = NOTHING
        try:
            pulse = self.pulse = decode_pulse(self.worker, data)
        except CodecError as exc:
            self.pulse = None
            return exc.message
        self.at, self.named = pulse.at, pulse.loads
        if (parts := pulse_around(pulse, data)) is not None:
            self.before, self.between = parts
        return ""

    def heartbeat(self) -> Heartbeat | None:
        """The worker's heartbeat as of its newest pulse; None if that or its description is not there."""
        pulse, head = self.pulse, self.head
        if pulse is None or head is None:
            return None
        return Heartbeat(
            head.worker, pulse.incarnation, head.host, head.pid, self.at, self.models, head.members, pulse.draining,
            () if pulse.listens else None, head.control, head.memory, head.mode, head.unloaded,
            head.restarts,
        )  # fmt: skip


class BeatReader:
    """Puts heartbeats together again, of all workers. Of a pulse that differs in its time and loads only, those are decoded."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._names: list[bytes] = []
        self._rows: list[_Known] = []

    def read(self, names: list[bytes], pulses: list[bytes]) -> dict[str, str]:
        """Take in the pulses of all workers there are.

        Args:
            names: of the workers.
            pulses: theirs, in the same order.

        Returns:
            By worker, why its pulse cannot be read.
        """
        if names != self._names:
            self._lay_out(names)
        if pulses and set(map(len, pulses)) == {PULSE.size}:
            rows = PULSE.iter_unpack(b"".join(pulses))
            unusual = []
            for at, (known, (before, micro, between, loads)) in enumerate(zip(self._rows, rows, strict=True)):
                if known.before == before and known.between == between:
                    known.at, known.named = micro / 1e6, loads
                else:
                    unusual.append((known, pulses[at]))
        else:
            unusual = list(zip(self._rows, pulses, strict=True))
        return {known.worker: problem for known, data in unusual if (problem := known.decode(data))}

    def pulses(self) -> list[Pulse]:
        """The newest pulses, as far as they can be read."""
        return [
            dataclasses.replace(known.pulse, at=known.at, loads=known.named)
            for known in self._rows
            if known.pulse is not None
        ]

    def wanted(self) -> tuple[list[bytes], list[bytes]]:
        """The workers whose description, and those whose loads are to be read."""
        descriptions, loads = [], []
        for name, known in zip(self._names, self._rows, strict=True):
            if known.pulse is not None:
                if new := known.pulse.description != known.description:
                    descriptions.append(name)
                if new or known.named != known.loads:
                    loads.append(name)
        return descriptions, loads

    def described(self, worker: str, data: Buffer | None) -> str:
        """Take in a description; returns why it cannot be read, or ""."""
        known = self._known[worker]
        if data is None or (now := revision(data)) == known.description:
            return ""
        known.description, known.loads, known.mark = now, NOTHING, LOADS_START + now
        try:
            said, known.base = unpack_description(data)
            if known.head is None or said != known.said:  # else only numbers have changed
                known.said = known.head = None
                head = described_heartbeat(said)
                if head.worker != worker:
                    raise CodecError(f"it is of worker {quoted(head.worker)}")
                known.said, known.head = said, head
                known.models = Loads(tuple(head.models), ())
        except CodecError as exc:
            known.said = known.head = None
            return exc.message
        known.models = known.models.later(known.base)
        return ""

    def loaded(self, loads: Mapping[bytes, bytes | None]) -> dict[str, str]:
        """Take in loads by worker, after the descriptions, as far as they have changed.

        Returns:
            By worker, why its loads cannot be read.
        """
        return {
            known.worker: problem
            for name, known in zip(self._names, self._rows, strict=True)
            if known.named != known.loads and (data := loads.get(name)) is not None and (problem := known.take(data))
        }

    def heartbeats(self) -> list[Heartbeat]:
        """The heartbeats of all workers whose pulse and description could be read."""
        return [beat for known in self._rows if (beat := known.heartbeat()) is not None]

    def _lay_out(self, names: list[bytes]) -> None:
        """Know these workers, and no others."""
        texts = [name.decode(errors="replace") for name in names]
        former, self._known = self._known, {}
        for worker in texts:
            self._known[worker] = former.get(worker) or _Known(worker)
        self._names, self._rows = names, [self._known[worker] for worker in texts]
