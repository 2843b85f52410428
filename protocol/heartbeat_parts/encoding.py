"""The bytes of a heartbeat's parts: pulse, description, numbers, loads. Pure."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.codec import micros
from protocol.errors import CodecError, quoted
from protocol.frames import pack, unpack
from protocol.heartbeat_codec import decode_progress, decode_waiting, encode_progress, encode_waiting
from protocol.messages import Heartbeat, ModelLoad, ModelState, Pulse
from protocol.tensors import Buffer

VERSION: Final = 2
NOTHING: Final = b""
"""A part that is not there, and its revision."""
_REVISION: Final = 8
"""Bytes of a revision."""
LOADS_START: Final = bytes([VERSION, 0xC4, _REVISION])
"""What loads have before the revision of their description, and after the length of the array."""
MARK_END: Final = 1 + len(LOADS_START) + _REVISION
"""Where that revision ends if the length of the array takes one byte; it takes three from 16 entries on."""
_INCARNATION: Final = 16
"""Characters of an incarnation."""
_UINT64: Final = 0xCF
"""The type of a time in microseconds, from 2**32 on."""
PULSE: Final = struct.Struct(f">{_INCARNATION + 4}sQ{_REVISION + 6}s{_REVISION}s")
"""A pulse whose fields have their usual sizes: what is before the time, the time, what follows it, the revision of the loads."""


def revision(part: Buffer) -> bytes:
    """Eight bytes that stand for a part's bytes."""
    return hashlib.blake2b(part, digest_size=_REVISION).digest()


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


def pulse_around(pulse: Pulse, data: bytes) -> tuple[bytes, bytes] | None:
    """What a pulse has before its time, and between that and the revision of its loads, if it is laid out as `PULSE`."""
    if len(data) != PULSE.size or data != encode_pulse(pulse):
        return None
    before, _, between, loads = PULSE.unpack(data)
    usual = before[-1] == _UINT64 and loads == pulse.loads and len(pulse.incarnation) == _INCARNATION
    return (before, between) if usual else None


# --- numbers ---------------------------------------------------------------------------------------------------------


def encode_numbers(load: ModelLoad) -> bytes:
    """What changes with traffic. New fields go to the end: readers take as many as they know."""
    return pack(
        [
            load.queued_rows, load.queued_requests, load.running_rows, load.lag, micros(load.oldest_age), load.batch_lag,
            load.batch_queued_rows, load.executed, load.last_inference, load.runs, *encode_waiting(load),
        ]
    )  # fmt: skip


def with_numbers(facts: ModelLoad, packed: bytes) -> ModelLoad:
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


# --- descriptions and loads ------------------------------------------------------------------------------------------


def encode_description(beat: Heartbeat, numbers: Sequence[bytes]) -> bytes:
    """A heartbeat without its time, with the packed numbers of its models."""
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


def unpack_description(data: Buffer) -> tuple[dict[str, Any], tuple[bytes, ...]]:
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


def described_heartbeat(head: Mapping[str, Any]) -> Heartbeat:
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


def encode_loads(description: bytes, changed: Mapping[int, bytes]) -> bytes:
    """[version, revision of the description, index, numbers, index, numbers, …]."""
    return pack([VERSION, description, *[item for pair in changed.items() for item in pair]])


def decode_loads(data: Buffer) -> tuple[bytes, dict[int, bytes]]:
    """The revision of the description that these loads belong to, and numbers by model."""
    fields = unpack(data)
    try:
        if fields[0] != VERSION:
            raise CodecError(f"loads of version {quoted(fields[0])} are not known")
        return bytes(fields[1]), dict(zip(map(int, fields[2::2]), map(bytes, fields[3::2]), strict=True))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as exc:
        raise CodecError(f"loads lack or mistype a field: {exc!r}") from None
