"""Whether an instance says that it is ready: a model's own `is_ready`, asked once a second on a thread of its own.

Invariants: a check that hangs delays no batch, and counts as "not ready" after `TIMEOUT` seconds; of several threads one writes a
`Readiness` and any may read it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from protocol.texts import shortened
from workers.backends.tracebacks import text_of

INTERVAL: Final = 1.0
"""Seconds between two checks."""
TIMEOUT: Final = 5.0
"""Seconds that a check may take, as in Triton."""
MAX_LINE: Final = 64 * 1024
"""Bytes of one report of a child."""

Check = Callable[[], object]
"""A model's `is_ready`."""


class Readiness:
    """What the check of one instance said last.

    Args:
        model: the model's name, for the texts.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._reason = ""
        self._began: float | None = None
        self._answered = threading.Event()

    def began(self) -> None:
        """A check begins."""
        self._began = time.monotonic()

    def ended(self, reason: str) -> None:
        """A check ended; "" if the model is ready."""
        self._reason = shortened(reason)
        self._began = None
        self._answered.set()

    def await_first(self) -> None:
        """Wait for the first answer, at most `TIMEOUT` seconds; not on the event loop."""
        self._answered.wait(TIMEOUT)

    def problem(self) -> str:
        """Why the instance is not ready; "" if it is."""
        began = self._began
        if began is not None and time.monotonic() - began > TIMEOUT:
            return f"is_ready() of model '{self._model}' timed out after {TIMEOUT:.0f} seconds"
        return self._reason


class ReadyWatch:
    """Asks the check until it is stopped or its process ends; the first time at once.

    Args:
        check: the model's `is_ready`, sync or async.
        model: the model's name, for the texts.
        began: called before each check.
        ended: called after it with the reason why the model is not ready, or "".
    """

    def __init__(self, check: Check, model: str, began: Callable[[], None], ended: Callable[[str], None]) -> None:
        self._check, self._model = check, model
        self._began, self._ended = began, ended
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="is_ready", daemon=True).start()

    def stop(self) -> None:
        """Ask no more; a check that runs may still end."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            self._began()
            self._ended(ask(self._check, self._model))
            if self._stopped.wait(INTERVAL):
                return


def ask(check: Check, model: str) -> str:
    """Why the model is not ready, in Triton's words; "" if it is."""
    try:
        answer = check()
        if inspect.isawaitable(answer):
            answer = asyncio.run(_awaited(answer))
    except TimeoutError:
        return f"is_ready() of model '{model}' timed out after {TIMEOUT:.0f} seconds"
    except (Exception, SystemExit, KeyboardInterrupt) as exc:
        return f"is_ready() of model '{model}' failed: {text_of(exc)}"
    if not isinstance(answer, bool):
        return f"is_ready() must return a boolean value, and that of model '{model}' returned {type(answer).__name__}"
    return "" if answer else f"Model '{model}' is not ready (user-defined check failed)."


async def _awaited(answer: object) -> object:
    async with asyncio.timeout(TIMEOUT):
        return await answer  # type: ignore[misc]  # isawaitable said so


# --- across a pipe -------------------------------------------------------------------------------------------------------


def report_through(descriptor: int, check: Check, model: str) -> None:
    """In a child: ask the check from now on, and write a line before and after each time."""
    stream = os.fdopen(descriptor, "wb", buffering=0)

    def write(line: str) -> None:
        try:
            stream.write(line.encode() + b"\n")
        except OSError:
            watch.stop()  # the worker reads no more

    watch = ReadyWatch(
        check, model, lambda: write(""), lambda reason: write(json.dumps(shortened(reason), ensure_ascii=False))
    )


def read_reports(descriptor: int, readiness: Readiness) -> None:
    """In the worker: read what `report_through` writes, on a thread that ends with the child."""

    def read() -> None:
        with os.fdopen(descriptor, "rb") as stream:
            while line := stream.readline(MAX_LINE):
                _take(line, readiness)

    threading.Thread(target=read, name="is_ready", daemon=True).start()


def _take(line: bytes, readiness: Readiness) -> None:
    if not line.strip():
        readiness.began()
        return
    try:
        reason = json.loads(line)
    except ValueError:
        reason = None
    readiness.ended(reason if isinstance(reason, str) else "is_ready() reported something that is not text")
