"""Fixtures of all tests: real servers, started when the first test asks for them.

`PENSTOCK_TEST_KAFKA` and `PENSTOCK_TEST_REDIS` name running ones. A test that asks for a server that cannot be had
fails and says which command helps; none is skipped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from structlog._config import BoundLoggerLazyProxy

from infra.local.installation import Installation
from infra.local.kafka import Broker
from infra.local.prepare import prepare
from infra.local.redis import RedisServer
from infra.local.servers import KAFKA_VARIABLE, named_kafka, named_redis
from protocol.errors import FleetError

# No deadline: on a shared machine a slow example says nothing about the code.
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None)
settings.register_profile("fixed", max_examples=50, deadline=None, derandomize=True)  # the same examples in every run
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


SERVERS = frozenset({"kafka_bootstrap", "redis_url", "own_kafka", "own_redis", "kafka_installation"})
"""Fixtures that start servers."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real servers run one after the other, beside those without: they share servers, and have clocks to meet."""
    for item in items:
        if item.get_closest_marker("servers") or SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("servers"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetches Kafka before the first test's clock starts, if any test will start it."""
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    shared = "kafka_bootstrap" in asked and not os.environ.get(KAFKA_VARIABLE)
    if session.config.option.collectonly or not (shared or "kafka_installation" in asked):
        return
    # An error is not for here: the fixture meets it again, and the tests that needed it say so.
    with contextlib.suppress(FleetError):
        prepare(say=session.config.get_terminal_writer().line)


@pytest.fixture(autouse=True)
def the_tracer_stays() -> Iterator[None]:
    """A test that counts lines must restore the tracer: without it nothing that runs later is covered."""
    before = sys.gettrace()
    yield
    assert sys.gettrace() is before, "this test has replaced the tracer; see tests/counting.py"


@pytest.fixture(autouse=True)
def logging_stays() -> Iterator[None]:
    """Undo what a command that ran in this process has configured, loggers that have kept it included."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        for module in list(sys.modules.values()):
            for each in list(getattr(module, "__dict__", {}).values()):
                if (
                    type(each) is BoundLoggerLazyProxy
                ):  # isinstance() would ask proxies of other libraries for their class
                    vars(each).pop("bind", None)  # where `cache_logger_on_first_use` keeps it


@pytest.fixture(scope="session")
def kafka_installation() -> Installation:
    """Java and Kafka's jars, fetched."""
    return prepare()


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`HOST:PORT` of the broker that all tests share; use `prefix` in every name."""
    if named := named_kafka():
        yield named
        return
    installed = request.getfixturevalue("kafka_installation")
    with Broker(tmp_path_factory.mktemp("kafka"), installed=installed) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Redis that all tests share; use `prefix` in every key."""
    if named := named_redis():
        yield named
        return
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest, kafka_installation: Installation, tmp_path: Path) -> Iterator[Broker]:
    """A broker for this test alone, to be stopped, killed and restarted.

    Broker properties by `@pytest.mark.parametrize("own_kafka", [{...}], indirect=True)`.
    """
    properties = getattr(request, "param", None)
    with Broker(tmp_path / "kafka", properties=properties, installed=kafka_installation) as broker:
        yield broker


@pytest.fixture
def own_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test alone, to be stopped, killed and restarted.

    Options of redis.conf by `@pytest.mark.parametrize("own_redis", [{"maxmemory": "3mb"}], indirect=True)`.
    """
    with RedisServer(tmp_path / "redis", config=getattr(request, "param", None)) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A fresh prefix for topics, keys and channels, so that tests can share servers."""
    return f"t{secrets.token_hex(6)}"
