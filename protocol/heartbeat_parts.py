"""A heartbeat in parts, so that only what changes is written and read: pulse, description, loads. Pure.

| part | has | is written |
| --- | --- | --- |
| pulse | incarnation, time, whether it drains; the revisions of the other parts | twice a second |
| description | process, groups, models with state, files, partitions, and their numbers then; control | when it changes |
| loads | the numbers of the models whose numbers have changed since | when it changes |

A revision is a hash of a part's bytes, so that two writers of one worker's heartbeat (its process and its supervisor) need not
agree on anything. The numbers of a model are packed by themselves and unpacked only when somebody looks at them.

Invariants: what a reader returns has once been written as a whole, except for the time; a part that is lost, stale or unreadable
costs at most that worker's heartbeat until the next one is written; any bytes give a value or `CodecError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, overload

from protocol.codec import micros
from protocol.errors import CodecError, quoted
from protocol.frames import pack, unpack
from protocol.heartbeat_codec import decode_progress, decode_waiting, encode_progress, encode_waiting
from protocol.messages import Heartbeat, ModelLoad, ModelState, Pulse
from protocol.tensors import Buffer

VERSION: Final = 2
SETTLE: Final = 8
"""Models whose numbers are repeated although they stand still, before a new description takes them in."""
REWRITE: Final = 30
"""Heartbeats after which all parts are written again: a replica that became the primary may lack some."""
_NOTHING: Final = b""
_REVISION: Final = 8
"""Bytes of a revision."""
_LOADS_START: Final = bytes([VERSION, 0xC4, _REVISION])
"""What loads have before the revision of their description, and after the length of the array."""
_MARK_END: Final = 1 + len(_LOADS_START) + _REVISION
_INCARNATION: Final = 16
"""Characters of an incarnation."""
_UINT64: Final = 0xCF
"""The type of a time in microseconds, from 2**32 on."""
_PULSE: Final = struct.Struct(f">{_INCARNATION + 4}sQ{_REVISION + 6}s{_REVISION}s")
"""A pulse whose fields have their usual sizes: what is before the time, the time, what follows it, the revision of the loads."""


def revision(part: Buffer) -> bytes:
    """Eight bytes that stand for a part's bytes."""
    return hashlib.blake2b(part, digest_size=_REVISION).digest()


# --- pulses ----------------------------------------------------------------------------------------------------------


def encode_pulse(pulse: Pulse) -> bytes:
    """A value in the hash of pulses, whose key is the worker."""
    return pack(
        [VERSION, pulse.incarnation, micros(pulse.at), pulse.draining, pulse.listens, pulse.description, pulse.loads]
    )


def decode_pulse(worker: str, data: Buffer) -> Pulse:
    """The inverse of `encode_pulse`.

    Raises:
        CodecError: the bytes are not a pulse.
    """
    fields = unpack(data)
    try:
        version, incarnation, at, draining, listens, description, loads = fields[:7]
        if version != VERSION:
            raise CodecError(f"pulse of version {quoted(version)} is not known")
        return Pulse(
            worker, str(incarnation), at / 1e6, bool(draining), bool(listens), bytes(description), bytes(loads)
        )
    except (TypeError, ValueError, KeyError, OverflowError) as exc:
        raise CodecError(f"pulse lacks or mistypes a field: {exc!r}") from None


def _pulse_parts(pulse: Pulse, data: bytes) -> tuple[bytes, bytes] | None:
    """What a pulse has before its time, and between that and the revision of its loads, if it is laid out as `_PULSE`."""
    if len(data) != _PULSE.size or data != encode_pulse(pulse):
        return None
    before, _, between, loads = _PULSE.unpack(data)
    usual = before[-1] == _UINT64 and loads == pulse.loads and len(pulse.incarnation) == _INCARNATION
    return (before, between) if usual else None


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(load: ModelLoad) -> bytes:
    """What changes with traffic. New fields go to the end: readers take as many as they know."""
    return pack(
        [
            load.queued_rows, load.queued_requests, load.running_rows, load.lag, micros(load.oldest_age), load.batch_lag,
            load.batch_queued_rows, load.executed, load.last_inference, load.runs, *encode_waiting(load),
        ]
    )  # fmt: skip


