"""Many calls with bounded memory: a window of calls moves over an iterable of any length."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Generic, TypeVar

from penstock.client.requests import InferResult
from protocol.errors import FleetError, InvalidArgument, described

T = TypeVar("T")

AHEAD: Final = 4
"""In order, at most so many times `concurrency` calls are done or running and not yet yielded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one of many calls: a result or an error.

    Attributes:
        index: of the input, from 0.
        item: the input.
    """

    index: int
    item: T
    result: InferResult | None = None
    error: FleetError | None = None

    def unwrap(self) -> InferResult:
        """The result.

        Raises:
            FleetError: the call's error.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far many calls are.

    Attributes:
        done: calls that have ended, those that failed included.
        seconds: since the first began.
    """

    done: int
    failed: int
    in_flight: int
    seconds: float


async def outcomes(
    items: Iterable[T] | AsyncIterable[T],
    call: Callable[[int, T], Awaitable[InferResult]],
    *,
    concurrency: int,
    ordered: bool,
    on_progress: Callable[[Progress], None] | None = None,
) -> AsyncGenerator[Outcome[T], None]:
    """The outcome of `call(index, item)` for every item, `concurrency` at once; in the items' order, or as they come.

    A `FleetError` becomes an outcome. If `items` raises, the outcomes of the items before are yielded, then its error is raised.
    Leaving the loop early cancels the calls in flight.
    """
    if concurrency < 1:
        raise InvalidArgument(f"concurrency must be at least 1, not {concurrency}")
    window = _Window(call, concurrency, AHEAD * concurrency if ordered else concurrency)
    feeding = asyncio.get_running_loop().create_task(window.feed(_iterator(items)))
    try:
        while ready := await window.take(ordered):
            if on_progress is not None:
                on_progress(window.progress())
            for outcome in ready:
                yield outcome
                window.taken()
    finally:
        feeding.cancel()
        await window.cancel(feeding)
    if window.error is not None:
        raise window.error


def _iterator(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    return aiter(items) if isinstance(items, AsyncIterable) else _each(items)


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


class _Window(Generic[T]):
    """Calls between the item that was read last and the outcome that was yielded last.

    Attributes:
        error: of the items, or a call's that is not a `FleetError`; it ends the reading.
    """

    def __init__(self, call: Callable[[int, T], Awaitable[InferResult]], concurrency: int, most: int) -> None:
        self._call = call
        self._slots = asyncio.Semaphore(concurrency)
        self._room = asyncio.Semaphore(most)
        self._begun = time.monotonic()
        self._started = self._done = self._failed = self._following = 0
        self._ready: dict[int, Outcome[T]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._exhausted = False
        self.error: Exception | None = None

    async def feed(self, items: AsyncIterator[T]) -> None:
        """Start a call for every item, as there is room."""
        try:
            while self.error is None:
                await self._room.acquire()
                await self._slots.acquire()
                item = await anext(items)
                task = asyncio.get_running_loop().create_task(self._run(self._started, item))
                self._started += 1
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except StopAsyncIteration:
            pass
        except Exception as error:
            self.error = self.error or error
        finally:
            self._exhausted = True
            self._changed.set()

    async def _run(self, index: int, item: T) -> None:
        try:
            self._ready[index] = Outcome(index, item, await self._call(index, item))
        except FleetError as error:
            self._failed += 1
            self._ready[index] = Outcome(index, item, None, error)
        except Exception as error:
            self.error = self.error or error
            self._ready[index] = Outcome(index, item, None, FleetError(described(error)))
        self._done += 1
        self._slots.release()
        self._changed.set()

    async def take(self, ordered: bool) -> list[Outcome[T]]:
        """Outcomes to yield now; waits for one, and returns none at the end."""
        while not (ready := self._take(ordered)) and not (self._exhausted and self._started == self._done):
            self._changed.clear()
            await self._changed.wait()
        return ready

    def _take(self, ordered: bool) -> list[Outcome[T]]:
        if not ordered:
            ready, self._ready = list(self._ready.values()), {}
            return ready
        ready = []
        while self._following in self._ready:
            ready.append(self._ready.pop(self._following))
            self._following += 1
        return ready

    def taken(self) -> None:
        """One outcome was yielded: there is room for another call."""
        self._room.release()

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self._done, self._failed, self._started - self._done, time.monotonic() - self._begun)

    async def cancel(self, feeding: asyncio.Task[None]) -> None:
        """End what is in flight."""
        for task in self._running:
            task.cancel()
        await asyncio.wait({feeding, *self._running})
