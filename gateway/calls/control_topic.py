"""The control topic at a gateway: hands its records to those who follow them, and writes new ones.

Invariants: records are handed on in the topic's order, each to the handler of its key's prefix; a record that cannot be read is
reported and skipped; `write` returns once this gateway has followed its own record, so that its callers see what they wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from protocol.errors import FleetError, Unavailable
from protocol.naming import Names
from protocol.ports import Bus, OutRecord, Record

_READ_BACK: Final = 10.0
"""Seconds in which a written record must have been followed."""

Handler = Callable[[Record], None]
"""Raises `FleetError` if the record cannot be read."""


class ControlTopic:
    """The fleet's desired state, as records by key.

    Args:
        bus: carries the records.
        names: of the topic.

    Attributes:
        topic: its name.
    """

    def __init__(self, bus: Bus, names: Names) -> None:
        self.topic = names.control_topic
        self._bus = bus
        self._handlers: dict[bytes, Handler] = {}
        self._followed = -1
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def handle(self, prefix: str, handler: Handler) -> None:
        """From now on, `handler` gets the records whose keys begin with `prefix`."""
        self._handlers[prefix.encode()] = handler

    def apply(self, records: Iterable[Record]) -> list[str]:
        """Hand on records of the topic; returns a problem per record that cannot be read."""
        problems = []
        for record in records:
            try:
                for prefix, handler in self._handlers.items():
                    if (record.key or b"").startswith(prefix):
                        handler(record)
            except FleetError as error:
                problems.append(f"{record.topic} offset {record.offset}: {error.message}")
            self._followed = record.offset
        self._wake()
        return problems

    async def write(self, key: bytes, value: bytes) -> int:
        """Write a record; returns its offset, the generation, once this gateway has followed it.

        Raises:
            Unavailable: it was not acknowledged, and may or may not be in the topic; or it was not read back in time.
        """
        await self._bus.ensure_topic(self.topic, 1, compacted=True)
        published = await self._bus.publish(self.topic, [OutRecord(value, (), key)])
        if self._followed < published.offset:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (published.offset, future)
            self._waiting.append(waiter)
            try:
                async with asyncio.timeout(_READ_BACK):
                    await future
            except TimeoutError:
                raise Unavailable(
                    f"the change was written to {self.topic}, but this gateway has not read it back in {_READ_BACK:.0f} s; "
                    "ask for the state before you repeat it",
                    retry_after=1.0,
                ) from None
            finally:
                self._waiting.remove(waiter)
        return published.offset

    def _wake(self) -> None:
        for offset, future in self._waiting:
            if offset <= self._followed and not future.done():
                future.set_result(None)
