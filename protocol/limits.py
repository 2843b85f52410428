"""Bounds of settings that several processes have. Pure."""

from __future__ import annotations

from typing import Final

from protocol.errors import ConfigError

MAX_SECONDS: Final = 1e9
"""Thirty years: timers, and Kafka and Redis in milliseconds, still accept it."""
MAX_PORT: Final = 65535
MAX_COUNT: Final = 2**31 - 1
"""Largest count of things, as in Kafka and in most thread pools. Byte limits may be larger."""


def require_seconds(name: str, value: float, *, zero: bool = False) -> None:
    """Check a duration of a setting.

    Raises:
        ConfigError: it is not a number, too small or too large.
    """
    _require(name, value, MAX_SECONDS, zero)


def require_count(name: str, value: int, *, zero: bool = False) -> None:
    """Check a number of things of a setting.

    Raises:
        ConfigError: it is too small or too large.
    """
    _require(name, value, MAX_COUNT, zero)


def require_share(name: str, value: float, most: float) -> None:
    """Check a part of a whole of a setting.

    Raises:
        ConfigError: it is not a number, negative or above `most`.
    """
    if not 0.0 <= value <= most:
        raise ConfigError(f"{name} is {value}; it must be between 0 and {most}")


def require_port(name: str, value: int | None) -> None:
    """Check a port of a setting; None is no port, and 0 a free one.

    Raises:
        ConfigError: there is no such port.
    """
    if value is not None and not 0 <= value <= MAX_PORT:
        raise ConfigError(f"{name} is {value}; a port is between 0 and {MAX_PORT}")


def require_tls(certificate: str, key: str, client_ca: str) -> None:
    """Check the PEM files of a server; "" for none.

    Raises:
        ConfigError: some are given without those that they need.
    """
    if bool(certificate) != bool(key):
        raise ConfigError("TLS needs both a certificate and a key")
    if client_ca and not certificate:
        raise ConfigError("client certificates need TLS: set --tls-certificate and --tls-key as well")


def _require(name: str, value: float, most: float, zero: bool) -> None:
    if zero and not value >= 0:
        raise ConfigError(f"{name} is {value}; it must not be negative")
    if not zero and not value > 0:
        raise ConfigError(f"{name} is {value}; it must be more than 0")
    if value > most:
        raise ConfigError(f"{name} is {value}; it must be at most {most:.0f}")
