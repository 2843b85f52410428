"""Where aiokafka's fetch loop needs help to fetch at once. Its parts used here have no public names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup


class Busy(set[int]):
    """The brokers that a fetch is under way to; tells when one leaves."""

    def __init__(self, brokers: Iterable[int], on_free: Callable[[], None]) -> None:
        super().__init__(brokers)
        self._on_free = on_free

    def discard(self, element: object) -> None:
        """A fetch has ended."""
        super().discard(element)
        self._on_free()


def fetch_when_free(inner: AIOKafkaConsumer) -> None:
    """Have the fetch loop look what it can fetch whenever a broker is no longer busy.

    A broker stays on the list of the busy ones for a turn of the event loop after its fetch has ended. Where a seek, or records
    that were drained, wake the loop in that turn, it takes note of the fetch's end, finds the broker still busy, and nothing wakes
    it again: a member slept for `consumer_timeout_ms`, after one join in fifty.

    Args:
        inner: started.
    """
    fetcher: Any = inner._fetcher
    fetcher._in_flight = Busy(fetcher._in_flight, lambda: fetcher._notify(fetcher._wait_consume_future))


def give_up_fetches(client: AIOKafkaClient) -> None:
    """Close the connections on which a fetch waits for records; the next request opens them again.

    A broker answers a connection's requests in order, and nothing ends a fetch there but records or its time: the first fetch of
    partitions that a member has just been given would wait behind the last one of those that it had.
    """
    for (_, group), connection in tuple(client._conns.items()):
        if group is ConnectionGroup.DEFAULT and connection._requests:
            connection.close()
