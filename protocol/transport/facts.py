"""The settings of a cluster on which the fleet's promises depend: plain values, read by `kafka.facts` and `redis.facts`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic.

    Attributes:
        name: of the topic.
        replicas: the smallest number of any partition.
        in_sync: the smallest number of in-sync replicas of any partition now.
        settings: this topic's effective settings by name; empty if they may not be read.
        oldest_unread: age in seconds of the oldest record that its workers have not committed; 0 if there is none.
        lost: records deleted before they were committed, until the group commits past them.
    """

    name: str
    replicas: int
    in_sync: int
    settings: Mapping[str, str]
    oldest_unread: float = 0.0
    lost: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class KafkaFacts:
    """A Kafka cluster.

    Attributes:
        bootstrap: its bootstrap servers.
        brokers: ids of the running brokers.
        settings: by broker, by name; empty for a broker whose settings may not be read.
        topics: the fleet's, and the topic of the groups' offsets.
    """

    bootstrap: str
    brokers: tuple[int, ...]
    settings: Mapping[int, Mapping[str, str]]
    topics: tuple[TopicFacts, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RedisFacts:
    """A Redis server.

    Attributes:
        address: its URL, without a password.
        info: the fields of INFO, by name.
        settings: of CONFIG GET, by name; empty if that is not allowed.
    """

    address: str
    info: Mapping[str, str]
    settings: Mapping[str, str]
