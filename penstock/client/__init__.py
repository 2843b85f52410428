"""The Python client: `Client` for scripts, `AsyncClient` for asyncio; both speak V2 over HTTP with binary tensors.

Decided here: what a request and an answer look like over HTTP (`requests`, without I/O), how JSON values become arrays (`values`),
what a URL and the environment's proxies mean (`addresses`, `environment`), which failed call is made again (`retrying`), how
HTTP/1.1 is spoken (`exchange`, without I/O) and connections are kept (`blocking_connections`, `async_connections`), and how many
calls pass through a window of bounded memory (`windows`). Interface: the names below, and `requests` for tools with their own I/O.
It imports only `protocol`.
"""

from penstock.client.asynchronous import AsyncClient
from penstock.client.blocking import Client
from penstock.client.requests import InferResult, Pending
from penstock.client.windows import Outcome, Progress

__all__ = ["AsyncClient", "Client", "InferResult", "Outcome", "Pending", "Progress"]
