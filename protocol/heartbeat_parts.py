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

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
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


def revision(part: Buffer) -> bytes:
    """Eight bytes that stand for a part's bytes."""
    return hashlib.blake2b(part, digest_size=8).digest()


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
    """The models of a heartbeat. Their numbers are unpacked when they are looked at.

    Attributes:
        facts: the same models without numbers; one object as long as the worker's description stays.
    """

    __slots__ = ("_base", "_changed", "_made", "facts")

    def __init__(self, facts: tuple[ModelLoad, ...], base: Sequence[bytes], changed: Mapping[int, bytes]) -> None:
        self.facts = facts
        self._base = base
        self._changed = changed
        self._made: dict[int, ModelLoad] = {}

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> ModelLoad: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ModelLoad]: ...

    def __getitem__(self, index: int | slice) -> ModelLoad | Sequence[ModelLoad]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self.facts)))]
        made = self._made.get(index)
        if made is None:
            facts = self.facts[index]
            at = index if index >= 0 else index + len(self.facts)
            made = self._made[index] = _with_numbers(facts, self._changed.get(at) or self._base[at])
        return made

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


def _decode_description(data: Buffer) -> tuple[Heartbeat, tuple[bytes, ...]]:
    """A heartbeat without time and numbers, and the packed numbers of its models."""
    head = unpack(data)
    try:
        if head["v"] != VERSION:
            raise CodecError(f"description of version {quoted(head['v'])} is not known")
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
        beat = Heartbeat(
            str(head["worker"]), str(head["incarnation"]), str(head["host"]), int(head["pid"]), 0.0, facts,
            {str(group): str(member) for group, member in head["members"].items()}, False, None,
            tuple(decode_progress(entry) for entry in head.get("control", ())), (int(limit), int(used)),
            str(head.get("mode", "")), tuple(map(str, head.get("unloaded", ()))), max(0, int(head.get("restarts", 0))),
        )  # fmt: skip
        return beat, tuple([bytes(m[7]) for m in head["models"]])
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
        self._description = self._loads = _NOTHING
        self._since = 0

    def parts(self, beat: Heartbeat) -> Parts:
        """The parts to write. Whoever has answered an ask wrote elsewhere too: then all are written."""
        if beat.asked != self._asked or self._since >= REWRITE:
            self.forget()
        self._asked = beat.asked
        self._since += 1
        facts, numbers = _facts(beat), [_numbers(load) for load in beat.models]
        description = loads = None
        if facts != self._facts or self._stands_still(numbers):
            description = _encode_description(beat, numbers)
            self._facts, self._base, self._description = facts, numbers, revision(description)
        self._last = numbers
        changed = {at: now for at, (now, base) in enumerate(zip(numbers, self._base, strict=True)) if now != base}
        encoded = _encode_loads(self._description, changed)
        if (wanted := revision(encoded)) != self._loads:
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
        description, loads: the revisions of the parts; b"" for none.
        head: the heartbeat that the description makes.
    """

    description: bytes = _NOTHING
    loads: bytes = _NOTHING
    head: Heartbeat | None = None
    models: Loads = dataclasses.field(default_factory=lambda: Loads((), (), {}))
    base: tuple[bytes, ...] = ()


class BeatReader:
    """Puts heartbeats together again, of all workers."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def wanted(self, pulses: Iterable[Pulse]) -> tuple[list[str], list[str]]:
        """The workers whose description, and those whose loads are to be read."""
        descriptions, loads = [], []
        for pulse in pulses:
            known = self._known.get(pulse.worker)
            new = known is None or known.description != pulse.description
            if new:
                descriptions.append(pulse.worker)
            if known is None or new or known.loads != pulse.loads:
                loads.append(pulse.worker)
        return descriptions, loads

    def described(self, worker: str, data: Buffer | None) -> str:
        """Take in a description; returns why it cannot be read, or ""."""
        known = self._known.setdefault(worker, _Known())
        if data is None or (now := revision(data)) == known.description:
            return ""
        known.description, known.loads, known.head = now, _NOTHING, None
        try:
            head, known.base = _decode_description(data)
            if head.worker != worker:
                raise CodecError(f"it is of worker {quoted(head.worker)}")
        except CodecError as exc:
            return exc.message
        known.models = Loads(tuple(head.models), known.base, {})
        known.head = head
        return ""

    def loaded(self, worker: str, data: Buffer | None) -> str:
        """Take in loads, after the description; returns why they cannot be read, or ""."""
        known = self._known.setdefault(worker, _Known())
        if data is None or (now := revision(data)) == known.loads or known.head is None:
            return ""
        try:
            description, changed = _decode_loads(data)
        except CodecError as exc:
            known.loads = now
            return exc.message
        if description == known.description:  # else it comes with the next reading
            known.loads = now
            known.models = Loads(known.models.facts, known.base, changed)
        return ""

    def heartbeat(self, pulse: Pulse) -> Heartbeat | None:
        """The worker's heartbeat as of this pulse; None if its description is not there."""
        known = self._known.get(pulse.worker)
        if known is None or (head := known.head) is None:
            return None
        return Heartbeat(
            head.worker, pulse.incarnation, head.host, head.pid, pulse.at, known.models, head.members, pulse.draining,
            () if pulse.listens else None, head.control, head.memory, head.mode, head.unloaded,
            head.restarts,
        )  # fmt: skip

    def keep(self, workers: Collection[str]) -> None:
        """Forget all others."""
        for worker in [worker for worker in self._known if worker not in workers]:
            del self._known[worker]
