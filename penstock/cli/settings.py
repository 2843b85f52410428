"""Turns flags into settings; the only place that maps a flag's name to its field."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from protocol.transport.settings import TransportSettings

_SECURITY: Final = {
    "kafka_security_protocol": "security_protocol",
    "kafka_sasl_mechanism": "sasl_mechanism",
    "kafka_sasl_username": "sasl_plain_username",
    "kafka_sasl_password": "sasl_plain_password",
    "kafka_ssl_cafile": "ssl_cafile",
    "kafka_ssl_certfile": "ssl_certfile",
    "kafka_ssl_keyfile": "ssl_keyfile",
}


def transport_settings(
    data_dir: Path | None = None, fsync: bool = False, bus_only: bool = False, **flags: Any
) -> TransportSettings:
    """The transport that `options.fleet_options` and `--data-dir` describe; other flags are ignored.

    Raises:
        ConfigError: the flags contradict each other.
    """
    security = {name: str(flags[flag]) for flag, name in _SECURITY.items() if flags.get(flag)}
    names = ("kafka", "redis", "prefix", "session_timeout", "result_ttl", "connect_timeout")
    chosen = {name: flags[name] for name in names if flags.get(name) is not None}
    return TransportSettings(data_dir=data_dir, fsync=fsync, kafka_security=security, bus_only=bus_only, **chosen)


def chosen(kind: type[Any], flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that are fields of a settings type, as its constructor takes them."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in flags.items() if name in names and value is not None}
