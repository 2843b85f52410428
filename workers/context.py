"""What the parts of one worker share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from protocol.naming import Names
from protocol.ports import Bus, Results
from workers.patience import Patience


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The worker's identity and its ways out.

    Attributes:
        worker: its id, also its `group.instance.id`.
        names: under the fleet's prefix.
        clock: seconds on the fleet's clock; called from any thread.
        bus, results: open.
        patience: for calls that must succeed in the end.
        fence_ttl: seconds that a plain call's fence outlives its answer.
    """

    worker: str
    names: Names
    clock: Callable[[], float]
    bus: Bus
    results: Results
    patience: Patience
    fence_ttl: float
