"""From zero workers to the first answer: how long until the scaler says so, and what the rest is made of."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Final

from infra.local.scaler import PushSignal, Workers
from loadtest.scaling.bench import PATIENCE, Bench, until
from loadtest.scaling.results import Wake
from loadtest.systems import ask
from loadtest.waiting import MODEL
from protocol.errors import FleetError, Unavailable

WINDOW: Final = 0.2
"""Seconds after which the scaler lets the worker go."""
PUSHED_WITHIN: Final = 30.0


async def wakes(running: Bench, count: int, say: Callable[[str], None]) -> list[Wake]:
    """So many ways from zero workers to one and back; the model is announced already.

    Raises:
        FleetError: no push came, or the answer was wrong.
    """
    found = []
    workers = Workers(running.make_worker)
    async with PushSignal(running.scaler, MODEL, scaleDownWindowSeconds=str(WINDOW)) as signal:
        try:
            for _ in range(count):
                asleep = functools.partial(_is_asleep, running, signal)
                await until(asleep, 60.0, "the fleet to have no worker and nothing to do", running.state)
                found.append(await _wake(running, workers, signal))
                workers.scale(0)
                await workers.settle()
        finally:
            await workers.close()
    pushes = ", ".join(f"{wake.push * 1e3:.0f}" for wake in found)
    say(f"from zero: pushed after {pushes} ms; answered after {', '.join(f'{wake.answer:.1f}' for wake in found)} s")
    return found


def _is_asleep(running: Bench, signal: PushSignal) -> bool:
    """What the stream says when it is opened must have come, or it would count as the push."""
    return signal.pushed > 0 and not signal.active and running.state()["ready_workers"] == 0


async def _wake(running: Bench, workers: Workers, signal: PushSignal) -> Wake:
    pool, sent = running.pool, time.perf_counter()
    headers = {**pool.headers, "penstock-timeout-ms": str(int(PATIENCE * 1e3))}
    asked = asyncio.create_task(
        asyncio.to_thread(ask, running.address, "POST", running.address.path, pool.bodies[0], headers)
    )
    while not signal.active:
        if time.perf_counter() - sent > PUSHED_WITHIN:
            raise Unavailable(f"the scaler pushed nothing within {PUSHED_WITHIN:.0f} s")
        await signal.change(1.0)
    pushed = signal.pushed
    workers.scale(1)
    status, body = await asked
    answered = time.perf_counter()
    if status != 200 or not pool.is_right(0, body):
        raise FleetError(f"{MODEL} answered {status}: {body[:300].decode(errors='replace')}")
    await workers.settle()
    (worker,) = workers.alive
    assert worker.ready is not None
    return Wake(pushed - sent, answered - sent, worker.ready - worker.started)
