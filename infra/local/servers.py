"""A broker and a store: named by the environment, otherwise started here.

A missing program is an error that names the command to install it; nothing continues without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from infra.local import probes
from infra.local.kafka import Broker, Jvm
from infra.local.prepare import prepare
from infra.local.process import wait_until
from infra.local.redis import RedisServer
from protocol.errors import ConfigError, Unavailable

KAFKA_VARIABLE = "PENSTOCK_TEST_KAFKA"
"""`HOST:PORT[,…]` of a running broker that speaks plain text."""

REDIS_VARIABLE = "PENSTOCK_TEST_REDIS"
"""`redis://` or `rediss://` URL of a running server."""

NAMED_TIMEOUT = 15.0
"""Seconds that a named server may take to answer: compose may still be starting it."""


@dataclasses.dataclass(frozen=True)
class Servers:
    """The addresses of the two servers, and the servers themselves if they were started here.

    Attributes:
        kafka: bootstrap servers, `HOST:PORT[,…]`.
        redis: URL.
        broker: the broker that was started; None when the environment named one.
        store: the Redis that was started; None when the environment named one.
    """

    kafka: str
    redis: str
    broker: Broker | None = None
    store: RedisServer | None = None


def named_kafka(environ: Mapping[str, str] = os.environ, timeout: float = NAMED_TIMEOUT) -> str | None:
    """The broker that the environment names, once it answers; None when it names none.

    Raises:
        ConfigError: the variable is not `HOST:PORT[,…]`.
        Unavailable: no broker answers there.
    """
    named = environ.get(KAFKA_VARIABLE)
    if not named:
        return None
    addresses = [_host_and_port(part) for part in named.split(",")]

    def answers() -> bool:
        return any(probes.kafka_answers(host, port) for host, port in addresses)

    return _once(answers, KAFKA_VARIABLE, named, timeout)


def named_redis(environ: Mapping[str, str] = os.environ, timeout: float = NAMED_TIMEOUT) -> str | None:
    """The Redis that the environment names, once it answers; None when it names none.

    Raises:
        ConfigError: the variable is not a `redis://` or `rediss://` URL.
        Unavailable: no Redis answers there.
    """
    named = environ.get(REDIS_VARIABLE)
    if not named:
        return None
    url = urlsplit(named)
    if url.scheme not in {"redis", "rediss"} or not url.hostname:
        raise ConfigError(f"{REDIS_VARIABLE} must be a URL like redis://HOST:6379/0")
    host, port = url.hostname, url.port or 6379
    probe = probes.redis_answers if url.scheme == "redis" else probes.listens
    _once(lambda: probe(host, port), REDIS_VARIABLE, f"{host}:{port}", timeout)
    return named


@contextlib.contextmanager
def servers(
    data: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    jvm: Jvm | None = None,
    cores: Collection[int] | None = None,
    redis_config: Mapping[str, str] | None = None,
    ports: tuple[int | None, int | None] = (None, None),
) -> Iterator[Servers]:
    """Both addresses for the duration of a `with`; a server that the environment does not name is started in `data`.

    `ports` are Kafka's and Redis's, free ones where None; `cores` pins what is started; `redis_config` adds to infra/redis.conf.

    Raises:
        Unavailable: a server is missing; the message has the command that installs it.
    """
    kafka, redis = named_kafka(environ), named_redis(environ)
    with contextlib.ExitStack() as started:
        store = broker = None
        if redis is None:
            store = RedisServer(data / "redis", port=ports[1], cores=cores, config=redis_config)
            started.callback(store.stop)
            store.launch()
        if kafka is None:
            installed = prepare(environ)
            broker = Broker(data / "kafka", port=ports[0], jvm=jvm, cores=cores, installed=installed)
            started.callback(broker.stop)
            broker.start()
        if store is not None:
            store.wait_ready()
        yield Servers(
            kafka=broker.bootstrap if broker else kafka or "",
            redis=store.url if store else redis or "",
            broker=broker,
            store=store,
        )


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{KAFKA_VARIABLE} must be HOST:PORT[,HOST:PORT…], and {address!r} is not")
    return host.strip("[]"), int(port)


def _once(answers: Callable[[], bool], variable: str, named: str, timeout: float) -> str:
    if wait_until(answers, time.monotonic() + timeout):
        return named
    raise Unavailable(
        f"{variable} names {named}, which did not answer within {timeout:.0f} s; start it, or unset the variable to let "
        "the tests start one of their own"
    )
