"""What is known about the workers of a topic: the port that the router reads, and its implementation from heartbeats.

Invariant: the newest heartbeat decides who owns a partition that two workers claim.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Final, Protocol

from gateway.catalogue.catalogue import Catalogue
from gateway.routing.loads import WorkerLoad, worker_load
from protocol.errors import FleetError
from protocol.heartbeat_parts import facts_of
from protocol.messages import Heartbeat, Lane, ModelLoad, ModelState
from protocol.model_config import ModelConfig
from protocol.naming import Names

ASK_AFTER: Final = 20
"""Revisions between two questions for the same topic."""


class Capacity(Protocol):
    """What is known about the workers."""

    @property
    def revision(self) -> int:
        """Grows whenever something new is known."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 if unknown."""

    def workers(self, topic: str) -> Sequence[WorkerLoad]:
        """The workers of a topic, with the partitions that each owns; silent and draining ones included."""


class HeartbeatCapacity:
    """`Capacity` from the workers' heartbeats.

    Args:
        names: parses topics.
        catalogue: has the models' configurations, and the number of partitions that workers announced.
    """

    def __init__(self, names: Names, catalogue: Catalogue) -> None:
        self._names = names
        self._catalogue = catalogue
        self._beats: dict[str, Heartbeat] = {}
        self._workers: list[str] = []
        self._facts: list[Sequence[ModelLoad]] = []
        self._places: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self._revision = 0
        self._learned: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._unsure: dict[str, None] = {}

    @property
    def revision(self) -> int:
        """See `Capacity`."""
        return self._revision

    def observe(self, heartbeats: Sequence[Heartbeat]) -> None:
        """Replace what is known by these heartbeats. Numbers of a model are looked at when somebody asks for its topic."""
        self._revision += 1
        self._beats = {beat.worker: beat for beat in heartbeats}
        workers, facts = list(self._beats), [facts_of(beat.models) for beat in self._beats.values()]
        if workers != self._workers or not all(map(operator.is_, facts, self._facts)):
            self._workers, self._facts, self._places = workers, facts, {}
            for worker, models in zip(workers, facts, strict=True):
                for at, load in enumerate(models):
                    self._places.setdefault((load.model, load.version), []).append((worker, at))

    def partitions(self, topic: str) -> int:
        """See `Capacity`."""
        key = self._model(topic)
        try:
            announced = 0 if key is None else self._catalogue.get(*key).partitions
        except FleetError:
            return 0
        return max(announced, self._learned.get(topic, 0))

    def unsure(self) -> list[str]:
        """Topics whose workers own partitions that are not known: they may have been added. Each is named now and then."""
        due = [topic for topic in self._unsure if self._revision - self._asked.get(topic, -ASK_AFTER) >= ASK_AFTER]
        self._asked.update(dict.fromkeys(due, self._revision))
        self._unsure = {}
        return due

    def learn(self, topic: str, partitions: int) -> None:
        """Note how many partitions a topic has."""
        self._learned[topic] = partitions

    def workers(self, topic: str) -> list[WorkerLoad]:
        """See `Capacity`. Groups in the batch lane go to its partitions in turn: nothing is known about them."""
        key = self._model(topic)
        places = None if key is None else self._places.get(key)
        if key is None or places is None:
            return []
        try:
            config = self._catalogue.get(*key).config
        except FleetError:
            return []
        found, taken = [], set[int]()
        count = self.partitions(topic)
        loads = [(beat := self._beats[worker], beat.models[at]) for worker, at in places]
        for beat, load in sorted(loads, key=lambda pair: pair[0].at, reverse=True):
            if load.state is ModelState.READY:
                known = worker_load(beat, load, max(1, config.max_batch_size), instances_of(config))
                own = tuple(partition for partition in known.partitions if partition not in taken)
                taken.update(own)
                if own and max(own) >= count:
                    self._unsure[topic] = None
                found.append(known if own == known.partitions else dataclasses.replace(known, partitions=own))
        return found

    def _model(self, topic: str) -> tuple[str, str] | None:
        """(model, version) of an interactive topic."""
        try:
            lane, model, version = self._names.parse_request_topic(topic)
        except FleetError:
            return None
        return (model, version) if lane is Lane.INTERACTIVE else None


def instances_of(config: ModelConfig) -> int:
    """Instances of a model that each worker runs, at least 1."""
    return max(1, min(sum(group.count for group in config.instance_groups), 1024))
