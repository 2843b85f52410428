"""What is known of each model version's backlog, speed and workers, and how many workers each group of models is to have. Pure.

Fed with heartbeats, with what logs say of topics whose partitions no live worker owns, and with hints that a request was accepted
there. A hint counts as one request until the log was read after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from gateway.backlog import NOTHING, Backlog, LogFacts, count, unowned
from gateway.scaling.drain import Demand, time_to_drain, workers_needed
from gateway.scaling.pace import Pace, Progress
from gateway.scaling.wanted import ColdStart, Policy, WantedWorkers
from gateway.scaling.worker import Shape, VersionLoad
from protocol.errors import FleetError
from protocol.messages import Heartbeat, Lane, ModelState
from protocol.naming import Names

Key = tuple[str, str]
"""Model and version."""
LANES: Final = (Lane.INTERACTIVE, Lane.BATCH)


@dataclasses.dataclass(frozen=True, slots=True)
class LaneScaling:
    """One lane of a model version.

    Attributes:
        backlog: unanswered requests.
        rate: rows per second of the ready workers together; 0 without one, None if unknown.
        drain: seconds until its rows have run, those of the interactive lane first; None if unknown.
        ready: workers that serve the version and are not shutting down.
        wanted: workers that the version needs, by the default policy; may be more than its topic has partitions.
        partitions: of its interactive topic: as many workers serve it at most; 0 if unknown.
    """

    model: str
    version: str
    lane: Lane
    backlog: Backlog
    rate: float | None
    drain: float | None
    ready: int
    wanted: int
    partitions: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Load:
    """What a live worker says of a model version; `alone`: it runs requests of no other one."""

    beat: Heartbeat
    said: VersionLoad
    alone: bool

    def progress(self) -> Progress:
        beat, said = self.beat, self.said
        name = f"{beat.worker} {beat.incarnation}"
        return Progress(name, said.executed, said.speed, self.alone and said.is_full, said.full, beat.at)


class _Version:
    """The state of one model version."""

    __slots__ = ("backlogs", "group", "loads", "owned", "pace", "ready")

    def __init__(self, policy: Policy) -> None:
        self.pace = Pace()
        self.group = _Group(policy)
        self.loads: list[_Load] = []
        self.owned: tuple[set[int], set[int]] = (set(), set())
        self.ready: set[str] = set()
        self.backlogs: tuple[Backlog, Backlog] = (NOTHING, NOTHING)

    def add(self, load: _Load) -> None:
        beat, said = load.beat, load.said
        self.loads.append(load)
        self.owned[0].update(said.partitions)
        self.owned[1].update(said.batch_partitions)
        if said.load.state is ModelState.READY and not beat.draining:
            self.ready.add(beat.worker)

    @property
    def busy(self) -> bool:
        return self.pace.ran or any(backlog.requests for backlog in self.backlogs)

    def demand(self) -> Demand:
        first, second = self.backlogs
        pace = self.pace
        return Demand(first.rows, second.rows, pace.arrival, pace.growth, pace.speed, self.busy)

    def rate(self) -> float | None:
        """Rows per second of all ready workers; one whose speed is unknown counts as the others."""
        known = [load.said.speed for load in self.loads if load.beat.worker in self.ready]
        if not known:
            return 0.0
        measured = self.pace.speed
        total = sum([min(speed, measured) or measured for speed in known])
        return total or None


class _Group:
    """The workers that a set of models shares."""

    __slots__ = ("_cold", "_policy", "_wanted", "active")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._wanted = WantedWorkers(policy)
        self._cold = ColdStart(policy.cold_start)
        self.active = False

    @property
    def wanted(self) -> int:
        return self._wanted.number

    @property
    def cold_start(self) -> float:
        return self._cold.seconds

    @property
    def measured_cold_start(self) -> float | None:
        return self._cold.seconds if self._cold.measured else None

    def begin(self, now: float, ready: int) -> None:
        self._wanted.begin(now, ready)

    def decide(self, now: float, demands: Iterable[Demand], ready: int, *, kept: bool = False) -> None:
        """Decide anew; `kept` wants a worker without any work."""
        policy, horizon = self._policy, self._wanted.horizon(now, self._cold.seconds)
        known = list(demands)
        need = sum([workers_needed(demand, policy.target, policy.batch_target, horizon) for demand in known])
        busy = kept or any(demand.busy for demand in known)
        wanted = self._wanted.decide(now, need, busy, ready)
        self._cold.observe(now, wanted, ready)
        self.active = wanted > 0


@dataclasses.dataclass(frozen=True, slots=True)
class GroupScaling:
    """A group of models that share workers.

    Attributes:
        wanted: workers.
        ready: workers that serve any of the models.
        active: whether any worker is wanted.
    """

    wanted: int
    ready: int
    active: bool


class FleetScaling:
    """The scaling of all model versions of a fleet.

    Args:
        names: of topics.
        shape: of a model version; None if it is not announced.
        versions: the announced versions of a model; empty if it is not announced.
        policy: of versions by themselves.
        silence: seconds after its last heartbeat from which a worker counts as gone.

    Attributes:
        kept: whether a model wants a worker even without work.
    """

    def __init__(
        self,
        names: Names,
        shape: Callable[[Key], Shape | None],
        versions: Callable[[str], Sequence[str]],
        policy: Policy,
        silence: float,
    ) -> None:
        self._names = names
        self._shape = shape
        self._versions_of = versions
        self._policy = policy
        self._silence = silence
        self._beats: Sequence[Heartbeat] = ()
        self._said: dict[tuple[str, Key], VersionLoad] = {}
        self._versions: dict[Key, _Version] = {}
        self._facts: dict[str, LogFacts] = {}
        self._hints: dict[str, float] = {}
        self._groups: dict[tuple[frozenset[str], Policy], _Group] = {}
        self._now = 0.0
        self.kept: Callable[[str], bool] = lambda model: False

    # --- what happens -------------------------------------------------------------------------------------------------

    def observe(self, beats: Sequence[Heartbeat]) -> None:
        """Take in the newest heartbeats of all workers; they count with the next `update`."""
        self._beats = beats

    def read(self, topic: str, facts: LogFacts, began: float) -> None:
        """Take in what a topic's log says, as read from `began` on."""
        if any(facts.unread.values()):
            self._facts[topic] = facts
        else:
            self._facts.pop(topic, None)
        if self._hints.get(topic, began) < began:
            del self._hints[topic]

    def woken(self, topic: str, now: float) -> None:
        """Note that a request was accepted on a topic of a known model that has no live worker."""
        if self._parsed(topic) is not None:
            self._hints[topic] = now

    def update(self, now: float) -> None:
        """Decide anew. Call it at least every few seconds: rates and windows are made of it.

        Args:
            now: on the fleet's clock, as heartbeats are.
        """
        now = self._now = max(now, self._now)
        self._group_loads(now)
        for topic in (*self._facts, *self._hints):
            parsed = self._parsed(topic)
            if parsed is not None:
                self._version(parsed[1])
        for key, version in list(self._versions.items()):
            if self._shape(key) is None:
                del self._versions[key]
            else:
                self._update_version(key, version, now)
        for (models, _), group in self._groups.items():
            self._decide_group(group, models, now)

    # --- what is known ------------------------------------------------------------------------------------------------

    def lanes(self, keys: Iterable[Key]) -> list[LaneScaling]:
        """Both lanes of each of these versions, as of the last `update`."""
        return [lane for key in keys for lane in self._lanes(key)]

    def owned(self, key: Key, lane: Lane) -> set[int]:
        """The partitions of a lane's topic that live workers own, as of the last `update`."""
        version = self._versions.get(key)
        return set() if version is None else version.owned[LANES.index(lane)]

    def unread(self, key: Key, lane: Lane) -> int:
        """Records that wait in a lane's partitions without a live worker, as far as is known."""
        facts = self._facts.get(self._names.request_topic(*key, lane))
        return 0 if facts is None else unowned(facts, self.owned(key, lane), self._now).requests

    def ready(self, keys: Iterable[Key]) -> int:
        """Live workers that serve any of these versions and are not shutting down."""
        return len(set[str]().union(*(self._versions[key].ready for key in keys if key in self._versions)))

    def hinted(self, topic: str) -> bool:
        """Whether a hint about this topic came since its log was read."""
        return topic in self._hints

    def speed(self, key: Key) -> float:
        """Rows per second of one worker; 0 if unknown."""
        version = self._versions.get(key)
        return 0.0 if version is None else version.pace.speed

    def predict(self, key: Key, speed: float) -> None:
        """Take the rows per second of one worker from elsewhere, if none is known."""
        self._version(key).pace.predict(speed)

    def cold_start(self, key: Key) -> float | None:
        """Seconds until a worker of this version is ready, as the last ones took; None if none was seen to start."""
        version = self._versions.get(key)
        return None if version is None else version.group.measured_cold_start

    def seconds_to_worker(self, topic: str) -> float | None:
        """Seconds until a topic without a ready worker has one; None if it has one, or if that is not known."""
        parsed = self._parsed(topic)
        version = None if parsed is None else self._versions.get(parsed[1])
        return None if version is None or version.ready else version.group.measured_cold_start

    def group(self, models: Iterable[str], policy: Policy) -> GroupScaling:
        """The workers that these models share, as of the last `update`; a new group is decided now.

        A model that is kept wants one worker at all times. So does one that no worker ever announced: it cannot be called before.
        """
        chosen = frozenset(models)
        group = self._groups.get((chosen, policy))
        if group is None:
            group = self._groups[chosen, policy] = _Group(policy)
            group.begin(self._now, len(self._ready(chosen)))
            self._decide_group(group, chosen, self._now)
        return GroupScaling(group.wanted, len(self._ready(chosen)), group.active)

    def forget_group(self, models: Iterable[str], policy: Policy) -> None:
        """Nobody asks for this group any more."""
        self._groups.pop((frozenset(models), policy), None)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _version(self, key: Key) -> _Version:
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = _Version(self._policy)
        return version

    def _parsed(self, topic: str) -> tuple[Lane, Key] | None:
        """The lane and the version of a topic of an announced version."""
        try:
            lane, model, number = self._names.parse_request_topic(topic)
        except FleetError:
            return None
        key = model, number
        return (lane, key) if self._shape(key) is not None else None

    def _group_loads(self, now: float) -> None:
        for version in self._versions.values():
            version.loads, version.owned, version.ready = [], (set(), set()), set()
        former, self._said = self._said, {}
        shapes: dict[Key, Shape | None] = {}
        for beat in self._beats:
            if beat.at < now - self._silence:
                continue
            loads = list(beat.models)
            running = sum([count(load.running_rows) > 0 for load in loads])
            for load in loads:
                key = load.model, load.version
                if key not in shapes:
                    shapes[key] = self._shape(key)
                if (shape := shapes[key]) is not None:
                    said = former.get((beat.worker, key))
                    if said is None or said.load is not load or said.shape != shape:
                        said = VersionLoad(load, shape)
                    self._said[beat.worker, key] = said
                    self._version(key).add(_Load(beat, said, running == said.runs))

    def _update_version(self, key: Key, version: _Version, now: float) -> None:
        version.backlogs = (
            self._backlog(key, version, Lane.INTERACTIVE, now),
            self._backlog(key, version, Lane.BATCH, now),
        )
        first, second = version.backlogs
        progress = [load.progress() for load in version.loads if load.beat.worker in version.ready]
        version.pace.observe(now, progress, first.rows, second.rows)
        version.group.decide(now, [version.demand()], len(version.ready), kept=self.kept(key[0]))

    def _backlog(self, key: Key, version: _Version, lane: Lane, now: float) -> Backlog:
        topic = self._names.request_topic(*key, lane)
        facts = self._facts.get(topic)
        each = 1.0 if facts is None else facts.rows_per_request
        found = NOTHING
        for load in version.loads:
            part = load.said.held(lane, each, draining=load.beat.draining)
            if part.requests:
                found += part
        if facts is not None:
            found += unowned(facts, version.owned[LANES.index(lane)], now)
        hint = self._hints.get(topic)
        if hint is not None and not found.requests:
            found += Backlog(1, max(1, round(each)), max(0.0, now - hint))
        return found

    def _decide_group(self, group: _Group, models: frozenset[str], now: float) -> None:
        keys = [(model, number) for model in models for number in self._versions_of(model)]
        demands = [self._versions[key].demand() for key in keys if key in self._versions]
        kept = any(not self._versions_of(model) or self.kept(model) for model in models)
        group.decide(now, demands, len(self._ready(models)), kept=kept)

    def _ready(self, models: frozenset[str]) -> set[str]:
        known = [
            self._versions[model, number].ready
            for model in models
            for number in self._versions_of(model)
            if (model, number) in self._versions
        ]
        return set().union(*known)

    def _lanes(self, key: Key) -> tuple[LaneScaling, LaneScaling]:
        version = self._versions.get(key) or _Version(self._policy)
        first, second = version.backlogs
        rate, ready, wanted = version.rate(), len(version.ready), version.group.wanted
        shape = self._shape(key)
        partitions = 0 if shape is None else shape.partitions

        def drained(rows: int) -> float | None:
            if rate is None:
                return None if rows else 0.0
            return time_to_drain(rows, rate, version.pace.speed, version.group.cold_start)

        batch = drained(first.rows + second.rows) if second.rows else 0.0
        return (
            LaneScaling(*key, Lane.INTERACTIVE, first, rate, drained(first.rows), ready, wanted, partitions),
            LaneScaling(*key, Lane.BATCH, second, rate, batch, ready, wanted, partitions),
        )
