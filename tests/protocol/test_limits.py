"""Bounds of settings that several processes have."""

from __future__ import annotations

import pytest

from protocol.errors import ConfigError
from protocol.limits import require_port, require_tls


@pytest.mark.parametrize("port", [None, 0, 8000, 65535])
def test_a_port_may_be_free_or_missing(port: int | None) -> None:
    require_port("metrics_port", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics_port is {port}; a port is between 0 and 65535"):
        require_port("metrics_port", port)


@pytest.mark.parametrize("files", [("", "", ""), ("c.pem", "k.pem", ""), ("c.pem", "k.pem", "ca.pem")])
def test_tls_is_complete_or_off(files: tuple[str, str, str]) -> None:
    require_tls(*files)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("c.pem", "", ""), "both a certificate and a key"),
        (("", "k.pem", ""), "both a certificate and a key"),
        (("", "", "ca.pem"), "client certificates need TLS"),
    ],
)
def test_tls_that_lacks_a_file_is_refused(files: tuple[str, str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        require_tls(*files)