def _with_numbers(facts: ModelLoad, packed: bytes) -> ModelLoad:
    """The model with its numbers; without them if they cannot be read."""
    try:
        queued, requests, running, lag, age, batch_lag, batch_queued, executed, last, runs, *more = unpack(packed)
        return ModelLoad(
            facts.model, facts.version, facts.state, facts.partitions, queued, requests, running, lag, age / 1e6, {}, {},
            facts.digest, facts.batch_partitions, batch_lag, batch_queued, facts.unready,
            tuple([tuple(run) for run in runs]), executed, last, *decode_waiting(more),
        )  # fmt: skip
    except (CodecError, TypeError, ValueError, KeyError, OverflowError):
        return facts


class Loads(Sequence[ModelLoad]):
    """The models of a heartbeat. Their numbers are unpacked whenever they are looked at.

    Args:
        base: the numbers of each in the description.
        changed: the loads, which have newer numbers of some; unpacked with the first look. Unreadable ones have none.
        on_look: called with the loads at the first look.

    Attributes:
        facts: the same models without numbers; one object as long as nothing but numbers changes.
    """

    __slots__ = ("_base", "_changed", "_newer", "_on_look", "facts")

    def __init__(
        self,
        facts: tuple[ModelLoad, ...],
        base: Sequence[bytes],
        changed: bytes = _NOTHING,
        on_look: Callable[[Loads, bytes], None] | None = None,
    ) -> None:
        self.facts = facts
        self._base = base
        self._changed = changed
        self._on_look = on_look
        self._newer: dict[int, bytes] | None = None

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> ModelLoad: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ModelLoad]: ...

    def __getitem__(self, index: int | slice) -> ModelLoad | Sequence[ModelLoad]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self.facts)))]
        at = index if index >= 0 else index + len(self.facts)
        changed = self._look() if self._newer is None else self._newer
        return _with_numbers(self.facts[index], changed.get(at) or self._base[at])

    def _look(self) -> dict[int, bytes]:
        self._newer = {}
        if self._on_look is not None:
            self._on_look(self, self._changed)
        if self._changed:
            with contextlib.suppress(CodecError):
                self._newer = _decode_loads(self._changed)[1]
        return self._newer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # it is compared by its contents

    def __repr__(self) -> str:
        return repr(tuple(self))


def facts_of(models: Sequence[ModelLoad]) -> Sequence[ModelLoad]:
    """The models of a heartbeat for somebody who needs no numbers."""
    return models.facts if isinstance(models, Loads) else models


# --- descriptions ----------------------------------------------------------------------------------------------------


def _encode_description(beat: Heartbeat, numbers: Sequence[bytes]) -> bytes:
    models = [
        [m.model, m.version, m.state.value, m.partitions, m.digest, m.batch_partitions, m.unready, packed]
        for m, packed in zip(beat.models, numbers, strict=True)
    ]
    head: dict[str, Any] = {
        "v": VERSION, "worker": beat.worker, "incarnation": beat.incarnation, "host": beat.host, "pid": beat.pid,
        "members": beat.members, "models": models,
    }  # fmt: skip
    if beat.control:
        head["control"] = [encode_progress(entry) for entry in beat.control]
    if beat.memory != (0, 0):
        head["memory"] = beat.memory
    if beat.mode:
        head["mode"] = beat.mode
    if beat.unloaded:
        head["unloaded"] = beat.unloaded
    if beat.restarts:
        head["restarts"] = beat.restarts
    return pack(head)


def _unpack_description(data: Buffer) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """What a description says besides numbers, as it is packed; and the packed numbers of its models."""
    head = unpack(data)
    try:
        if head["v"] != VERSION:
            raise CodecError(f"description of version {quoted(head['v'])} is not known")
        numbers = tuple([bytes(m[7]) for m in head["models"]])
        head["models"] = [m[:7] for m in head["models"]]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as exc:
        raise CodecError(f"description lacks or mistypes a field: {exc!r}") from None
    return head, numbers


