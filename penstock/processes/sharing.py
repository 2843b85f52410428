"""What a client sets in one acceptor process and expects of the whole gateway: shared memory regions, and the settings of the log.

Each region is a value of its own, so that two clients who register through two processes at the same time do not undo each other.
Another process knows of a change within milliseconds, not at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import structlog

from gateway.calls.service import Service
from gateway.shared_memory.regions import Region
from penstock.processes.channel import ProcessChannel
from protocol.errors import FleetError
from protocol.frames import pack, unpack

_REGION: Final = "region/"
_LOG: Final = "log"
_FIXED: Final = frozenset({"log_file"})
"""Settings of the log that no client can change."""

log = structlog.get_logger(__name__)


class Sharing:
    """Keeps one process's settings equal to its siblings'.

    Args:
        service: of this process.
        siblings: the way to the others.
    """

    def __init__(self, service: Service, siblings: ProcessChannel) -> None:
        self._service = service
        self._siblings = siblings
        self._regions: dict[str, Region] = {}
        self._set_log = service.log_settings.on_change
        service.regions.on_change = self._regions_changed
        service.log_settings.on_change = self._log_changed
        siblings.on_message(self._received)

    def _regions_changed(self, regions: list[Region]) -> None:
        now = {region.name: region for region in regions}
        for name in self._regions.keys() - now.keys():
            self._siblings.publish(_REGION + name, b"")
        for name, region in now.items():
            if self._regions.get(name) != region:
                self._siblings.publish(_REGION + name, pack(dataclasses.astuple(region)))
        self._regions = now

    def _log_changed(self, settings: dict[str, Any]) -> None:
        if self._set_log is not None:
            self._set_log(settings)
        shared = {name: value for name, value in settings.items() if name not in _FIXED}
        self._siblings.publish(_LOG, pack(shared))

    def _received(self, key: str, value: bytes) -> None:
        """Take over what a sibling says."""
        if key.startswith(_REGION):
            name = key.removeprefix(_REGION)
            if value:
                self._regions[name] = Region(*unpack(value))
            else:
                self._regions.pop(name, None)
            self._service.regions.replace(self._regions.values())
        elif key == _LOG:
            self._quietly(lambda: self._service.log_settings.update(unpack(value)))

    def _quietly(self, change: Callable[[], object]) -> None:
        """Make a change without telling the others, who know it."""
        settings = self._service.log_settings
        settings.on_change = self._set_log
        try:
            change()
        except FleetError as error:
            log.warning("a setting of another process of this gateway cannot be taken over", error=error.message)
        finally:
            settings.on_change = self._log_changed
