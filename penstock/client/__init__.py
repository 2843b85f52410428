"""The client SDK: `Client` for scripts, `AsyncClient` for asyncio; both speak V2 over HTTP with binary tensors."""

from penstock.client.http import AsyncClient, Client
from penstock.client.requests import InferResult, Pending

__all__ = ["AsyncClient", "Client", "InferResult", "Pending"]