def _described_heartbeat(head: Mapping[str, Any]) -> Heartbeat:
    """A heartbeat without time and numbers."""
    try:
        facts = tuple(
            [
                ModelLoad(
                    str(m[0]), str(m[1]), ModelState(m[2]), tuple(m[3]), digest=str(m[4]), batch_partitions=tuple(m[5]),
                    unready=str(m[6]),
                )
                for m in head["models"]
            ]
        )  # fmt: skip
        limit, used = head.get("memory", (0, 0))
        return Heartbeat(
            str(head["worker"]), str(head["incarnation"]), str(head["host"]), int(head["pid"]), 0.0, facts,
            {str(group): str(member) for group, member in head["members"].items()}, False, None,
            tuple(decode_progress(entry) for entry in head.get("control", ())), (int(limit), int(used)),
            str(head.get("mode", "")), tuple(map(str, head.get("unloaded", ()))), max(0, int(head.get("restarts", 0))),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as exc:
        raise CodecError(f"description lacks or mistypes a field: {exc!r}") from None


def _encode_loads(description: bytes, changed: Mapping[int, bytes]) -> bytes:
    """[version, revision of the description, index, numbers, index, numbers, …]."""
    return pack([VERSION, description, *[item for pair in changed.items() for item in pair]])


def _decode_loads(data: Buffer) -> tuple[bytes, dict[int, bytes]]:
    """The revision of the description that these loads belong to, and numbers by model."""
    fields = unpack(data)
    try:
        if fields[0] != VERSION:
            raise CodecError(f"loads of version {quoted(fields[0])} are not known")
        return bytes(fields[1]), dict(zip(map(int, fields[2::2]), map(bytes, fields[3::2]), strict=True))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as exc:
        raise CodecError(f"loads lack or mistype a field: {exc!r}") from None


# --- writing and reading ---------------------------------------------------------------------------------------------


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
        self._description = self._loads = self._written = _NOTHING
        self._since = 0

    def parts(self, beat: Heartbeat) -> Parts:
        """The parts to write. Whoever has answered an ask wrote elsewhere too: then all are written."""
        if beat.asked != self._asked:
            self.forget()
        self._asked = beat.asked
        self._since += 1
        facts, numbers = _facts(beat), [_numbers(load) for load in beat.models]
        description = loads = None
        if again := self._since > REWRITE:  # the same bytes, so that nobody reads them again
            self._since, description = 1, self._written
        if facts != self._facts or self._stands_still(numbers):
            self._written = description = _encode_description(beat, numbers)
            self._facts, self._base, self._description = facts, numbers, revision(description)
        self._last = numbers
        changed = {at: now for at, (now, base) in enumerate(zip(numbers, self._base, strict=True)) if now != base}
        encoded = _encode_loads(self._description, changed)
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
    before: bytes = _NOTHING
    between: bytes = _NOTHING
    at: float = 0.0
    named: bytes = _NOTHING
    description: bytes = _NOTHING
    loads: bytes = _NOTHING
    mark: bytes = _NOTHING
    said: Mapping[str, Any] | None = None
    head: Heartbeat | None = None
    models: Loads = dataclasses.field(default_factory=lambda: Loads((), ()))
    base: tuple[bytes, ...] = ()

    def take(self, data: bytes) -> str:
        """Take in loads; returns why they cannot be read, or "". Their revision is looked at when somebody looks at them."""
        if self.head is None:
            return ""
        if self.mark not in (data[1:_MARK_END], data[3 : 2 + _MARK_END]):
            try:
                description, _ = _decode_loads(data)
            except CodecError as exc:
                self.loads = revision(data)
                return exc.message
            if description != self.description:
                return ""  # it comes with the next reading
        self.loads = self.named
        self.models = Loads(self.models.facts, self.base, data, self.check)
        return ""

    def check(self, models: Loads, data: bytes) -> None:
        """Read the loads again if they are not those that the pulse named: another process wrote them in between."""
        if models is self.models and revision(data) != self.loads:
            self.loads = _NOTHING

    def decode(self, data: bytes) -> str:
        """Take in a pulse; returns why it cannot be read, or ""."""
        self.before = self.between = _NOTHING
        try:
            pulse = self.pulse = decode_pulse(self.worker, data)
        except CodecError as exc:
            self.pulse = None
            return exc.message
        self.at, self.named = pulse.at, pulse.loads
        if (parts := _pulse_parts(pulse, data)) is not None:
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
        if pulses and set(map(len, pulses)) == {_PULSE.size}:
            rows = _PULSE.iter_unpack(b"".join(pulses))
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
        known.description, known.loads, known.mark = now, _NOTHING, _LOADS_START + now
        try:
            said, known.base = _unpack_description(data)
            if known.head is None or said != known.said:  # else only numbers have changed
                known.said = known.head = None
                head = _described_heartbeat(said)
                if head.worker != worker:
                    raise CodecError(f"it is of worker {quoted(head.worker)}")
                known.said, known.head = said, head
                known.models = Loads(tuple(head.models), ())
        except CodecError as exc:
            known.said = known.head = None
            return exc.message
        known.models = Loads(known.models.facts, known.base)
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
