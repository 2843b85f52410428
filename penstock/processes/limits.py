"""What part of a gateway's limits each of its processes gets. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from gateway.settings import GatewaySettings
from protocol.errors import ConfigError

SHARED: Final = (
    "max_connections",
    "max_queued_calls",
    "max_queued_bytes",
    "max_long_polls",
    "max_queued_calls_per_model",
    "json_processes",
)
"""Settings that are limits of a gateway as a whole: the processes' parts add up to them."""
_AT_LEAST_ONE: Final = frozenset({"json_processes"})
"""Each process gets one of these, even if there are more processes."""


def share(total: int, processes: int, number: int) -> int:
    """The part of process `number`, from 0; all parts together are `total`, and no two differ by more than 1."""
    return total // processes + (number < total % processes)


def settings_of(settings: GatewaySettings, processes: int, number: int) -> GatewaySettings:
    """The settings of one process: its part of the limits, and no metrics port, which the parent has.

    Args:
        settings: of the gateway as a whole.
        processes: in all, at least 1.
        number: of this one, from 0.

    Raises:
        ConfigError: a limit is too small to be divided.
    """
    parts: dict[str, Any] = {}
    for name in SHARED:
        total = getattr(settings, name)
        part = share(total, processes, number)
        if name in _AT_LEAST_ONE:
            part = max(1, part)
        if total and not part:
            raise ConfigError(
                f"{name} is {total}; it is divided among {processes} processes, so it must be at least that"
            )
        parts[name] = part
    gateway = f"{settings.gateway}-{number}" if settings.gateway else ""
    return dataclasses.replace(settings, gateway=gateway, metrics_port=None, shared_ports=True, **parts)
