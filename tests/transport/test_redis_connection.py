"""Redis URLs: no server."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from redis.asyncio import SSLConnection

from protocol.errors import ConfigError
from protocol.transport.redis_connection import Address

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
