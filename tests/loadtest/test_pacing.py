from __future__ import annotations

import asyncio
import time

from loadtest.pacing import Alarm


async def test_it_rings_once_and_not_too_early() -> None:
    rung: list[float] = []
    alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(time.perf_counter()))
    begin = time.perf_counter()
    alarm.set(0.02)
    await _until(lambda: time.perf_counter() > begin + 0.06)
    alarm.close()
    assert len(rung) == 1
    assert rung[0] >= begin + 0.02


async def test_it_can_be_set_again_from_its_own_callback() -> None:
    count = 0
    done = asyncio.Event()

    def ring() -> None:
        nonlocal count
        count += 1
        alarm.set(-1.0 if count < 50 else 10.0)  # an overdue alarm rings at once
        if count == 50:
            done.set()

    alarm = Alarm(asyncio.get_running_loop(), ring)
    alarm.set(0.0)
    await asyncio.wait_for(done.wait(), 5)
    alarm.close()


async def test_a_later_set_replaces_an_earlier_one_and_close_silences() -> None:
    rung = 0

    def ring() -> None:
        nonlocal rung
        rung += 1

    alarm = Alarm(asyncio.get_running_loop(), ring)
    alarm.set(0.001)
    alarm.set(60.0)
    begin = time.perf_counter()
    await _until(lambda: time.perf_counter() > begin + 0.02)
    alarm.set(0.005)
    alarm.close()
    await _until(lambda: time.perf_counter() > begin + 0.05)
    assert rung == 0


async def _until(condition: object) -> None:
    """Run the loop until then."""
    assert callable(condition)
    loop = asyncio.get_running_loop()
    while not condition():
        tick = loop.create_future()
        loop.call_later(0.001, tick.set_result, None)
        await tick
