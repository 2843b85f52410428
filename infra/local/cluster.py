"""A cluster on this machine: three brokers that are also controllers, a Redis primary with a replica, and three Sentinels.

Invariants:
- every topic has three replicas unless its creator says otherwise, and takes a write once two of them have it;
- a server keeps its ports and data, however often it is killed and started;
- a former Redis primary comes back as an empty replica: writes that only it had are lost, as in any failover.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.local import kafka_roles, probes
from infra.local.kafka import Broker, Jvm, new_cluster_id
from infra.local.prepare import prepare
from infra.local.process import HOST, free_port, wait_until
from infra.local.redis import RedisServer
from infra.local.sentinel import MASTER, SentinelServer
from protocol.errors import Unavailable

NODES = 3
WHOLE_WITHIN = 60.0
"""Seconds within which restarted servers must have caught up."""

REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}
"""Settings of a cluster that differ from infra/kafka.properties."""
FOLLOWING = {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}
"""A returning replica has its data within milliseconds."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Running servers.

    Attributes:
        kafka: bootstrap servers, `HOST:PORT,…`.
        redis: URL that names the Sentinels.
        brokers: in the order of their node ids, from 1.
        stores: the Redis that began as primary, and the one that began as its replica.
        sentinels: the three.
    """

    kafka: str
    redis: str
    brokers: tuple[Broker, ...]
    stores: tuple[RedisServer, RedisServer]
    sentinels: tuple[SentinelServer, ...]

    @property
    def primary(self) -> RedisServer:
        """The Redis that most Sentinels consider the primary now.

        Raises:
            Unavailable: no Sentinel answers.
        """
        ports = []
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError):
                ports.append(sentinel.primary())
        if not ports:
            raise Unavailable("no Sentinel answers")
        port = max(ports, key=ports.count)
        return next(store for store in self.stores if store.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        return self.other(self.primary)

    def other(self, store: RedisServer) -> RedisServer:
        """The other one of the two."""
        return self.stores[1] if store is self.stores[0] else self.stores[0]

    def broker(self, node: int) -> Broker:
        """The broker with this node id."""
        return self.brokers[node - 1]

    def any_broker(self) -> Broker:
        """One that answers.

        Raises:
            Unavailable: none does.
        """
        for broker in self.brokers:
            if broker.running and broker.answers():
                return broker
        raise Unavailable("no broker answers")

    def wait_brokers(self, within: float = WHOLE_WITHIN) -> None:
        """Wait until all brokers are up and every partition has all of its replicas in sync.

        Raises:
            Unavailable: not in time.
        """
        if not wait_until(self.brokers_whole, time.monotonic() + within):
            raise Unavailable(f"the brokers at {self.kafka} are not whole again after {within:g} s")

    def wait_stores(self, within: float = WHOLE_WITHIN) -> None:
        """Wait until Redis has a replica that follows, and all Sentinels know it.

        Raises:
            Unavailable: not in time.
        """
        if not wait_until(self.stores_whole, time.monotonic() + within):
            raise Unavailable(f"Redis behind {self.redis} is not whole again after {within:g} s")

    def brokers_whole(self) -> bool:
        """Whether every broker lists all of them, and all replicas are in sync."""
        try:
            known = [kafka_roles.nodes(HOST, broker.port) for broker in self.brokers]
            placed = kafka_roles.partitions(HOST, self.brokers[0].port)
        except (OSError, ValueError):
            return False
        return all(len(seen) == len(self.brokers) for seen in known) and all(
            leader > 0 and len(in_sync) == len(replicas) for _, leader, replicas, in_sync in placed
        )

    def stores_whole(self) -> bool:
        """Whether all Sentinels agree on the primary, know each other and a replica that is up, and the replica follows."""
        try:
            return (
                len({sentinel.primary() for sentinel in self.sentinels}) == 1
                and all(sentinel.sees_all() for sentinel in self.sentinels)
                and follows(self.replica, self.primary)
            )
        except (OSError, Unavailable):
            return False


def follows(replica: RedisServer, primary: RedisServer) -> bool:
    """Whether one Redis is a synced replica of the other."""
    try:
        told = "\n".join(probes.redis_words(HOST, replica.port, "INFO", "replication")).splitlines()
    except OSError:
        return False
    return {"role:slave", f"master_port:{primary.port}", "master_link_status:up"} <= set(told)


@contextlib.contextmanager
def cluster(
    data: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    jvm: Jvm | None = None,
    properties: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """All eight servers for the duration of a `with`, with their data and logs in `data`.

    Raises:
        Unavailable: a server cannot be started; names it and the last lines of its log.
    """
    with contextlib.ExitStack() as started:
        brokers = _brokers(data, jvm or Jvm(heap="256m"), environ, REPLICATED | dict(properties or {}))
        primary = RedisServer(data / "redis-1", config=FOLLOWING)
        replica = RedisServer(data / "redis-2", config=FOLLOWING | replica_of(primary))
        for server in (*brokers, primary, replica):
            started.callback(server.kill)  # its data is deleted anyway, and an orderly stop of a cluster is slow
            server.launch()
        for store in (primary, replica):
            store.wait_ready()
        # Sentinels look for replicas at start and then every 10 s: this one must exist at start.
        if not wait_until(lambda: follows(replica, primary), time.monotonic() + WHOLE_WITHIN):
            raise Unavailable(f"{replica.name} at {replica.address} does not follow {primary.address}")
        sentinels = tuple(SentinelServer(data / f"sentinel-{number}", primary) for number in range(1, NODES + 1))
        for sentinel in sentinels:
            started.callback(sentinel.kill)
            sentinel.launch()
        for server in (*sentinels, *brokers):
            server.wait_ready()
        running = Cluster(
            ",".join(broker.bootstrap for broker in brokers),
            f"redis+sentinel://{','.join(sentinel.address for sentinel in sentinels)}/{MASTER}/0",
            tuple(brokers),
            (primary, replica),
            sentinels,
        )
        running.wait_brokers()
        running.wait_stores()
        yield running


def replica_of(primary: RedisServer) -> dict[str, str]:
    """The settings of a Redis that replicates another."""
    return {"replicaof": f"{HOST} {primary.port}"}


def _brokers(data: Path, jvm: Jvm, environ: Mapping[str, str], properties: Mapping[str, str]) -> list[Broker]:
    installed, cluster_id = prepare(environ), new_cluster_id()
    ports = [free_port(HOST) for _ in range(2 * NODES)]
    voters = ",".join(f"{node}@{HOST}:{port}" for node, port in enumerate(ports[NODES:], 1))
    brokers = []
    for node in range(1, NODES + 1):
        own = {**properties, "node.id": str(node), "controller.quorum.voters": voters}
        broker = Broker(data / f"kafka-{node}", port=ports[node - 1], properties=own, jvm=jvm, installed=installed)
        broker.cluster_id, broker.controller_port = cluster_id, ports[NODES + node - 1]
        brokers.append(broker)
    return brokers
