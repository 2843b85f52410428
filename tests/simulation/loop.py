"""An event loop whose time is a number: it jumps to the next timer, and no thread, socket or real clock is used.

Invariants: everything that runs belongs to the process in whose context it was scheduled; a killed process runs nothing more, not
even a `finally`; the callbacks of a stopped one (SIGSTOP) wait, in order, until it continues. Two runs that make the same calls run
the same callbacks in the same order: tasks and futures are hashed by their number, not by their address.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Process:
    """The counterpart of a process of the operating system.

    Attributes:
        alive: false from `kill -9` on.
        paused: between SIGSTOP and SIGCONT.
        cut: servers ("kafka", "redis") that it cannot reach.
        context: everything started in it is of this process.
    """

    def __init__(self, name: str, skew: float = 0.0) -> None:
        self.name = name
        self.skew = skew
        self.alive = True
        self.paused = False
        self.cut: set[str] = set()
        self.parked: list[asyncio.Handle] = []
        self.on_death: list[Callable[[], None]] = []
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return self.name


PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
OUTSIDE = contextvars.Context()
"""The servers and the network: never killed."""


class _Numbered:
    _numbers = itertools.count()

    def __hash__(self) -> int:
        try:
            return self._number  # type: ignore[has-type]
        except AttributeError:
            self._number = next(_Numbered._numbers)
            return self._number


class SimTask(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    __hash__ = _Numbered.__hash__
    _log_destroy_pending = False


class SimFuture(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    __hash__ = _Numbered.__hash__


class Stuck(AssertionError):
    """Nothing is left to run, or too much has run."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module.

    Attributes:
        now: seconds since the start of the simulation.
        steps: callbacks run.
        max_steps: above it the simulation is assumed to loop.
        errors: passed to the loop's exception handler.
    """

    def __init__(self, max_steps: int = 300_000) -> None:
        super().__init__()
        _Numbered._numbers = itertools.count()
        self.now = 0.0
        self.steps = 0
        self.max_steps = max_steps
        self.errors: list[str] = []
        self._all: list[SimTask] = []
        self._heap: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        return self.now

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    # --- asyncio's interface ---

    def create_future(self) -> SimFuture:
        return SimFuture(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> SimTask:  # type: ignore[override]
        task = SimTask(coro, loop=self, name=name, context=context)
        self._all.append(task)  # kept: a collected coroutine would run its `finally` at any time
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._heap, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is skipped when its time comes

    def _run_once(self) -> None:
        ready, heap = self._ready, self._heap  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while heap and heap[0][2]._cancelled:
                heapq.heappop(heap)
            if not heap:
                raise Stuck(f"nothing is left to run at {self.now:.3f} s")
            self.now = max(self.now, heap[0][0])
        while heap and heap[0][0] <= self.now:
            ready.append(heapq.heappop(heap)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled and self._may_run(handle):
                handle._run()
                self.steps += 1
        if self.steps > self.max_steps:
            raise Stuck(f"{self.steps} callbacks were run by {self.now:.3f} s")

    def _may_run(self, handle: asyncio.Handle) -> bool:
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None:
            return True
        if process.alive and process.paused:
            process.parked.append(handle)
        return process.alive and not process.paused

    def run_until_complete(self, future: Any) -> Any:
        """Without asyncio's clean-up after exceptions, which a simulation does in `close`."""
        task = self.create_task(future)
        task.add_done_callback(lambda _: self.stop(), context=OUTSIDE)
        self.run_forever()
        return task.result()

    def close(self) -> None:
        """End every remaining coroutine without running it."""
        self.call_soon = self._drop  # type: ignore[method-assign,assignment]
        self.call_at = self._drop  # type: ignore[method-assign,assignment]
        self.call_soon_threadsafe = self._drop  # type: ignore[method-assign,assignment]
        self.create_task = self._refuse  # type: ignore[method-assign,assignment]
        asyncio._set_running_loop(self)
        try:
            for task in self._all:
                if not task.done():
                    _end(task.get_coro())
                    task.cancel()
                elif not task.cancelled():
                    task.exception()
        finally:
            asyncio._set_running_loop(None)
        self._all.clear()
        self._heap.clear()
        super().close()

    def _drop(self, *args: Any, **options: Any) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(self.now, _nothing, (), self)

    def _refuse(self, coro: Any, **options: Any) -> SimFuture:
        coro.close()
        return self.create_future()

    # --- processes ---

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Start a task of a process."""
        return self.create_task(coroutine, name=name or process.name, context=process.context.copy())

    def kill(self, process: Process) -> None:
        """`kill -9`."""
        if process.alive:
            process.alive = False
            process.parked.clear()
            for listener in process.on_death:
                self.call_soon(listener, context=OUTSIDE)

    def resume(self, process: Process) -> None:
        """SIGCONT."""
        process.paused = False
        parked, process.parked = process.parked, []
        self._ready.extend(parked)  # type: ignore[attr-defined]


def _end(coroutine: Any) -> None:
    for _ in range(5):
        try:
            coroutine.close()
        except RuntimeError:  # it awaited once more
            continue
        except BaseException:
            return
        return


def _nothing() -> None:
    pass
