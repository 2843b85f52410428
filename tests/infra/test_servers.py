from pathlib import Path

import pytest

from infra.local.process import free_port
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE, named_kafka, named_redis, servers
from protocol.errors import ConfigError, Unavailable


def test_an_environment_that_names_nothing_gives_nothing() -> None:
    assert named_kafka({}) is None
    assert named_redis({REDIS_VARIABLE: ""}) is None


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":9092", "kafka:nine", "a:1,b"])
def test_a_broker_is_named_as_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match=KAFKA_VARIABLE):
        named_kafka({KAFKA_VARIABLE: address})


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://"])
def test_a_store_is_named_as_a_url(url: str) -> None:
    with pytest.raises(ConfigError, match=REDIS_VARIABLE):
        named_redis({REDIS_VARIABLE: url})


def test_a_named_server_that_does_not_answer_is_an_error() -> None:
    nobody = f"127.0.0.1:{free_port()}"

    with pytest.raises(Unavailable, match=f"{KAFKA_VARIABLE} names {nobody}"):
        named_kafka({KAFKA_VARIABLE: nobody}, timeout=0.0)
    with pytest.raises(Unavailable, match=f"{REDIS_VARIABLE} names {nobody}"):
        named_redis({REDIS_VARIABLE: f"redis://:secret@{nobody}/0"}, timeout=0.0)


@pytest.mark.servers
def test_named_servers_are_taken_as_they_are(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    environ = {KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url}

    with servers(tmp_path, environ=environ) as named:
        assert (named.kafka, named.redis) == (kafka_bootstrap, redis_url)
        assert named.broker is None
        assert named.store is None


@pytest.mark.servers
@pytest.mark.usefixtures("kafka_installation")
def test_what_is_not_named_is_started_and_stopped(tmp_path: Path) -> None:
    with servers(tmp_path) as started:
        assert started.broker is not None
        assert started.store is not None
        assert named_kafka({KAFKA_VARIABLE: started.kafka}, timeout=0.0) == started.kafka
        assert named_redis({REDIS_VARIABLE: started.redis}, timeout=0.0) == started.redis

    assert not started.broker.running
    assert not started.store.running
