"""Rules for the settings behind the promises: each reports the bad value and accepts the good one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from penstock.promises import kafka, redis
from penstock.promises.kafka import NEW, Needs
from penstock.promises.misconfiguration import Misconfiguration
from protocol.transport.facts import KafkaFacts, RedisFacts, TopicFacts
from protocol.transport.kafka import connection

INFER = "penstock.infer.m.1"
TOPIC = {
    "min.insync.replicas": "2", "unclean.leader.election.enable": "false", "retention.ms": "86400000", "retention.bytes": "-1",
    "cleanup.policy": "delete", "max.message.bytes": str(kafka.LARGEST),
}  # fmt: skip
BROKER = {
    "log.retention.hours": "24", "log.retention.bytes": "-1", "log.cleanup.policy": "delete", "offsets.retention.minutes": "10080",
    "message.max.bytes": str(kafka.LARGEST), "auto.create.topics.enable": "false", "unclean.leader.election.enable": "false",
    "group.min.session.timeout.ms": "6000", "group.max.session.timeout.ms": "1800000", "min.insync.replicas": "2",
}  # fmt: skip
GOOD_KAFKA = KafkaFacts(
    "broker:9092", (1, 2, 3), dict.fromkeys((1, 2, 3), BROKER),
    (TopicFacts("__consumer_offsets", 3, 3, TOPIC | {"cleanup.policy": "compact"}), TopicFacts(INFER, 3, 3, TOPIC)),
)  # fmt: skip
GOOD_REDIS = RedisFacts(
    "redis://r:6379/0",
    {"redis_version": "7.4.1", "role": "master", "cluster_enabled": "0", "maxmemory": "1000", "maxmemory_policy": "noeviction",
     "aof_enabled": "1", "connected_slaves": "1"},
    {"appendfsync": "everysec", "min-replicas-to-write": "1", "save": ""},
)  # fmt: skip


def broken(broker: dict[str, str] | None = None, needs: Needs | None = None, **topic: Any) -> list[Misconfiguration]:
    """The findings on a good cluster after these changes; `topic` has `replicas`, `in_sync` and settings with `_` for `.`."""
    named = {name.replace("_", "."): value for name, value in topic.items() if name not in ("replicas", "in_sync")}
    infer = TopicFacts(INFER, topic.get("replicas", 3), topic.get("in_sync", 3), TOPIC | named)
    facts = dataclasses.replace(
        GOOD_KAFKA, topics=(GOOD_KAFKA.topics[0], infer), settings=dict.fromkeys((1, 2, 3), BROKER | (broker or {}))
    )
    return kafka.check_kafka(facts, needs or Needs())


def test_topics_of_the_batch_lane_keep_the_same_promises() -> None:
    batch = TopicFacts("penstock.batch.m.1", 3, 3, TOPIC | {"retention.ms": "1000"})
    facts = dataclasses.replace(GOOD_KAFKA, topics=(*GOOD_KAFKA.topics, batch))
    assert {found.promise for found in kafka.check_kafka(facts, Needs())} == {"I12"}


def test_a_good_cluster_breaks_nothing() -> None:
    assert kafka.check_kafka(GOOD_KAFKA, Needs()) == []
    assert redis.check_redis(GOOD_REDIS) == []


@pytest.mark.parametrize(
    ("topic", "promise", "setting", "value", "wanted"),
    [
        ({"replicas": 1, "in_sync": 1, "min_insync_replicas": "1"}, "I1", "replication factor", "1", "3"),
        ({"min_insync_replicas": "1"}, "I1", "min.insync.replicas", "1", "2"),
        ({"min_insync_replicas": "3"}, "I11", "min.insync.replicas", "3", "2"),
        ({"in_sync": 1}, "I1", "replicas in sync", "1", "2 or more"),
        ({"unclean_leader_election_enable": "true"}, "I1", "unclean.leader.election.enable", "true", "false"),
        ({"retention_ms": "600000"}, "I12", "retention.ms", "600000", "7200000 or more"),
        ({"retention_bytes": "1000000"}, "I12", "retention.bytes", "1000000", "-1"),
        ({"cleanup_policy": "compact,delete"}, "I1", "cleanup.policy", "compact,delete", "delete"),
        ({"max_message_bytes": "1048588"}, "I1", "max.message.bytes", "1048588", "17825792 or more"),
    ],
)
def test_a_topics_setting_breaks_a_promise(
    topic: dict[str, Any], promise: str, setting: str, value: str, wanted: str
) -> None:
    (found,) = broken(**topic)

    assert (found.promise, found.setting, found.value, found.wanted) == (promise, setting, value, wanted)
    assert found.where == INFER
    assert found.command
    assert all(part in str(found) for part in (promise, setting, value, wanted, found.command))


@pytest.mark.parametrize(
    ("setting", "value", "promise"),
    [
        ("message.max.bytes", "1048588", "I1"),
        ("auto.create.topics.enable", "true", "I1"),
        ("offsets.retention.minutes", "60", "I12"),
        ("group.min.session.timeout.ms", "30000", "I11"),
        ("group.max.session.timeout.ms", "5000", "I11"),
    ],
)
def test_a_brokers_setting_breaks_a_promise(setting: str, value: str, promise: str) -> None:
    (found,) = broken({setting: value})

    assert (found.promise, found.setting, found.value) == (promise, setting, value)
    assert found.where == "broker 1, broker 2, broker 3"
    assert found.severe == setting.startswith("group.")


@pytest.mark.parametrize(
    ("setting", "value", "reported", "command"),
    [
        ("log.retention.ms", "1000", "retention.ms", "log.retention.ms=7200000"),
        ("log.retention.minutes", "1", "retention.ms", "log.retention.ms=7200000"),
        ("log.retention.hours", "0", "retention.ms", "log.retention.ms=7200000"),
        ("log.retention.bytes", "1000", "retention.bytes", "log.retention.bytes=-1"),
        ("log.cleanup.policy", "compact", "cleanup.policy", "log.cleanup.policy=delete"),
        ("unclean.leader.election.enable", "true", "unclean.leader.election.enable", "enable=false"),
    ],
)
def test_what_new_topics_would_take_from_the_brokers_is_judged_too(
    setting: str, value: str, reported: str, command: str
) -> None:
    (found,) = broken({setting: value})

    assert (found.setting, found.where) == (reported, NEW)
    assert command in found.command
    assert "--entity-type brokers --entity-default" in found.command


def test_records_that_are_kept_for_ever_need_offsets_that_are() -> None:
    (found,) = broken(retention_ms="-1")

    assert (found.setting, found.promise) == ("offsets.retention.minutes", "I12")
    assert broken({"offsets.retention.minutes": found.wanted}, retention_ms="-1") == []


def test_the_alarm_comes_at_half_of_the_retention() -> None:
    for age, count in ((43_200.0, 0), (43_201.0, 1)):
        topic = TopicFacts(INFER, 3, 3, TOPIC, oldest_unread=age)
        found = kafka.check_kafka(dataclasses.replace(GOOD_KAFKA, topics=(topic,)), Needs())
        assert [(each.promise, each.severe, each.wanted) for each in found] == [
            ("I12", True, "43200 s or less")
        ] * count


def test_records_deleted_unread_are_reported() -> None:
    topic = TopicFacts(INFER, 3, 3, TOPIC, lost=7)
    (found,) = kafka.check_kafka(dataclasses.replace(GOOD_KAFKA, topics=(topic,)), Needs())

    assert (found.promise, found.setting, found.value, found.where) == ("I12", "records deleted unread", "7", INFER)


def test_few_brokers_are_reported_once_and_without_their_consequences() -> None:
    one = KafkaFacts("b:1", (1,), {1: BROKER}, (TopicFacts(INFER, 1, 1, TOPIC | {"min.insync.replicas": "1"}),))

    assert [found.setting for found in kafka.check_kafka(one, Needs())] == ["number of brokers"]


def test_what_may_not_be_read_is_said() -> None:
    facts = KafkaFacts("b:1", (1, 2, 3), {1: {}, 2: BROKER, 3: BROKER}, (TopicFacts(INFER, 3, 3, {}),))

    (found,) = kafka.check_kafka(facts, Needs())
    assert (found.value, found.where) == ("denied", f"1, {INFER}")


def test_many_topics_with_one_fault_are_one_line() -> None:
    topics = tuple(TopicFacts(f"{INFER}{n}", 3, 3, TOPIC | {"min.insync.replicas": "1"}) for n in range(9))

    (found,) = kafka.check_kafka(dataclasses.replace(GOOD_KAFKA, topics=topics), Needs())
    assert found.where.endswith(" and 6 more")
    assert "--entity-name TOPIC" in found.command


def test_the_largest_record_is_the_transports() -> None:
    assert kafka.LARGEST == connection.MAX_BATCH


@pytest.mark.parametrize(
    ("info", "settings", "promise", "setting", "severe"),
    [
        ({"redis_version": "6.0.16"}, {}, "I2", "redis_version", True),
        ({"role": "slave", "connected_slaves": "0"}, {}, "I1", "role", True),
        ({"cluster_enabled": "1"}, {}, "I1", "cluster-enabled", True),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "I2", "maxmemory-policy", False),
        ({"maxmemory": "0"}, {}, "I9", "maxmemory", False),
        ({"aof_enabled": "0"}, {}, "I2", "appendonly", False),
        ({}, {"appendfsync": "no"}, "I2", "appendfsync", False),
        ({}, {"min-replicas-to-write": "0"}, "I2", "min-replicas-to-write", False),
    ],
)
def test_a_setting_of_redis_breaks_a_promise(
    info: dict[str, str], settings: dict[str, str], promise: str, setting: str, severe: bool
) -> None:
    facts = RedisFacts("r", GOOD_REDIS.info | info, GOOD_REDIS.settings | settings)
    (found,) = redis.check_redis(facts)

    assert (found.promise, found.setting, found.severe) == (promise, setting, severe)
    assert found.command
    assert found.wanted


def test_a_redis_that_hides_its_settings_is_judged_by_what_it_tells() -> None:
    (found,) = redis.check_redis(RedisFacts("r", GOOD_REDIS.info, {}))

    assert found.setting == "permission CONFIG GET"


def test_snapshots_alone_differ_from_no_persistence() -> None:
    for save, value in (("3600 1", "no (only snapshots)"), ("", "no")):
        (found,) = redis.check_redis(
            RedisFacts("r", GOOD_REDIS.info | {"aof_enabled": "0"}, GOOD_REDIS.settings | {"save": save})
        )
        assert found.value == value
