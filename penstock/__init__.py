"""Penstock: an inference worker fleet on a log. What a user types (`penstock.cli`) and imports (`Client`, `AsyncClient`,
`BatchProducer`, `read_results`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client import AsyncClient, BatchProducer, Client, read_results

__version__ = "0.1.0"
__all__ = ["AsyncClient", "BatchProducer", "Client", "__version__", "read_results"]


def __getattr__(name: str) -> Any:
    """Import the clients on first use: `penstock --version` should not wait for them."""
    if name in ("AsyncClient", "BatchProducer", "Client", "read_results"):
        return getattr(_clients(), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def _clients() -> Any:
    try:
        from penstock import client
    except ImportError:
        from penstock.packages import hidden

        if problem := hidden():
            raise ImportError(problem) from None
        raise
    return client
