"""Calls that arrive before their model: in the first seconds of a gateway they wait for it instead of being refused.

A gateway is ready before the workers of its fleet have announced their models, so an early call may name a model that is about to
appear. Later, a name that is not in the catalogue is wrong. Calls of a model that was evicted always wait: they load it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.admission.admission import Admission
from gateway.catalogue.catalogue import Catalogue
from protocol.errors import Unavailable

_LONGEST: Final = 0.5
"""Longest pause between two checks of the catalogue, in seconds."""


def wait_until(*, awaited: bool, now: float, began: float | None, model_wait: float, deadline: float) -> float | None:
    """Until when a call waits for its model; None if it does not wait.

    Args:
        awaited: the model may still appear: it is unknown or loading.
        began: when this gateway was first ready; None before that.
        model_wait: seconds after `began` for which calls wait.
        deadline: of the call.
    """
    until = min(deadline, (now if began is None else began) + model_wait)
    return until if awaited and now < until else None


class Arrivals:
    """Makes calls wait for models.

    Args:
        catalogue: of models.
        admission: waiting calls count as long polls.
        model_wait: seconds, from when this gateway is first ready, for which calls wait.
        clock: the fleet's.

    Attributes:
        wake: loads a model that was evicted; returns at once.
    """

    def __init__(
        self, catalogue: Catalogue, admission: Admission, model_wait: float, clock: Callable[[], float]
    ) -> None:
        self._catalogue = catalogue
        self._admission = admission
        self._model_wait = model_wait
        self._clock = clock
        self._began: float | None = None
        self._closed = False
        self._waiting: set[asyncio.Future[None]] = set()
        self.wake: Callable[[str], None] = lambda model: None

    def ready(self) -> None:
        """Note that this gateway is ready; only the first call counts."""
        if self._began is None:
            self._began = self._clock()

    def changed(self) -> None:
        """Wake the waiting calls: the catalogue has changed."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """End all waits: this gateway stops."""
        self._closed = True
        self.changed()

    def until(self, model: str, version: str, deadline: float) -> float | None:
        """See `wait_until`."""
        if self._catalogue.sleeping(model):
            return deadline if self._clock() < deadline else None
        awaited = self._catalogue.awaits(model, version)
        return wait_until(
            awaited=awaited, now=self._clock(), began=self._began, model_wait=self._model_wait, deadline=deadline
        )

    async def wait(self, model: str, version: str, deadline: float) -> None:
        """Return when the model is available, cannot appear any more, or the wait is over.

        Raises:
            Exhausted: too many calls wait.
            Unavailable: this gateway stops meanwhile.
        """
        if self.until(model, version, deadline) is None:
            return
        with self._admission.poll():
            while (until := self.until(model, version, deadline)) is not None:
                if self._closed:
                    raise Unavailable("Server is stopping before the model was available", retry_after=1.0)
                if self._catalogue.sleeping(model):
                    self.wake(model)
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.add(future)
                try:
                    await asyncio.wait([future], timeout=min(until - self._clock(), _LONGEST))
                finally:
                    self._waiting.discard(future)
