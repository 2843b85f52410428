from __future__ import annotations

from typing import Any

import pytest

from gateway.settings import GatewaySettings
from protocol.errors import ConfigError
from protocol.frames import MAX_RECORD


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_no_key(host: str) -> None:
    assert GatewaySettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_any_other_host_needs_one(host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        GatewaySettings(host=host)
    GatewaySettings(host=host, api_key="secret")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"http_port": 65536}, "http_port"),
        ({"metrics_port": -1}, "metrics_port"),
        ({"max_body_bytes": MAX_RECORD + 1}, "max_body_bytes"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"default_timeout": 0}, "default_timeout"),
        ({"default_timeout": 10, "max_timeout": 5}, "max_timeout"),
        ({"max_timeout": 10**6}, "max_timeout"),
        ({"api_key": "two\nlines"}, "API key"),
        ({"api_key": " blank"}, "API key"),
        ({"api_key": "schlüssel"}, "API key"),
        ({"gateway": "Not Allowed"}, "gateway id"),
        ({"tls_key": "key.pem"}, "TLS"),
        ({"no_worker_policy": "panic"}, "no-worker policy"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        GatewaySettings(**settings)


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(GatewaySettings(api_key="hush", signing_secret="hush"))
