"""Settings of Redis that break promises. Pure: one function per setting, facts in, misconfigurations out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from penstock.promises.misconfiguration import Misconfiguration, number
from protocol.transport.facts import RedisFacts

OLDEST: Final = (6, 2)


def check_redis(facts: RedisFacts) -> list[Misconfiguration]:
    """All misconfigurations, in the order of the promises."""
    found = [each for rule in _RULES for each in rule(facts)]
    return sorted(found, key=lambda each: int(each.promise[1:]))


def old_version(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I2: the scripts need Redis 6.2."""
    said = facts.info.get("redis_version", "")
    parts = [number(part, 0) for part in said.split(".")[:2]]
    if said and tuple(parts) < OLDEST:
        yield Misconfiguration(
            "I2", "redis_version", said, "6.2 or newer", "the fence's scripts do not run", "upgrade Redis", severe=True
        )


def not_a_primary(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I1: answers must be written."""
    if facts.info.get("role") == "slave":
        primary = f"{facts.info.get('master_host', '?')}:{facts.info.get('master_port', '?')}"
        yield Misconfiguration(
            "I1", "role", "replica", "primary", "no answer can be written", f"name the primary, {primary}", severe=True
        )


def a_cluster(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I1: the scripts write several keys in one call."""
    if facts.info.get("cluster_enabled") == "1":
        yield Misconfiguration(
            "I1", "cluster-enabled", "yes", "no", "the answers of one batch are written by one script, which a cluster refuses",
            "name a single primary, with replicas and Sentinels if it must survive a failure", severe=True,
        )  # fmt: skip


def evicts(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I2: an evicted key is a lost fence."""
    policy = facts.info.get("maxmemory_policy") or facts.settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield Misconfiguration(
            "I2", "maxmemory-policy", policy, "noeviction",
            "a full Redis evicts fences, and a request may be answered twice", "redis-cli CONFIG SET maxmemory-policy noeviction",
        )  # fmt: skip


def unbounded(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I9: without a bound, results can take all of the machine's memory."""
    if number(facts.info.get("maxmemory"), 1) == 0:
        yield Misconfiguration(
            "I9", "maxmemory", "0", "what the machine can spare",
            "results may take all of the machine's memory, until Redis is killed", "redis-cli CONFIG SET maxmemory 1gb",
        )  # fmt: skip


def forgets_at_restart(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I2: a Redis that restarts empty has no fences and no answers."""
    if facts.info.get("aof_enabled", "1") == "0":
        saves = bool(facts.settings.get("save"))
        value = "no (only snapshots)" if saves else "no"
        yield Misconfiguration(
            "I2", "appendonly", value, "yes",
            "a restart loses fences and answers: uncommitted requests run and are answered again, and answers of asynchronous "
            "calls must be computed again from the log", "redis-cli CONFIG SET appendonly yes",
        )  # fmt: skip


def syncs_rarely(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I2: data that the system has not written yet is lost with the machine."""
    if facts.info.get("aof_enabled") == "1" and facts.settings.get("appendfsync") == "no":
        yield Misconfiguration(
            "I2", "appendfsync", "no", "everysec (a power loss costs a second) or always (nothing)",
            "a power loss costs up to half a minute of answers and fences", "redis-cli CONFIG SET appendfsync everysec",
        )  # fmt: skip


def loses_its_tail(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """I2: replication is asynchronous, and the fleet does not WAIT for it."""
    replicas = number(facts.info.get("connected_slaves"), 0)
    needed = number(facts.settings.get("min-replicas-to-write"), 0)
    if replicas and facts.settings and not needed:
        yield Misconfiguration(
            "I2", "min-replicas-to-write", "0", f"1, with min-replicas-max-lag 1{'' if replicas > 1 else ' and a second replica'}",
            "answers do not wait for a replica (no WAIT): a failover may lose the last ones, and an isolated primary keeps "
            "taking them", "redis-cli CONFIG SET min-replicas-to-write 1, and CONFIG SET min-replicas-max-lag 1",
        )  # fmt: skip


def unreadable(facts: RedisFacts) -> Iterator[Misconfiguration]:
    """Settings that cannot be read cannot be judged."""
    if not facts.settings:
        yield Misconfiguration(
            "I2", "permission CONFIG GET", "denied", "allowed", "appendfsync and min-replicas-to-write were not judged",
            "redis-cli ACL SETUSER … +config|get",
        )  # fmt: skip


_RULES: Final[tuple[Callable[[RedisFacts], Iterator[Misconfiguration]], ...]] = (
    old_version, not_a_primary, a_cluster, evicts, unbounded, forgets_at_restart, syncs_rarely, loses_its_tail, unreadable,
)  # fmt: skip
