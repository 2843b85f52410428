"""The Python client: `Client` for scripts, `AsyncClient` for asyncio; both speak V2 over HTTP with binary tensors.

Decided here: what a request and an answer look like over HTTP (`requests`, without I/O), how JSON values become arrays (`values`),
and how connections are kept (`http`). Interface: the names below, and `requests` for tools with their own I/O. It imports only
`protocol`.
"""

from penstock.client.http import AsyncClient, Client
from penstock.client.requests import InferResult, Pending

__all__ = ["AsyncClient", "Client", "InferResult", "Pending"]
