"""Stop signals: how much time each leaves for work in flight."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from protocol.runtime import loop
from protocol.runtime.loop import QUICK, StopEvent, stop_signals, until


async def test_work_is_done_or_left_when_a_signal_comes_first() -> None:
    asked, left = StopEvent(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    assert await until(asked, asyncio.sleep(0))
    assert not await until(asked, work(), seconds=0.0)
    left.clear()
    asyncio.get_running_loop().call_soon(asked.set)
    assert not await until(asked, work())
    assert left.is_set()


async def test_an_error_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until(StopEvent(), fail())


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """Whatever runs the tests may have SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize(("number", "grace"), [(signal.SIGTERM, 30.0), (signal.SIGHUP, 30.0), (signal.SIGINT, QUICK)])
async def test_a_person_waits_less_long_than_a_manager(number: signal.Signals, grace: float) -> None:
    with stop_signals() as asked:
        os.kill(os.getpid(), number)
        await asked.wait()
        assert asked.number in (number, signal.SIGTERM)
        assert asked.grace(30.0) == grace
        assert asked.grace(0.5) == 0.5


@pytest.mark.parametrize(
    ("number", "ready", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 0)],
)
def test_what_cannot_be_interrupted_is_left_unless_it_may_still_answer(
    number: signal.Signals, ready: bool, code: int
) -> None:
    script = f"""
import asyncio, os, threading
from protocol.runtime import loop

async def main():
    with loop.stop_signals() as asked:
        asked.ready = {ready}
        os.kill(os.getpid(), {int(number)})
        await asked.wait()
        thread = threading.Thread(target=threading.Event().wait, args=(1.0,))  # nothing can end it
        thread.start()
        await asyncio.to_thread(thread.join)

loop.run(main(), 0.3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert ("without waiting for what still ran" in done.stderr) == (code != 0)


@pytest.mark.usefixtures("in_a_terminal")
def test_under_nohup_the_end_of_the_terminal_ends_nothing() -> None:
    assert loop.stopping()[signal.SIGHUP] == signal.SIGTERM

    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    assert set(loop.stopping()) == {signal.SIGTERM, signal.SIGINT}


async def _told(number: int) -> None:
    with loop.stop_signals() as asked:
        os.kill(os.getpid(), number)
        await asked.wait()


def test_a_process_is_ended_only_while_it_belongs_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs a fleet inside itself, as a test does, is not ended by a signal that it handles later."""
    ended: list[int] = []
    monkeypatch.setattr(loop, "_end", lambda seconds, number: ended.append(number))

    loop.run(asyncio.sleep(0))
    asyncio.run(_told(signal.SIGINT))

    assert ended == []
