"""How far the workers are with a change of a model, and what is said about it, from their heartbeats. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from protocol.control import Wish
from protocol.heartbeat_parts import facts_of
from protocol.messages import ControlProgress, Heartbeat, ModelState, Outcome


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The state of one change.

    Attributes:
        waiting: workers that are not done.
        ready: those that serve the model.
        failed: those that could not load it, with the reason.
        refused: those that have no room for it, with the reason.
        absent: those that do not have it.
    """

    waiting: tuple[str, ...]
    ready: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]


def judge(model: str, generation: int, followers: Iterable[Heartbeat]) -> Verdict:
    """What these workers have made of a record, or of a later one of the same model."""
    waiting, ready, failed, refused, absent = [], [], [], [], []
    for beat in followers:
        entry = _entry(beat, model)
        if entry is None or entry.generation < generation or not entry.done:
            waiting.append(beat.worker)
        elif entry.outcome is Outcome.FAILED:
            failed.append((beat.worker, entry.reason))
        elif entry.outcome is Outcome.REFUSED:
            refused.append((beat.worker, entry.reason))
        elif entry.outcome is Outcome.ABSENT:
            absent.append(beat.worker)
        elif entry.state is ModelState.READY:
            ready.append(beat.worker)
    return Verdict(tuple(waiting), tuple(ready), tuple(failed), tuple(refused), tuple(absent))


def noted(model: str, generation: int, followers: Iterable[Heartbeat]) -> bool:
    """Whether these workers have begun to do what a record says."""
    entries = [_entry(beat, model) for beat in followers]
    return all(entry is not None and entry.generation >= generation for entry in entries)


def reasons(failed: Sequence[tuple[str, str]], ready: Sequence[str]) -> str:
    """The reasons of failures: Triton's text if all workers say the same, else with the workers' names."""
    texts = dict.fromkeys(reason for _, reason in failed)
    if len(texts) == 1 and not ready:
        return next(iter(texts))
    named = "".join(f"worker {worker}: {reason}" for worker, reason in failed)
    return f"{named}{len(ready)} of {len(ready) + len(failed)} workers serve it"


def status(model: str, wish: Wish | None, beats: Iterable[Heartbeat]) -> dict[str, Any]:
    """The document of a model: what is desired, and what each worker makes of it."""
    return {
        "model": model,
        "desired": None if wish is None else _desired(wish),
        "workers": [_worker(model, beat) for beat in sorted(beats, key=lambda beat: beat.worker)],
    }


def add_workers(entries: list[dict[str, Any]], beats: Iterable[Heartbeat]) -> None:
    """Complete a repository index by what workers say: versions that load, models that fail, and those that are not loaded."""
    known = {(entry["name"], entry.get("version", "")): entry for entry in entries}
    names = {entry["name"] for entry in entries}
    unloaded: dict[str, str] = {}
    for beat in beats:
        for load in facts_of(beat.models):
            if load.state is ModelState.LOADING:
                entry = known.get((load.model, load.version))
                if entry is None:
                    entry = known[load.model, load.version] = {"name": load.model, "version": load.version, "state": ""}
                    entries.append(entry)
                if entry["state"] != ModelState.READY:
                    entry["state"] = ModelState.LOADING.value
                    entry.pop("reason", None)
                names.add(load.model)
        for progress in beat.control:
            if progress.outcome in (Outcome.FAILED, Outcome.REFUSED):
                unloaded[progress.model] = progress.reason.strip()
        for name in beat.unloaded:
            unloaded.setdefault(name, "")
    for name in sorted(set(unloaded) - names):
        reason = {"version": "", "state": "UNAVAILABLE", "reason": unloaded[name]} if unloaded[name] else {}
        entries.append({"name": name, **reason})
    entries.sort(key=_place)


def _place(entry: dict[str, Any]) -> tuple[str, int, str]:
    """By name, then by number; a heartbeat may name a version that is none."""
    version = str(entry.get("version", ""))
    return entry["name"], int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0, version


def _entry(beat: Heartbeat, model: str) -> ControlProgress | None:
    return next((entry for entry in beat.control if entry.model == model), None)


def _desired(wish: Wish) -> dict[str, Any]:
    entry = wish.entry
    return {
        "generation": wish.generation,
        "loaded": entry.loaded,
        "config": bool(entry.config),
        "files": dict(entry.files),
        "replicas": entry.replicas,
        "pinned": entry.pinned,
        "lease_until": entry.lease_until,
        "idle_after_s": entry.idle_after,
        "digests": list(entry.digests),
        "at": entry.at,
        "by": entry.by,
    }


def _worker(model: str, beat: Heartbeat) -> dict[str, Any]:
    entry = _entry(beat, model)
    versions = [load for load in facts_of(beat.models) if load.model == model]
    if entry is not None:
        state, reason = entry.state.value, entry.reason.strip()
    else:
        ready = any(load.state is ModelState.READY for load in versions)
        state, reason = (versions[0].state.value if versions else "UNAVAILABLE") if not ready else "READY", ""
    return {
        "worker": beat.worker,
        "host": beat.host,
        "control_mode": beat.mode,
        "state": state,
        "reason": reason,
        "generation": -1 if entry is None else entry.generation,
        "done": entry is not None and entry.done,
        "versions": [{"version": load.version, "state": load.state.value, "digest": load.digest} for load in versions],
        "memory": {"limit_bytes": beat.memory[0], "used_bytes": beat.memory[1]} if beat.memory != (0, 0) else None,
    }
