"""Faults of a cluster's servers, by the role that the victim has at that moment.

Invariant: a fault returns once it is undone: every replica is in sync, or follows, again.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable

from infra.local import kafka_roles, probes
from infra.local.cluster import Cluster, replica_of
from infra.local.faults import PAUSE, Faults
from infra.local.kafka import Broker
from infra.local.process import HOST, free_port, wait_until
from infra.local.redis import RedisServer
from protocol.errors import Unavailable

PROMOTED_WITHIN = 30.0
LOST = 1.0
"""Seconds of answers that `redis-primary-lose` costs."""

Choose = Callable[[Cluster], Broker]


def cluster_faults(running: Cluster) -> Faults:
    """All of them, by name."""
    possible: Faults = {}
    for role, choose in _ROLES.items():
        for how, break_ in _HOW.items():
            possible[f"kafka-{role}-{how}"] = functools.partial(_to_role, running, choose, break_)
    possible["kafka-two-kill"] = lambda: two(running, Broker.kill)
    possible["kafka-two-restart"] = lambda: two(running, Broker.stop)
    possible["redis-primary-kill"] = lambda: kill_primary(running)
    possible["redis-primary-lose"] = lambda: lose_tail(running)
    possible["redis-primary-stop"] = lambda: stop_primary(running)
    possible["redis-replica-kill"] = lambda: kill_replica(running)
    return possible


def _to_role(running: Cluster, choose: Choose, break_: Callable[[Cluster, Broker], None]) -> None:
    break_(running, choose(running))


def leader(running: Cluster) -> Broker:
    """The broker that leads most partitions."""
    (node, _), *_ = kafka_roles.leaders(HOST, running.any_broker().port).most_common(1) or [(1, 0)]
    return running.broker(max(node, 1))


def coordinator(running: Cluster) -> Broker:
    """The broker that coordinates most groups."""
    return max(running.brokers, key=lambda broker: kafka_roles.groups(HOST, broker.port))


def controller(running: Cluster) -> Broker:
    """The broker that is also the active controller."""
    return running.broker(max(kafka_roles.controller(HOST, running.any_broker().port), 1))


def kill_broker(running: Cluster, broker: Broker) -> None:
    """SIGKILL, then an immediate start."""
    broker.kill()
    broker.start()
    running.wait_brokers()


def restart_broker(running: Cluster, broker: Broker) -> None:
    """SIGTERM, which hands its partitions over, then a start."""
    broker.restart()
    running.wait_brokers()


def stop_broker(running: Cluster, broker: Broker) -> None:
    """SIGSTOP for as long as a controller waits for a sign of life, then SIGCONT."""
    _stand_still(broker, lambda: time.sleep(PAUSE))
    running.wait_brokers()


def two(running: Cluster, end: Callable[[Broker], None]) -> None:
    """Take down two brokers at once for some seconds.

    After SIGTERM the third broker is the only one in sync, and refuses writes at once. After SIGKILL the dead ones stay listed as
    in sync, because the controllers have no majority to remove them, and writes time out waiting for them.
    """
    first = leader(running)
    victims = (first, next(broker for broker in running.brokers if broker is not first))
    for broker in victims:
        end(broker)
    time.sleep(PAUSE)
    for broker in victims:
        broker.launch()  # side by side: one alone cannot elect a controller
    for broker in victims:
        broker.wait_ready()
    running.wait_brokers()


def kill_primary(running: Cluster) -> None:
    """SIGKILL; the Sentinels promote the replica, and the old primary comes back as its replica."""
    old = running.primary
    old.kill()
    _wait_for_other(running, old)
    rejoin(running, old)


def lose_tail(running: Cluster) -> None:
    """As `kill_primary`, and the last second of writes never reaches the replica."""
    nowhere = str(free_port(HOST))
    probes.redis_words(HOST, running.replica.port, "REPLICAOF", HOST, nowhere)
    time.sleep(LOST)
    kill_primary(running)


def stop_primary(running: Cluster) -> None:
    """SIGSTOP until a second after the replica was promoted, then SIGCONT: the old primary does not know of it yet."""
    old = running.primary
    _stand_still(old, lambda: _wait_for_other(running, old, and_then=1.0))
    running.wait_stores()


def kill_replica(running: Cluster) -> None:
    """SIGKILL, then a start after a while."""
    replica = running.replica
    replica.kill()
    time.sleep(PAUSE)
    rejoin(running, replica)


def rejoin(running: Cluster, store: RedisServer) -> None:
    """Start a Redis as the replica of the other."""
    store.config |= replica_of(running.other(store))
    store.start()
    running.wait_stores()


def _wait_for_other(running: Cluster, old: RedisServer, and_then: float = 0.0) -> None:
    if not wait_until(lambda: running.primary is not old, time.monotonic() + PROMOTED_WITHIN):
        raise Unavailable(f"the Sentinels did not replace {old.address} within {PROMOTED_WITHIN:g} s")
    time.sleep(and_then)


def _stand_still(server: Broker | RedisServer, meanwhile: Callable[[], None]) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        meanwhile()
    finally:
        os.kill(server.pid, signal.SIGCONT)


_ROLES: dict[str, Choose] = {"leader": leader, "coordinator": coordinator, "controller": controller}
_HOW: dict[str, Callable[[Cluster, Broker], None]] = {
    "kill": kill_broker,
    "restart": restart_broker,
    "stop": stop_broker,
}

NAMES = (*(f"kafka-{role}-{how}" for role in _ROLES for how in _HOW), "kafka-two-kill", "kafka-two-restart",
         "redis-primary-kill", "redis-primary-lose", "redis-primary-stop", "redis-replica-kill")  # fmt: skip
USUAL = ("kafka-leader-kill", "kafka-coordinator-kill", "kafka-controller-kill", "kafka-two-restart", "redis-primary-kill",
         "redis-primary-stop", "redis-replica-kill")  # fmt: skip
"""The default faults of a run on a cluster."""
