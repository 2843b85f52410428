"""Inflates bodies off the event loop: in steps, a few bodies at once, the bytes of each step counted first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.rest.compression import Inflation
from protocol.tensors import Buffer

ON_LOOP: Final = 64 * 1024
"""Bodies up to this many bytes are inflated on the event loop; it takes a fifth of a millisecond."""
STEP: Final = 1024 * 1024
AT_ONCE: Final = 2
"""Bodies inflated at the same time, in threads; zlib releases the GIL."""


class Inflater:
    """Inflates bodies."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._loop = asyncio.get_running_loop()

    async def inflate(
        self, body: Buffer | bytearray, encoding: str, limit: int, reserve: Callable[[int], None]
    ) -> bytearray:
        """Inflate a body.

        Args:
            body: as received.
            encoding: the value of `Content-Encoding`.
            limit: largest inflated size in bytes.
            reserve: counts this many bytes in all; raises if there is no room.

        Raises:
            FleetError: as `Inflation` and `reserve`.
        """
        inflation = Inflation(body, encoding, limit)
        if len(body) <= ON_LOOP:
            inflation.step(ON_LOOP)
        if not inflation.done:
            async with self._turns:
                while not inflation.done:
                    reserve(len(body) + min(len(inflation.raw) + STEP, limit + 1))
                    await self._loop.run_in_executor(None, inflation.step, STEP)
        reserve(len(inflation.raw))
        return inflation.raw
