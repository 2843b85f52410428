"""When a request is too late. Pure.

Every place that drops a request for its deadline calls this: the queue, the batch that is formed, the instance before it runs,
and the gateway that waits. Times are seconds on the fleet's clock (`protocol.runtime.clock`).
"""

from __future__ import annotations


def too_late(deadline: float | None, now: float) -> bool:
    """Whether the deadline has passed; at the deadline itself it has. Without a deadline (None or infinite) it never has."""
    return deadline is not None and deadline <= now
