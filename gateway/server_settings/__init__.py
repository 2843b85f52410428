"""Triton's trace and log settings: what they say, and which changes are taken. Pure.

Decided here: which values are valid, and how a model's trace settings override the server's. Whoever owns the objects makes the
changes real: `LogSettings.on_change` sets the levels that the process logs. Imports nothing of `gateway`.
"""

from gateway.server_settings.log import LogSettings
from gateway.server_settings.trace import TraceSettings

__all__ = ["LogSettings", "TraceSettings"]
