"""Redis URLs: no server."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from protocol.transport.redis_connection import Address

CA = Path(__file__).parent / "tls" / "ca.pem"


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://", Address()),
            ("redis://store", Address("store")),
            ("redis://store:6380/3", Address("store", 6380, database=3)),
            ("redis://store?db=4", Address("store", database=4)),
            ("redis://[::1]:6380", Address("::1", 6380)),
            ("redis://:p%40ss@store", Address("store", password="p@ss")),
            ("redis://fleet:p@store", Address("store", username="fleet", password="p")),
            ("unix:///run/redis%20x.sock?db=1", Address(path="/run/redis x.sock", database=1)),
        ],
    )
    def test_urls(self, url: str, address: Address) -> None:
        assert Address.parse(url) == address

    @pytest.mark.parametrize(
        "url", ["", "store:6379", "http://store", "redis://store:port", "redis://store/zero", "redis://store:70000"]
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
        verified = Address.parse("rediss://store").tls
        own = Address.parse(f"rediss://store?ssl_ca_certs={CA}&ssl_check_hostname=false").tls
        none = Address.parse("rediss://store?ssl_cert_reqs=none").tls
        assert verified is not None
        assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert own is not None
        assert (own.verify_mode, own.check_hostname, len(own.get_ca_certs())) == (ssl.CERT_REQUIRED, False, 1)
        assert none is not None
        assert none.verify_mode is ssl.CERT_NONE
        assert Address.parse("redis://store").tls is None

    def test_certificates_that_are_not_there_are_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="certificates"):
            Address.parse("rediss://store?ssl_ca_certs=/nowhere/ca.pem")
