"""Whether a gateway serves gRPC, and where: `--grpc-port`.

Without the flag, gRPC is served if it can be: gateways that share a machine may know nothing of port 8001. So a default that
cannot be used is a line in the log, and a port that was asked for is an error.
"""

from __future__ import annotations

from typing import Any, Final

import click
import structlog

from protocol.errors import ConfigError

DEFAULT: Final = 8001
OFF: Final = "off"

_log = structlog.get_logger("penstock")


class GrpcPortType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    """A port, or `off`."""

    name = "integer|off"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The port's number, or "off"."""
        if value == OFF:
            return OFF
        try:
            return int(value)
        except ValueError:
            self.fail(f"'{value}' is neither a port nor '{OFF}'", param, ctx)


def choose(flags: dict[str, Any]) -> None:
    """Replace the flag's value by the port, or None for no gRPC."""
    given = flags["grpc_port"]
    flags["grpc_port"] = None if given == OFF else _default(flags) if given is None else given


def _default(flags: dict[str, Any]) -> int | None:
    from gateway.rest.listening import bind

    if DEFAULT in (flags["http_port"], flags["metrics_port"]):
        _log.warning(f"gRPC is off: port {DEFAULT} is another one's of this gateway; choose another with --grpc-port")
        return None
    try:
        bind(flags["host"], DEFAULT).close()
    except ConfigError:
        _log.warning(f"gRPC is off: port {DEFAULT} is taken; choose another with --grpc-port")
        return None
    return DEFAULT
