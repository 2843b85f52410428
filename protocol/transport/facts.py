"""What a cluster's settings are, as far as promises hang on them: plain values, read by `kafka_facts` and `redis_facts`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic.

    Attributes:
        name: of the topic.
        replicas: the smallest number that any of its partitions has.
        in_sync: the smallest number that is in sync now.
        settings: as they hold for this topic, by name; empty where they may not be read.
        oldest_unread: seconds since the oldest record that its workers have not committed; 0 where there is none.
        lost: records that were deleted before they were committed, as far as the group has not gone on since.
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
        bootstrap: how it is reached.
        brokers: ids of those that are there.
        settings: by broker, by name; a broker whose settings may not be read has none.
        topics: those of the fleet, and the one of the groups' offsets.
    """

    bootstrap: str
    brokers: tuple[int, ...]
    settings: Mapping[int, Mapping[str, str]]
    topics: tuple[TopicFacts, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class RedisFacts:
    """A Redis server.

    Attributes:
        address: how it is reached, without a password.
        info: of INFO, by name.
        settings: of CONFIG GET, by name; empty where that is not allowed.
    """

    address: str
    info: Mapping[str, str]
    settings: Mapping[str, str]
