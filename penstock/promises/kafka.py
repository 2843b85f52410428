"""Settings of Kafka that break promises. Pure: one function per setting, facts in, misconfigurations out."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from penstock.promises.misconfiguration import Misconfiguration, number
from protocol.transport.facts import KafkaFacts, TopicFacts

V = TypeVar("V", bound=Hashable)

REPLICAS: Final = 3
IN_SYNC: Final = 2
LARGEST: Final = 17 * 1024 * 1024
"""Bytes of a batch with the largest record and its headers; a test compares it with
`protocol.transport.kafka.connection.MAX_BATCH`.
"""
FOREVER: Final = 2**62
NEW: Final = "new topics"
_DEFAULTS: Final = {
    "retention.bytes": "log.retention.bytes", "cleanup.policy": "log.cleanup.policy",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
}  # fmt: skip
_SHOWN: Final = 3
_MOST_MINUTES: Final = 2**31 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What the fleet's settings need of the cluster.

    Attributes:
        longest_deadline: seconds for which a record may be needed, for its batch or to compute its answer again.
        session_timeout: the workers' session timeout in seconds.
        prefix: the prefix of the fleet's topics.
    """

    longest_deadline: float = 3600.0
    session_timeout: float = 10.0
    prefix: str = "penstock"


def check_kafka(facts: KafkaFacts, needs: Needs) -> list[Misconfiguration]:
    """All misconfigurations, in the order of the promises."""
    found = [each for rule in _RULES for each in rule(facts, needs)]
    return sorted(found, key=lambda each: int(each.promise[1:]))


