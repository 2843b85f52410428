"""The Python client: `Client` for scripts, `AsyncClient` for asyncio, over HTTP or gRPC; `BatchProducer` and `read_results` over
Kafka.

Decided here: what differs between the two protocols (`wires`), what a request and an answer look like over HTTP (`requests`,
without I/O) and over gRPC (`rpc_wire`, without I/O; `rpc_errors`; `rpc_channels` alone imports grpcio), how JSON values become
arrays (`values`), what an answer says about its times (`timing`), what a URL and the environment's proxies mean (`addresses`,
`environment`), which failed call is made again (`retrying`), how HTTP/1.1 is spoken (`exchange`, without I/O) and connections are
kept (`blocking_connections`, `async_connections`), how many calls pass through a window of bounded memory (`windows`), how batch
requests become records (`producing`), in which groups they are published (`outbox`), and how answers are read from a topic
(`reading`). Interface: the names below, and `requests` for tools with their own I/O. It imports only `protocol`; what needs Kafka
or grpcio is imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.client.asynchronous import AsyncClient
from penstock.client.blocking import Client
from penstock.client.requests import InferResult, Pending
from penstock.client.timing import Times
from penstock.client.windows import Outcome, Progress

if TYPE_CHECKING:
    from penstock.client.outbox import Delivery
    from penstock.client.producing import BatchProducer
    from penstock.client.reading import Answer, read_results

__all__ = [
    "Answer",
    "AsyncClient",
    "BatchProducer",
    "Client",
    "Delivery",
    "InferResult",
    "Outcome",
    "Pending",
    "Progress",
    "Times",
    "read_results",
]


def __getattr__(name: str) -> Any:
    """Import what needs Kafka on first use."""
    if name in ("BatchProducer", "Delivery"):
        from penstock.client import producing

        return getattr(producing, name)
    if name in ("Answer", "read_results"):
        from penstock.client import reading

        return getattr(reading, name)
    raise AttributeError(f"module 'penstock.client' has no attribute {name!r}")
