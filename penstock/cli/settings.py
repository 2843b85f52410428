"""Turns flags into settings; the only place that maps a flag's name to its field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from protocol.errors import ConfigError
from protocol.transport.settings import TransportSettings

T = TypeVar("T")
_FIELD: Final = re.compile(r"(?<![\w-])[a-z]+(?:_[a-z]+)+(?![\w-])")
_SECURITY: Final = {
    "kafka_security_protocol": "security_protocol",
    "kafka_sasl_mechanism": "sasl_mechanism",
    "kafka_sasl_username": "sasl_plain_username",
    "kafka_sasl_password": "sasl_plain_password",
    "kafka_ssl_cafile": "ssl_cafile",
    "kafka_ssl_certfile": "ssl_certfile",
    "kafka_ssl_keyfile": "ssl_keyfile",
}


def made(kind: Callable[..., T], flags: dict[str, Any], **more: Any) -> T:
    """The settings of a type from flags and other fields.

    Raises:
        ConfigError: a value is wrong; names its flag.
    """
    return _by_flag(lambda: kind(**chosen(kind, flags), **more), flags)


def _by_flag(make: Callable[[], T], flags: dict[str, Any]) -> T:
    """What is made; in an error the names of fields become those of flags, which is what the user wrote."""
    try:
        return make()
    except ConfigError as error:
        text = _FIELD.sub(lambda found: flag_of(found[0]) if found[0] in flags else found[0], error.message)
        raise ConfigError(text) from None


def flag_of(name: str) -> str:
    """The flag that sets a field: `--http-port`."""
    return f"--{name.replace('_', '-')}"


def transport_settings(
    data_dir: Path | None = None, fsync: bool = False, bus_only: bool = False, **flags: Any
) -> TransportSettings:
    """The transport that `options.fleet_options` and `--data-dir` describe; other flags are ignored.

    Raises:
        ConfigError: the flags contradict each other.
    """
    if flags.get("kafka"):
        from protocol.runtime.outages import hush_unconfigured

        hush_unconfigured()
    security = {name: str(flags[flag]) for flag, name in _SECURITY.items() if flags.get(flag)}
    names = ("kafka", "redis", "prefix", "session_timeout", "result_ttl", "connect_timeout")
    chosen = {name: flags[name] for name in names if flags.get(name) is not None}
    return _by_flag(
        lambda: TransportSettings(data_dir=data_dir, fsync=fsync, kafka_security=security, bus_only=bus_only, **chosen),
        flags,
    )


def chosen(kind: Any, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that are fields of a settings type, as its constructor takes them."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in flags.items() if name in names and value is not None}
