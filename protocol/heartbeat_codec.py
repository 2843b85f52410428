"""Announcements and heartbeats to bytes and back; `codec` has requests and replies. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from protocol.codec import micros
from protocol.errors import CodecError, quoted
from protocol.frames import WIRE_VERSION, pack, split_frame
from protocol.messages import Announcement, ControlProgress, Heartbeat, ModelLoad, ModelState, Outcome
from protocol.tensors import Buffer

SECRET_KEY: Final = b"/signing-secret"
"""Key of the catalogue's only record that is not an announcement: the gateways' random signing secret. No model's name is empty."""
SECRET_BYTES: Final = 32
WAITING: Final = 6
"""Fields of `encode_waiting`."""


def encode_announcement(entry: Announcement) -> tuple[bytes, bytes]:
    """(key, value) of a record of the catalogue topic."""
    value = {
        "v": WIRE_VERSION, "model": entry.model, "version": entry.version, "state": entry.state.value,
        "config": entry.config, "digest": entry.digest, "reason": entry.reason, "at": micros(entry.at),
        "partitions": entry.partitions,
    }  # fmt: skip
    if entry.labels:
        value["labels"] = {output: list(labels) for output, labels in entry.labels.items()}
    return f"{entry.model}/{entry.version}".encode(), pack(value)


