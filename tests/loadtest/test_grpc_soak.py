"""A short run of the soak; `python -m loadtest.grpc_soak` is the long one."""

from __future__ import annotations

import pytest

from loadtest import grpc_soak


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_cancelled_streams_leave_no_memory_behind() -> None:
    outcome = await grpc_soak.soak(6.0)
    assert outcome.cancelled > 20
    assert outcome.answers > outcome.streams
    assert outcome.growth_mib < grpc_soak.ALLOWED_MIB
