"""docs/guarantees.md is true: its tests exist, its settings satisfy the doctor, its metrics are exported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.local.kafka import parse_properties
from penstock.promises import kafka, redis
from penstock.promises.kafka import Needs
from protocol.transport.facts import KafkaFacts, RedisFacts, TopicFacts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
SECTIONS = dict(re.findall(r"^### (I\d+) (.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))
STRANGERS = (ROOT / "docs" / "strangers.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE + STRANGERS + (ROOT / "SECURITY.md").read_text())))


def test_there_are_twelve_promises() -> None:
    assert list(SECTIONS) == [f"I{number}" for number in range(1, 13)]


@pytest.mark.parametrize("named", NAMED)
def test_every_test_that_it_names_is_there(named: str) -> None:
    path, _, function = named.partition("::")

    assert (ROOT / path).exists(), f"docs/guarantees.md, docs/strangers.md or SECURITY.md names {path}"
    if function:
        assert re.search(rf"^\s*(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), named


@pytest.mark.parametrize("name", SECTIONS)
def test_every_promise_names_a_test_or_says_that_it_is_not_proven(name: str) -> None:
    text = " ".join(SECTIONS[name].split())

    assert "- Not covered: " in text or "- Not offered yet: " in text or "- Not yet proven" in text
    assert re.search(r"- Held by: [^-]*`tests/", text) or "Not yet proven" in text


def test_every_promise_that_the_doctor_names_is_one_of_them() -> None:
    for module in (kafka, redis):
        named = set(re.findall(r'"(I\d+)",', Path(module.__file__).read_text()))
        assert named
        assert named <= set(SECTIONS)


def test_the_settings_that_it_recommends_break_nothing() -> None:
    properties = parse_properties(re.search(r"```properties\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]
    text = re.search(r"```redis\n(.*?)```", PAGE, re.DOTALL)[1]  # type: ignore[index]
    options = dict(line.split(maxsplit=1) for line in text.splitlines())
    made = {
        "min.insync.replicas": properties["min.insync.replicas"], "max.message.bytes": properties["message.max.bytes"],
        "retention.ms": str(int(properties["log.retention.hours"]) * 3_600_000),
        "retention.bytes": properties["log.retention.bytes"], "cleanup.policy": properties["log.cleanup.policy"],
        "unclean.leader.election.enable": properties["unclean.leader.election.enable"],
    }  # fmt: skip
    replicas = int(properties["default.replication.factor"])
    topics = (
        TopicFacts("penstock.infer.m.1", replicas, replicas, made),
        TopicFacts("__consumer_offsets", int(properties["offsets.topic.replication.factor"]), 3, made),
    )
    info = {
        "redis_version": "7.4", "role": "master", "maxmemory": "1000000000", "connected_slaves": "1",
        "maxmemory_policy": options["maxmemory-policy"], "aof_enabled": str(int(options["appendonly"] == "yes")),
    }  # fmt: skip

    assert kafka.check_kafka(KafkaFacts("b", (1, 2, 3), dict.fromkeys((1, 2, 3), properties), topics), Needs()) == []
    assert redis.check_redis(RedisFacts("r", info, options)) == []


def test_the_metrics_that_it_names_are_exported() -> None:
    named = set(re.findall(r"`penstock_(worker|gateway)_([a-z_]+?)(?:_total)?`", PAGE))
    texts = {
        "worker": (ROOT / "workers" / "metrics.py").read_text(),
        "gateway": (ROOT / "gateway" / "metrics.py").read_text().replace('"penstock_gateway_', '"'),
    }

    assert len(named) == len(set(re.findall(r"`(penstock_[a-z_]+)", PAGE)))
    assert {side for side, _ in named} == {"worker", "gateway"}
    for side, name in named:
        assert re.search(rf'^ *[^ ]*"{name}"|\("{name}"', texts[side], re.MULTILINE), name
