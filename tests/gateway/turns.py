"""Runs turns of the event loop, without a clock."""

from __future__ import annotations

import asyncio


async def turns(count: int = 5) -> None:
    """Let the event loop run some turns."""
    for _ in range(count):
        gone_round = asyncio.Event()
        asyncio.get_running_loop().call_soon(gone_round.set)
        await gone_round.wait()
