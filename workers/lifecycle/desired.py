"""Which models a worker serves under explicit control: by its settings, the fleet's desired state and what the others do. Pure.

Every worker decides for itself, from the same records and heartbeats. A model without a record is served if the settings name it.
With `replicas`, the workers are ranked: those that serve the model first, then by a hash of worker and model. The first ones serve
it, and a worker that refuses (it does not have the model, or no room) is replaced by the next. So a worker that comes back takes
nothing from one that serves, and nobody unloads before enough others serve.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping

from protocol.control import DesiredModel, Wish
from protocol.messages import Outcome
from protocol.suggestions import did_you_mean

UNLOADED = "unloaded"
LEASE_ENDED = "unloaded: its lease has ended"
IDLE = "evicted: no request for {seconds:g} s; the next one loads it again"
FOR_ROOM = "evicted: another model needed its memory; the next request loads it again"
ELSEWHERE = "other workers serve it"
NOT_HERE = "it is not in the model repository of this worker"


def absent(model: str, known: Iterable[str]) -> str:
    """Why a model that somebody names is not loaded, in Triton's words: this worker does not have it."""
    text = f"failed to load '{model}', failed to poll from model repository: there is no model of this name"
    return text + did_you_mean(model, (name for name in known if name != "*"))


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """What another live worker says of itself.

    Attributes:
        serves: models that are ready there.
        refused: by model, the generation that it refused.
    """

    worker: str
    serves: frozenset[str] = frozenset()
    refused: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision needs.

    Attributes:
        worker: this worker's id.
        here: by model of its repositories, the bytes that it needs.
        named: the models that the settings name; "*" for all.
        wishes: the desired state, by model.
        file_bytes: by model whose wish brings files, their bytes.
        peers: the other live workers that follow the desired state.
        held: by model that is loaded or loading here, the bytes that it counts as.
        serves: models that are ready here.
        used_at: by model, when a request for it last ran anywhere, or when it was loaded.
        limit: bytes that all models together may need; 0 for no limit.
        now: seconds on the fleet's clock.
    """

    worker: str
    here: Mapping[str, int]
    named: Collection[str] = ()
    wishes: Mapping[str, Wish] = dataclasses.field(default_factory=dict)
    file_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    peers: Collection[Peer] = ()
    held: Mapping[str, int] = dataclasses.field(default_factory=dict)
    serves: Collection[str] = ()
    used_at: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limit: int = 0
    now: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What this worker should do with one model.

    Attributes:
        serve: whether to serve it.
        generation: of the record that decides; -1 without one.
        entry: that record's content; None without one.
        reason: why it is not served; "" if it is.
        outcome: whether another worker should take its place.
        everywhere: it is unloaded on all workers, so that none has to wait for another.
    """

    serve: bool
    generation: int = -1
    entry: DesiredModel | None = None
    reason: str = ""
    outcome: Outcome = Outcome.NONE
    everywhere: bool = False


def decide(situation: Situation) -> dict[str, Decision]:
    """One decision for each model that the repositories or the desired state name."""
    decisions = {name: _wanted(situation, name) for name in sorted({*situation.here, *situation.wishes})}
    if situation.limit:
        _fit(situation, decisions)
    return decisions


def rank(worker: str, model: str) -> bytes:
    """The place of a worker among those for a model: rendezvous hashing, so that a change of workers moves few models."""
    return hashlib.blake2b(f"{model}\0{worker}".encode(), digest_size=8).digest()


def _wanted(situation: Situation, name: str) -> Decision:
    """The decision but for memory."""
    wish = situation.wishes.get(name)
    if wish is None:
        named = "*" in situation.named or name in situation.named
        return Decision(named, reason="" if named else UNLOADED)
    entry, about = wish.entry, (wish.generation, wish.entry)
    if not entry.loaded:
        return Decision(False, *about, UNLOADED, everywhere=True)
    if 0 < entry.lease_until <= situation.now and not entry.pinned:
        return Decision(False, *about, LEASE_ENDED, everywhere=True)
    if not entry.files and name not in situation.here:
        return Decision(False, *about, NOT_HERE, Outcome.ABSENT)
    if entry.idle_after > 0 and not entry.pinned and _used(situation, name, entry) + entry.idle_after <= situation.now:
        return Decision(False, *about, IDLE.format(seconds=entry.idle_after), everywhere=True)
    if entry.replicas > 0 and not _is_chosen(situation, name, wish):
        return Decision(False, *about, ELSEWHERE)
    return Decision(True, *about)


def _used(situation: Situation, name: str, entry: DesiredModel) -> float:
    return max(situation.used_at.get(name, 0.0), entry.at)


def _is_chosen(situation: Situation, name: str, wish: Wish) -> bool:
    serving = {peer.worker: name in peer.serves for peer in situation.peers}
    refusing = {peer.worker for peer in situation.peers if peer.refused.get(name, -1) >= wish.generation}
    serving[situation.worker] = name in situation.serves
    able = [worker for worker in serving if worker not in refusing]
    able.sort(key=lambda worker: (not serving[worker], rank(worker, name), worker))
    return situation.worker in able[: wish.entry.replicas]


def _fit(situation: Situation, decisions: dict[str, Decision]) -> None:
    """Refuse what does not fit. What is loaded stays, but for models that may be evicted: the least recently used go first."""
    bytes_of = {name: _bytes(situation, name) for name in decisions}
    kept = [name for name, decision in decisions.items() if decision.serve and name in situation.held]
    new = [name for name, decision in decisions.items() if decision.serve and name not in situation.held]
    room = situation.limit - sum(bytes_of[name] for name in kept)
    evictable = sorted(
        (name for name in kept if _may_be_evicted(decisions[name])),
        key=lambda name: (situation.used_at.get(name, 0.0), name),
    )
    for name in sorted(new, key=lambda name: (decisions[name].generation, name)):
        need = bytes_of[name]
        entry = decisions[name].entry
        used = situation.now if entry is None else _used(situation, name, entry)
        older = [
            victim for victim in evictable if situation.used_at.get(victim, 0.0) < used
        ]  # else two evict each other for ever
        victims = _victims(need - room, older, bytes_of)
        if victims is None:
            decisions[name] = dataclasses.replace(
                decisions[name], serve=False, outcome=Outcome.REFUSED,
                reason=f"it needs {need} bytes of memory, and {max(room, 0)} of {situation.limit} are free (--model-memory-limit)",
            )  # fmt: skip
            continue
        for victim in victims:
            evictable.remove(victim)
            room += bytes_of[victim]
            decisions[victim] = dataclasses.replace(
                decisions[victim], serve=False, outcome=Outcome.REFUSED, reason=FOR_ROOM
            )
        room -= need


def _victims(missing: int, evictable: list[str], bytes_of: Mapping[str, int]) -> list[str] | None:
    """The models to evict for so many bytes; None if that does not suffice."""
    victims = []
    for name in evictable:
        if missing <= 0:
            break
        victims.append(name)
        missing -= bytes_of[name]
    return victims if missing <= 0 else None


def _may_be_evicted(decision: Decision) -> bool:
    entry = decision.entry
    return entry is not None and entry.idle_after > 0 and not entry.pinned


def _bytes(situation: Situation, name: str) -> int:
    """The bytes that a model needs: of its files, or what it was measured to use."""
    wish = situation.wishes.get(name)
    if wish is not None and wish.entry.files:
        return situation.file_bytes.get(name, 0)
    return situation.here.get(name, situation.held.get(name, 0))
