"""Takes aiokafka's warnings for signs that Kafka is away: it logs one every second, for each broker and each task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from protocol.runtime.outages import Server

LIBRARY: Final = "aiokafka"


def kafka_at(bootstrap: str) -> Server:
    """The cluster at these servers."""
    return Server("Kafka", bootstrap, "--kafka", (LIBRARY, "protocol.transport.kafka"))


class Warnings(logging.Handler):
    """Calls back at each of aiokafka's warnings while it is open."""

    def __init__(self, on_warning: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_warning = on_warning

    def open(self) -> None:
        """Add the handler."""
        logging.getLogger(LIBRARY).addHandler(self)

    def close(self) -> None:
        """Remove the handler."""
        logging.getLogger(LIBRARY).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """aiokafka has warned."""
        self._on_warning()
