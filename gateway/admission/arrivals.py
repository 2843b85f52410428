"""Calls for models that are not there yet: in the first seconds of a gateway they wait for the model instead of being refused.

A gateway is ready before the workers of its fleet have announced anything, and after an outage at the start much earlier. Whoever
calls then names a model that will be there in a moment. Later the catalogue is what exists, and a name that it lacks is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.admission.admission import Admission
from gateway.catalogue.catalogue import Catalogue

_LONGEST: Final = 0.5
"""Seconds between two looks, whatever happens meanwhile."""


def wait_until(*, awaited: bool, now: float, began: float | None, patience: float, deadline: float) -> float | None:
    """Until when a call waits for its model; None where it does not wait. Pure.

    Args:
        awaited: the model may come: nothing is known of it, or it is being loaded.
        began: when this gateway was ready for the first time; None where it has not been.
        patience: seconds after that.
        deadline: of the call.
    """
    until = min(deadline, (now if began is None else began) + patience)
    return until if awaited and now < until else None


class Arrivals:
    """Lets calls wait for models.

    Args:
        catalogue: what exists.
        admission: those who wait count as long polls.
        patience: seconds for which they may, from the moment when this gateway is ready for the first time.
        clock: the fleet's.
    """

    def __init__(self, catalogue: Catalogue, admission: Admission, patience: float, clock: Callable[[], float]) -> None:
        self._catalogue = catalogue
        self._admission = admission
        self._patience = patience
        self._clock = clock
        self._began: float | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    def ready(self) -> None:
        """This gateway is ready; only the first time counts."""
        if self._began is None:
            self._began = self._clock()

    def changed(self) -> None:
        """Something was announced."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def until(self, model: str, version: str, deadline: float) -> float | None:
        """See `wait_until`."""
        awaited = self._catalogue.awaits(model, version)
        return wait_until(
            awaited=awaited, now=self._clock(), began=self._began, patience=self._patience, deadline=deadline
        )

    async def wait(self, model: str, version: str, deadline: float) -> None:
        """Return when the model is there, will not come, or has been waited for long enough.

        Raises:
            Exhausted: too many calls wait already.
        """
        if self.until(model, version, deadline) is None:
            return
        with self._admission.poll():
            while (until := self.until(model, version, deadline)) is not None:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.add(future)
                try:
                    await asyncio.wait([future], timeout=min(until - self._clock(), _LONGEST))
                finally:
                    self._waiting.discard(future)
