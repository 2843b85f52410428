"""Redis URLs: no server."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from redis.asyncio import SSLConnection
from redis.exceptions import RedisError, ResponseError

from protocol.errors import ConfigError
from protocol.transport.redis.address import Address
from protocol.transport.redis.sentinel import SentinelClient

CA = Path(__file__).parent / "tls" / "ca.pem"


def tls(url: str) -> ssl.SSLContext:
    connection = Address.parse(url).connection(1.0)
    assert isinstance(connection, SSLConnection)
    return connection.ssl_context.get()


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "options", "name"),
        [
            ("redis://", {}, "redis://localhost:6379/0"),
            ("redis://store:6380/3", {"host": "store", "port": 6380, "db": 3}, "redis://store:6380/3"),
            ("redis://store?db=4", {"host": "store", "db": 4}, "redis://store:6379/4"),
            ("redis://[::1]:6380", {"host": "::1", "port": 6380}, "redis://::1:6380/0"),
            ("redis://:p%40ss@store", {"host": "store", "password": "p@ss"}, "redis://store:6379/0"),
            (
                "rediss://fleet:p@store",
                {"host": "store", "username": "fleet", "password": "p"},
                "rediss://store:6379/0",
            ),
            (
                "redis+sentinel://:p@one,two:26380,[::1]:1/fleet/2?sentinel_password=q",
                {"host": "primary", "db": 2, "password": "p"},
                "redis+sentinel://one:26379,two:26380,::1:1/fleet/2",
            ),
            ("rediss+sentinel://one/fleet", {"host": "primary"}, "rediss+sentinel://one:26379/fleet/0"),
            ("unix:///run/redis%20x.sock?db=1", {"path": "/run/redis x.sock", "db": 1}, "unix:///run/redis x.sock"),
        ],
    )
    def test_urls(self, url: str, options: dict[str, object], name: str) -> None:
        address = Address.parse(url)
        assert (address.options, str(address)) == (options, name)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "store:6379",
            "http://store",
            "redis://store:port",
            "redis://store/zero",
            "redis://store?db=zero",
            "redis://store:70000",
            "redis://store?protocol=3",
            "redis://store?decode_responses=1",
            "redis://store?ssl_ca_certs=ca.pem",
            "rediss://store?ssl_cert_reqs=perhaps",
            "redis+sentinel://",
            "redis+sentinel:///fleet/0",
            "redis+sentinel://one,two",
            "redis+sentinel://one:port/fleet",
            "redis+sentinel://one/fleet/zero",
            "redis+sentinel://one/fleet?decode_responses=1",
        ],
    )
    def test_what_is_no_url_is_a_config_error(self, url: str) -> None:
        with pytest.raises(ConfigError, match="Redis URL"):
            Address.parse(url)

    def test_the_password_is_neither_in_repr_nor_in_str_nor_in_errors(self) -> None:
        address = Address.parse("redis://fleet:s3cret@store/1")
        assert (str(address), "s3cret" in repr(address)) == ("redis://store:6379/1", False)
        with pytest.raises(ConfigError) as caught:
            Address.parse("redis://fleet:s3cret@store/one")
        assert "s3cret" not in caught.value.message
        watched = Address.parse("redis+sentinel://:s3cret@one/fleet?sentinel_password=s3cret")
        assert "s3cret" not in f"{watched} {watched!r}"
        with pytest.raises(ConfigError) as caught:
            Address.parse("redis+sentinel://:s3cret@one:x/fleet")
        assert "s3cret" not in caught.value.message

    def test_tls_is_verified_unless_told_otherwise(self) -> None:
        verified = tls("rediss://store")
        own = tls(f"rediss://store?ssl_ca_certs={CA}&ssl_check_hostname=false")
        none = tls("rediss://store?ssl_cert_reqs=none")
        assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert (own.verify_mode, own.check_hostname) == (ssl.CERT_REQUIRED, False)
        assert len(own.get_ca_certs()) > 0
        assert none.verify_mode is ssl.CERT_NONE

    def test_what_the_pipelining_relies_on_is_fixed(self) -> None:
        connection = Address.parse("redis://store").connection(2.0)
        assert (connection.protocol, connection.socket_timeout, connection.health_check_interval) == (2, None, 0)
        assert (connection.socket_connect_timeout, connection.retry.get_retries()) == (2.0, 0)
        assert connection.maint_notifications_config is None
        assert connection.encoder.decode_responses is False

    def test_certificates_that_are_not_there_are_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="certificates"):
            Address.parse("rediss://store?ssl_ca_certs=/nowhere/ca.pem")


class OneSentinel:
    """Knows a primary at this port, or raises."""

    def __init__(self, port: int, epoch: int, *, dead: bool = False, error: Exception | None = None) -> None:
        self.masters = {"fleet": {"ip": "store", "port": port, "config-epoch": epoch, "is_sdown": dead}}
        self.error = error

    async def sentinel_masters(self) -> dict[str, dict[str, object]]:
        if self.error is not None:
            raise self.error
        return self.masters


class TestSentinels:
    @pytest.mark.parametrize(
        "sentinels",
        [
            [OneSentinel(1, 5)],
            [OneSentinel(7, 4), OneSentinel(7, 4), OneSentinel(1, 5)],
            [OneSentinel(7, 9, error=ConnectionRefusedError()), OneSentinel(1, 5)],
            [OneSentinel(1, 5, dead=True), OneSentinel(1, 5), OneSentinel(1, 5)],
        ],
        ids=["one", "the newest counts", "one is away", "one does not see the primary"],
    )
    async def test_who_the_primary_is(self, sentinels: list[OneSentinel]) -> None:
        assert await SentinelClient("fleet", sentinels).primary() == ("store", 1)

    async def test_a_primary_that_is_taken_for_dead_is_none(self) -> None:
        sentinels = [OneSentinel(1, 5, dead=True), OneSentinel(1, 5, dead=True), OneSentinel(1, 5)]
        with pytest.raises(RedisError, match="a live primary 'fleet'"):
            await SentinelClient("fleet", sentinels).primary()

    async def test_a_name_that_they_do_not_know_is_named(self) -> None:
        with pytest.raises(RedisError, match="'other'"):
            await SentinelClient("other", [OneSentinel(1, 5)]).primary()

    async def test_a_sentinel_that_refuses_is_heard_where_no_other_answers(self) -> None:
        with pytest.raises(ResponseError, match="NOAUTH"):
            await SentinelClient("fleet", [OneSentinel(1, 5, error=ResponseError("NOAUTH"))]).primary()

    def test_tls_is_the_same_for_them_and_their_password_is_their_own(self) -> None:
        address = Address.parse(f"rediss+sentinel://:p@one/fleet?ssl_ca_certs={CA}&sentinel_password=q")
        asking = address.sentinel_client()
        assert asking is not None
        (client,) = asking._clients
        given = client.connection_pool.connection_kwargs
        assert (given["password"], given["ssl_ca_certs"]) == ("q", str(CA))
        assert issubclass(client.connection_pool.connection_class, SSLConnection)
