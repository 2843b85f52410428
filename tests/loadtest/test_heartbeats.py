"""The benchmark of heartbeats, on a small fleet and a real Redis."""

from __future__ import annotations

import pytest

from loadtest.heartbeats import Fleet, measure, table


@pytest.mark.servers
async def test_a_small_fleet_is_measured(redis_url: str) -> None:
    busy, idle = Fleet(4, 6, 2, 1), Fleet(4, 6, 0, 1)
    costs, less = await measure(redis_url, busy, 1.0), await measure(redis_url, idle, 1.0)
    lines = table(busy, costs).splitlines()
    assert len(lines) == 7
    assert "4 workers, 6 models, 2 busy, 1 gateways" in lines[0]
    assert min(costs.written, costs.read, costs.supervisor, costs.writer, costs.gateway, costs.routing) > 0
    assert less.routing < costs.routing