def too_few_brokers(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: one disk must not hold the only copy."""
    if len(facts.brokers) < REPLICAS:
        yield Misconfiguration(
            "I1", "number of brokers", str(len(facts.brokers)), f"{REPLICAS} or more",
            "accepted requests have too few replicas to survive the loss of a disk, and nothing is accepted while a broker is down",
            "add brokers, then give the topics three replicas (kafka-reassign-partitions.sh)",
        )  # fmt: skip


def too_few_replicas(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: topics created with fewer brokers keep their few replicas."""
    if len(facts.brokers) < REPLICAS:
        return
    for value, where in _grouped(facts.topics, lambda topic: topic.replicas):
        if value < REPLICAS:
            yield Misconfiguration(
                "I1", "replication factor", str(value), str(REPLICAS),
                "accepted requests are lost with that many disks, and cannot be served while that many brokers are down",
                f"kafka-reassign-partitions.sh --bootstrap-server {facts.bootstrap} --execute --reassignment-json-file FILE",
                where,
            )  # fmt: skip


def too_few_in_sync(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: acks=all waits for the replicas in sync, even if there is only one."""
    # With fewer than three replicas, the number of brokers must be fixed first.
    topics = [
        topic for topic in facts.topics if topic.settings and topic.replicas >= REPLICAS and not _is_offsets(topic)
    ]
    for value, where in _grouped(topics, lambda topic: number(topic.settings.get("min.insync.replicas"), 1)):
        if value < IN_SYNC:
            yield Misconfiguration(
                "I1", "min.insync.replicas", str(value), str(IN_SYNC),
                "a request counts as accepted with a single replica, and is lost with that broker's disk",
                _alter(facts, f"min.insync.replicas={IN_SYNC}", where), where,
            )  # fmt: skip


def no_room_for_a_broker_to_go(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I11: if all replicas must be in sync, each restart of a broker stops accepting."""
    for topic in facts.topics:
        wanted = number(topic.settings.get("min.insync.replicas"), 1)
        if 1 < topic.replicas <= wanted:
            yield Misconfiguration(
                "I11", "min.insync.replicas", str(wanted), str(topic.replicas - 1),
                f"with {topic.replicas} replicas every restart of a broker makes gateways answer 503",
                _alter(facts, f"min.insync.replicas={topic.replicas - 1}", topic.name), topic.name,
            )  # fmt: skip


def out_of_sync(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: with too few replicas in sync, all writes are refused now."""
    for topic in facts.topics:
        wanted = number(topic.settings.get("min.insync.replicas"), 1)
        if topic.in_sync < wanted:
            yield Misconfiguration(
                "I1", "replicas in sync", str(topic.in_sync), f"{wanted} or more",
                "nothing is accepted (503) until brokers are back", "start the missing brokers", topic.name, severe=True,
            )  # fmt: skip


def unclean_election(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1, I3: a leader that lacks records loses acknowledged ones, and its offsets refer to other records."""
    name = "unclean.leader.election.enable"
    topics = [*facts.topics, *_inherited(facts)]
    for value, where in _grouped(topics, lambda topic: topic.settings.get(name, "false")):
        if value == "true":
            yield Misconfiguration(
                "I1", name, value, "false",
                "a replica that lacks acknowledged records may become the leader, which loses them",
                _alter(facts, f"{name}=false", where), where,
            )  # fmt: skip


def short_retention(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I12: records must outlive the longest deadline."""
    for value, where in _grouped(_requests(facts, needs), lambda topic: _retention(topic.settings)):
        if value < needs.longest_deadline:
            wanted = round(2 * needs.longest_deadline * 1000)
            yield Misconfiguration(
                "I12", "retention.ms", str(round(value * 1000)), f"{wanted} or more",
                f"a request may wait for {needs.longest_deadline:g} s, and would be deleted unread before that",
                _alter(facts, f"retention.ms={wanted}", where), where,
            )  # fmt: skip


def nearly_deleted(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I12: a warning before retention deletes unread records."""
    for topic in facts.topics:
        half = _retention(topic.settings) / 2
        if topic.settings and topic.oldest_unread > half:
            wanted = round(4 * half * 1000)
            yield Misconfiguration(
                "I12", "age of the oldest unread record", f"{topic.oldest_unread:.0f} s", f"{half:.0f} s or less",
                "half of its retention has passed; at the end the record is deleted unread",
                f"start workers with the model, or meanwhile {_alter(facts, f'retention.ms={wanted}', topic.name)}",
                topic.name, severe=True,
            )  # fmt: skip


def deleted_unread(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I12: a log that begins above the committed offset."""
    for topic in facts.topics:
        if topic.lost:
            yield Misconfiguration(
                "I12", "records deleted unread", str(topic.lost), "0", "retention was shorter than their wait; they are lost",
                "a longer retention.ms; workers note the loss in the dead topic when they continue", topic.name,
            )  # fmt: skip


def bounded_size(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I12: a bound in bytes deletes unread records of any age."""
    for value, where in _grouped(_requests(facts, needs), lambda topic: topic.settings.get("retention.bytes", "-1")):
        if number(value, -1) >= 0:
            yield Misconfiguration(
                "I12", "retention.bytes", value, "-1",
                "under load records are deleted unread long before their deadlines",
                _alter(facts, "retention.bytes=-1", where), where,
            )  # fmt: skip


def compacted(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: compaction keeps one record of each key."""
    for value, where in _grouped(_requests(facts, needs), lambda topic: topic.settings.get("cleanup.policy", "delete")):
        if "compact" in value:
            yield Misconfiguration(
                "I1", "cleanup.policy", value, "delete", "all but the last of the requests with one key are deleted",
                _alter(facts, "cleanup.policy=delete", where), where,
            )  # fmt: skip


def forgotten_offsets(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I12: a group that lost its offsets starts at the beginning of the log, and runs it again."""
    longest = max((_retention(topic.settings) for topic in _requests(facts, needs)), default=0.0)
    name = "offsets.retention.minutes"
    for value, where in _of_brokers(facts, name):
        if number(value, 10080) * 60 < longest and number(value, 0) < _MOST_MINUTES:
            wanted = f"{longest / 60:.0f}" if longest < FOREVER else str(_MOST_MINUTES)
            yield Misconfiguration(
                "I12", name, value, wanted,
                "a model without workers for that long loses its offsets and runs its whole log again",
                f"in server.properties of every broker: {name}={wanted}, and restart them one by one", where,
            )  # fmt: skip


def small_messages(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: a request of any allowed size is accepted."""
    for value, where in _grouped(
        _requests(facts, needs), lambda topic: number(topic.settings.get("max.message.bytes"), LARGEST)
    ):
        if value < LARGEST:
            yield Misconfiguration(
                "I1", "max.message.bytes", str(value), f"{LARGEST} or more",
                "larger requests are refused (413), although 16 MiB are allowed",
                _alter(facts, f"max.message.bytes={LARGEST}", where), where,
            )  # fmt: skip


def small_default(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: topics that batch producers create take the broker's limit."""
    for value, where in _of_brokers(facts, "message.max.bytes"):
        if number(value, LARGEST) < LARGEST:
            yield Misconfiguration(
                "I1", "message.max.bytes", value, f"{LARGEST} or more",
                "a topic that a batch producer creates refuses larger requests; topics that workers create are not affected",
                f"kafka-configs.sh --bootstrap-server {facts.bootstrap} --alter --entity-type brokers --entity-default "
                f"--add-config message.max.bytes={LARGEST}", where,
            )  # fmt: skip


def made_by_accident(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I1: a producer's typing error creates a topic that no worker reads."""
    name = "auto.create.topics.enable"
    for value, where in _of_brokers(facts, name):
        if value == "true":
            yield Misconfiguration(
                "I1", name, value, "false",
                "a batch producer that mistypes a topic creates a new one, and its requests are never read",
                f"in server.properties of every broker: {name}=false, and restart them one by one", where,
            )  # fmt: skip


def refused_sessions(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """I11: a worker with a session timeout outside the broker's bounds cannot join."""
    asked = round(needs.session_timeout * 1000)
    for name, sign in (("group.min.session.timeout.ms", 1), ("group.max.session.timeout.ms", -1)):
        for value, where in _of_brokers(facts, name):
            if sign * asked < sign * number(value, asked):
                yield Misconfiguration(
                    "I11", name, value, str(asked), f"workers ask for a session of {asked} ms and are refused",
                    f"--session-timeout within the bounds, or in server.properties: {name}={asked}", where, severe=True,
                )  # fmt: skip


def unreadable(facts: KafkaFacts, needs: Needs) -> Iterator[Misconfiguration]:
    """Settings that cannot be read cannot be judged."""
    unread = [str(broker) for broker in facts.brokers if not facts.settings.get(broker)]
    unread += [topic.name for topic in facts.topics if not topic.settings]
    if unread:
        yield Misconfiguration(
            "I1", "permission DescribeConfigs", "denied", "allowed", "its settings were not judged",
            "kafka-acls.sh --add --allow-principal User:… --operation DescribeConfigs --cluster --topic '*'", _named(unread),
        )  # fmt: skip


_RULES: Final[tuple[Callable[[KafkaFacts, Needs], Iterator[Misconfiguration]], ...]] = (
    too_few_brokers, too_few_replicas, too_few_in_sync, no_room_for_a_broker_to_go, out_of_sync, unclean_election,
    short_retention, nearly_deleted, deleted_unread, bounded_size, compacted, forgotten_offsets, small_messages, small_default,
    made_by_accident, refused_sessions, unreadable,
)  # fmt: skip


def _requests(facts: KafkaFacts, needs: Needs) -> list[TopicFacts]:
    """Topics of requests, of both lanes, with known settings, and the topic that would be created now."""
    heads = (f"{needs.prefix}.infer.", f"{needs.prefix}.batch.")
    return [*(topic for topic in facts.topics if topic.settings and topic.name.startswith(heads)), *_inherited(facts)]


def _is_offsets(topic: TopicFacts) -> bool:
    return topic.name.startswith("__")


def _inherited(facts: KafkaFacts) -> list[TopicFacts]:
    """The settings that a new topic inherits from each broker; the others are stated when a topic is created."""
    return [
        TopicFacts(
            NEW,
            0,
            0,
            {name: settings[_DEFAULTS[name]] for name in _DEFAULTS if _DEFAULTS[name] in settings} | _age(settings),
        )
        for settings in facts.settings.values()
        if settings
    ]


def _age(settings: Mapping[str, str]) -> dict[str, str]:
    """A broker's `retention.ms`, which it may set in three units; the finest counts."""
    for name, unit in (("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)):
        if name in settings:
            return {"retention.ms": str(number(settings[name], -1) * unit)}
    return {}


def _retention(settings: Mapping[str, str]) -> float:
    """The retention of a topic in seconds; forever if it is not set."""
    milliseconds = number(settings.get("retention.ms"), -1)
    return milliseconds / 1000 if milliseconds >= 0 else float(FOREVER)


def _grouped(topics: Iterable[TopicFacts], value: Callable[[TopicFacts], V]) -> list[tuple[V, str]]:
    """Each value with the topics that have it; new topics are separate, because they are fixed elsewhere."""
    found: dict[tuple[V, bool], list[str]] = collections.defaultdict(list)
    for topic in topics:
        found[value(topic), topic.name == NEW].append(topic.name)
    return [(each, _named(names)) for (each, _), names in found.items()]


def _of_brokers(facts: KafkaFacts, name: str) -> list[tuple[str, str]]:
    """Each value of a broker's setting, with the brokers that have it."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for broker, settings in facts.settings.items():
        if name in settings:
            found[settings[name]].append(f"broker {broker}")
    return [(each, _named(names)) for each, names in found.items()]


def _named(found: Iterable[str]) -> str:
    names = list(dict.fromkeys(found))
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _alter(facts: KafkaFacts, assignment: str, where: str) -> str:
    tool = f"kafka-configs.sh --bootstrap-server {facts.bootstrap} --alter"
    if where == NEW:
        name, _, value = assignment.partition("=")
        names = _DEFAULTS | {"retention.ms": "log.retention.ms"}
        return f"{tool} --entity-type brokers --entity-default --add-config {names.get(name, name)}={value}"
    topic = "TOPIC" if "," in where else where
    return f"{tool} --entity-type topics --entity-name {topic} --add-config {assignment}"
