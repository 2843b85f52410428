from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.gateway.fleet import Site, site


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """These tests run on the loop that gateways run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def fleet() -> AsyncIterator[Site]:
    """A broker and a store in memory, on which tests start gateways and workers."""
    async with site() as made:
        yield made
