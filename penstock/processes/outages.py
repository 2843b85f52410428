"""Outages of a server that several processes see: one of them speaks for all."""

from __future__ import annotations

import logging
from collections.abc import Callable

from protocol.runtime.outages import log


class Outages:
    """Decides, in the parent, which lines of its children are written: those of the first child that saw the outage, and the line
    of the last one for which the server answers again."""

    def __init__(self) -> None:
        self._away: dict[str, list[int]] = {}

    def written(self, number: int, server: str, *, away: bool) -> bool:
        """Whether a child's line about a server is written.

        Args:
            number: the child's.
            server: by name.
            away: whether the server is, for this child.
        """
        seen = self._away.setdefault(server, [])
        if away:
            if number not in seen:
                seen.append(number)
            return seen[0] == number
        self._forget(server, number)
        return not seen

    def died(self, number: int) -> None:
        """The child sees nothing any more."""
        for server in self._away:
            self._forget(server, number)

    def _forget(self, server: str, number: int) -> None:
        if number in self._away[server]:
            self._away[server].remove(number)


class ToParent(logging.Handler):
    """Sends the lines about outages to the parent, in place of writing them.

    Args:
        send: sends a message.
    """

    def __init__(self, send: Callable[[str, object], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send it; a line without an outage is about a fault of ours, and is written here."""
        outage = getattr(record, "outage", None)
        if outage is None:
            logging.getLogger().handle(record)
        else:
            self._send("outage", (*outage, record.levelno, record.getMessage()))


def tell_parent(send: Callable[[str, object], None]) -> None:
    """From now on this process writes no line about an outage; its parent does."""
    log.handlers[:] = [ToParent(send)]
    log.propagate = False
