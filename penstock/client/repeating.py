"""Makes failed calls again, with tenacity, as `retrying` decides.

A first attempt does not pass through tenacity, which costs more than the rest of a call.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying

from penstock.client.retrying import Attempts
from protocol.errors import FleetError

T = TypeVar("T")


class _Plan:
    """`Attempts` as tenacity asks for them."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._pause = 0.0

    def retry(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None:
            return False
        pause = self._attempts.pause(error, state.attempt_number, time.monotonic(), random.random())  # noqa: S311
        self._pause = pause or 0.0
        return pause is not None

    def wait(self, _: RetryCallState) -> float:
        return self._pause


def worth_repeating(attempts: Attempts, error: FleetError) -> bool:
    """Whether the first attempt's error leads to a second."""
    return attempts.pause(error, 1, time.monotonic(), 0.0) is not None


def repeat(attempts: Attempts, error: FleetError, attempt: Callable[[], T]) -> T:
    """Go on after a first attempt that failed with `error`.

    Raises:
        FleetError: of the last attempt.
    """
    plan, failed = _Plan(attempts), [error]

    def following() -> T:
        if failed:
            raise failed.pop()
        return attempt()

    return Retrying(retry=plan.retry, wait=plan.wait, reraise=True)(following)


async def repeat_async(attempts: Attempts, error: FleetError, attempt: Callable[[], Awaitable[T]]) -> T:
    """`repeat` on the event loop."""
    plan, failed = _Plan(attempts), [error]

    async def following() -> T:
        if failed:
            raise failed.pop()
        return await attempt()

    return await AsyncRetrying(retry=plan.retry, wait=plan.wait, sleep=asyncio.sleep, reraise=True)(following)
