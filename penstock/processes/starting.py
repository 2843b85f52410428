"""What a child gets first: settings as plain data. Pure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from gateway.settings import GatewaySettings
from protocol.naming import Names
from protocol.transport.settings import TransportSettings

T = TypeVar("T")


def start_message(settings: GatewaySettings, transport: TransportSettings, logs: tuple[str, str]) -> dict[str, Any]:
    """The first message to a child.

    Args:
        settings: of this child.
        transport: of the fleet, or of the process with the models, to which the child gets a socket.
        logs: format and level.
    """
    return {"gateway": _fields(settings), "transport": _fields(transport), "logs": logs}


def gateway_settings(message: dict[str, Any]) -> GatewaySettings:
    """The child's settings."""
    return _made(GatewaySettings, message["gateway"])


def fleet_settings(message: dict[str, Any]) -> TransportSettings:
    """The transport's."""
    return _made(TransportSettings, message["transport"])


def names(message: dict[str, Any]) -> Names:
    """Of topics and channels."""
    return Names(message["transport"]["prefix"])


def _fields(settings: Any) -> dict[str, Any]:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _made(kind: type[T], fields: dict[str, Any]) -> T:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
