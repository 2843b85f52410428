"""Runs a batch job in the foreground: its signals, its progress on the screen, and its exit code."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from penstock.batch.backends import Backend
from penstock.batch.begin import Begin
from penstock.batch.progress import Progress
from penstock.cli import interrupts
from protocol.errors import FleetError

if TYPE_CHECKING:
    from penstock.batch.driver import Outcome, Stop

T = TypeVar("T")

SOME_FAILED: Final = 12
"""Exit code: the job is done, and some lines have an error instead of an answer."""
GOES_ON: Final = "the same command goes on where it stopped"
_CANCELLED: Final = 9
_STOPPED: Final = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Shown:
    """Prints progress: a bar on a terminal, JSON lines for machines.

    Args:
        name: of the job.
        as_json: for machines.
        aside: standard output is the job's.
    """

    def __init__(self, name: str, *, as_json: bool, aside: bool) -> None:
        self._name, self._json = name, as_json
        self._out = sys.stderr if aside or not as_json else sys.stdout
        self._bar = not as_json and sys.stderr.isatty()

    def progress(self, progress: Progress) -> None:
        """Show how far it is."""
        if self._json:
            self._print({"job": self._name, "state": "running"} | progress.document())
        elif self._bar:
            width = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{progress.bar(width - 1)}", end="", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Tell the user something."""
        if self._json:
            self._print({"job": self._name, "note": text})
        else:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    def end(self, answered: int, failed: int, state: str, progress: Progress | None = None) -> None:
        """Show how it ended."""
        if self._json:
            counts = progress.document() if progress else {"answered": answered, "failed": failed}
            self._print({"job": self._name, "state": state} | counts)
            return
        self._clear()
        took = f" in {progress.seconds:.1f} s" if progress else ""
        print(
            f"job {self._name} {state}: {answered:,} lines answered, {failed:,} failed{took}",
            file=sys.stderr,
            flush=True,
        )

    def _clear(self) -> None:
        if self._bar:
            print("\r\x1b[K", end="", file=sys.stderr)

    def _print(self, document: dict[str, Any]) -> None:
        print(orjson.dumps(document).decode(), file=self._out, flush=True)


async def submit_job(begin: Begin, backend: Backend, shown: Shown) -> int:
    """Run a job, or say that it is done already; returns the exit code.

    Raises:
        FleetError: as the backend; or the job is done and its output is gone.
    """
    if begin.saved.end == "done" and not begin.fresh:
        return _already(begin, shown)
    return await run_job(begin, backend, shown)


def _already(begin: Begin, shown: Shown) -> int:
    saved, target = begin.saved, begin.request.target
    if target != "-" and not Path(target).is_file():
        raise FleetError(
            f"job '{begin.folder.name}' is done, but its output '{target}' is gone; penstock batch results writes it again, or "
            "--force runs the job again"
        )
    shown.end(saved.answered, saved.failed, "done already")
    return SOME_FAILED if saved.failed else 0


async def run_job(begin: Begin, backend: Backend, shown: Shown, *, collects: bool = False) -> int:
    """Run a job until it ends or a signal comes; returns the exit code.

    Args:
        begin: the job.
        backend: the way to the fleet.
        shown: what the user sees.
        collects: only collect answers of what is in the log.

    Raises:
        FleetError: as the backend.
    """
    from penstock.batch.driver import Stop

    stop, got = Stop(), []

    def on_signal(number: signal.Signals) -> None:
        interrupts.begin(number, GOES_ON)
        got.append(number)
        stop.ask()

    loop = asyncio.get_running_loop()
    for number in _STOPPED:
        loop.add_signal_handler(number, on_signal, number)
    try:
        outcome = await _outcome(begin, backend, shown, stop, collects=collects)
    except _Stopped:  # without a signal of ours if Ctrl-C came before the handlers: asyncio cancels the task
        shown.note("interrupted before anything was sent")
        return _STOPPED[got[-1] if got else signal.SIGINT]
    finally:
        await backend.close()
        for number in _STOPPED:
            loop.remove_signal_handler(number)
    progress = outcome.progress
    shown.end(progress.answered, progress.failed, outcome.end or "stopped", progress)
    if not outcome.end:
        shown.note(GOES_ON)
        return _STOPPED[got[-1]] if got else 1
    if outcome.end == "cancelled":
        return _CANCELLED
    return SOME_FAILED if progress.failed else 0


async def _outcome(begin: Begin, backend: Backend, shown: Shown, stop: Stop, *, collects: bool) -> Outcome:
    """Find the model, open the input and run; raises `_Stopped` if a signal comes before that."""
    from penstock.batch.driver import Runner
    from penstock.batch.threads import apart

    await _or_stop(backend.open(), stop)
    version = begin.request.version or str(begin.saved.begin.get("version", ""))
    runner = Runner(begin, backend, await _or_stop(backend.find(begin.request.model, version), stop), collects=collects)
    try:
        unused = await _or_stop(apart(runner.open_input), stop)
        if unused:
            shown.note(f"columns that no input of the model needs: {', '.join(unused[:16])}")
        await _or_stop(runner.start(), stop)
        return await runner.run(stop, shown.progress)
    finally:
        runner.close()


class _Stopped(Exception):
    """It was interrupted before it began."""


async def _or_stop(work: Awaitable[T], stop: Stop) -> T:
    """The work's result, unless a signal comes first."""
    task = asyncio.ensure_future(work)
    stop.listeners.append(task.cancel)
    try:
        if stop.asked:
            task.cancel()
        return await task
    except asyncio.CancelledError:
        raise _Stopped from None
    finally:
        stop.listeners.remove(task.cancel)