def decode_announcement(value: Buffer) -> Announcement:
    """The inverse of `encode_announcement`.

    Raises:
        CodecError: the bytes are not an announcement.
    """
    head, _ = split_frame(value)
    try:
        if head["v"] != WIRE_VERSION or not isinstance(head["config"], dict):
            raise CodecError(f"announcement of wire version {quoted(head['v'])} is not known")
        return Announcement(
            str(head["model"]), str(head["version"]), ModelState(head["state"]), head["config"], str(head["digest"]),
            str(head["reason"]), head["at"] / 1e6, int(head["partitions"]),
            {str(output): tuple(map(str, labels)) for output, labels in head.get("labels", {}).items()},
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise CodecError(f"announcement lacks or mistypes a field: {exc!r}") from None


def encode_heartbeat(beat: Heartbeat) -> bytes:
    """A whole heartbeat: of wire version 1 in the hash of workers, in an answer to an ask, and in a supervisor's pipe."""
    models = [
        [m.model, m.version, m.state.value, m.partitions, m.queued_rows, m.queued_requests, m.running_rows, m.lag,
         micros(m.oldest_age), m.seconds_per_row, m.statistics, *_optional(m)]
        for m in beat.models
    ]  # fmt: skip
    head: dict[str, Any] = {
        "v": WIRE_VERSION, "worker": beat.worker, "incarnation": beat.incarnation, "host": beat.host, "pid": beat.pid,
        "at": micros(beat.at), "models": models, "members": beat.members, "draining": beat.draining,
    }  # fmt: skip
    if beat.asked is not None:
        head["asked"] = beat.asked
    if beat.control:
        head["control"] = [encode_progress(entry) for entry in beat.control]
    if beat.memory != (0, 0):
        head["memory"] = list(beat.memory)
    if beat.mode:
        head["mode"] = beat.mode
    if beat.unloaded:
        head["unloaded"] = list(beat.unloaded)
    if beat.restarts:
        head["restarts"] = beat.restarts
    return pack(head)


def for_version_1(beat: Heartbeat) -> Heartbeat:
    """The heartbeat for readers that know statistics and no `ModelLoad.runs`: they get those that routing and eviction read."""
    models = [m if m.statistics else dataclasses.replace(m, statistics=_statistics(m)) for m in beat.models]
    return dataclasses.replace(beat, models=tuple(models))


def _statistics(load: ModelLoad) -> dict[str, Any]:
    if not load.executed and not load.runs:
        return {}
    batches = [
        {"batch_size": max(1, round(rows / count)), "compute_infer": {"count": count, "ns": ns}}
        for count, rows, ns in load.runs
    ]
    return {
        "inference_count": load.executed, "last_inference": load.last_inference * 1000, "batch_stats": batches,
    }  # fmt: skip


def encode_progress(entry: ControlProgress) -> list[Any]:
    """As plain data."""
    outcome = [entry.outcome.value] if entry.outcome else ()
    return [entry.model, entry.generation, entry.state.value, entry.reason, entry.done, *outcome]


def decode_progress(fields: list[Any]) -> ControlProgress:
    """The inverse of `encode_progress`. Raises `TypeError` or `ValueError` if it is not that."""
    model, generation, state, reason, done, *outcome = fields
    return ControlProgress(
        str(model), int(generation), ModelState(state), str(reason), bool(done), Outcome(*outcome or ("",))
    )


def _pair(value: Any) -> tuple[int, int]:
    limit, used = value
    return int(limit), int(used)


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _optional(load: ModelLoad) -> list[Any]:
    """Fields that were added: only as many as say something, and in this order for ever."""
    lane = [load.digest, load.batch_partitions, load.batch_lag, load.batch_queued_rows]
    if load.unanswered is not None:
        return [*lane, load.unready, load.runs, load.executed, load.last_inference, *encode_waiting(load)]
    if load.runs or load.executed or load.last_inference:
        return [*lane, load.unready, load.runs, load.executed, load.last_inference]
    if load.unready:
        return [*lane, load.unready]
    if load.batch_partitions or load.batch_lag or load.batch_queued_rows:
        return lane
    return [load.digest] if load.digest else []


def _added(fields: list[Any]) -> Any:
    """Those of `_optional` that the sender knew."""
    if len(fields) < 4:
        return [str(digest) for digest in fields[:1]]
    lane = [str(fields[0]), tuple(fields[1]), fields[2], fields[3], *map(str, fields[4:5])]
    if len(fields) < 8:
        return lane
    return [*lane, tuple([tuple(run) for run in fields[5]]), fields[6], fields[7], *decode_waiting(fields[8:])]


def encode_waiting(load: ModelLoad) -> list[Any]:
    """What a worker says of its unanswered requests, as plain data; nothing if it does not say."""
    if load.unanswered is None:
        return []
    age = micros(load.batch_oldest_age)
    return [load.unanswered, load.unread, load.batch_unanswered, load.batch_unread, age, load.batch_running_rows]


def decode_waiting(fields: list[Any]) -> list[Any]:
    """The inverse of `encode_waiting`; [] if the sender did not know all of it. Raises `TypeError` if it is not that."""
    if len(fields) < WAITING:
        return []
    return [*fields[:4], fields[4] / 1e6, fields[5]]


def decode_heartbeat(data: Buffer) -> Heartbeat:
    """The inverse of `encode_heartbeat`.

    Raises:
        CodecError: the bytes are not a heartbeat.
    """
    head, _ = split_frame(data)
    try:
        if head["v"] != WIRE_VERSION:
            raise CodecError(f"heartbeat of wire version {quoted(head['v'])} is not known")
        asked = head.get("asked")
        models = tuple(
            ModelLoad(
                m[0],
                m[1],
                ModelState(m[2]),
                tuple(m[3]),
                m[4],
                m[5],
                m[6],
                m[7],
                m[8] / 1e6,
                m[9],
                m[10],
                *_added(m[11:]),
            )
            for m in head["models"]
        )
        return Heartbeat(
            head["worker"], head["incarnation"], head["host"], head["pid"], head["at"] / 1e6, models,
            dict(head["members"]), bool(head["draining"]), None if asked is None else tuple(map(str, asked)),
            tuple(decode_progress(entry) for entry in head.get("control", ())), _pair(head.get("memory", (0, 0))),
            str(head.get("mode", "")), tuple(map(str, head.get("unloaded", ()))),
            _count(head.get("restarts", 0)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError) as exc:
        raise CodecError(f"heartbeat lacks or mistypes a field: {exc!r}") from None
