"""How long at least one of several runs went on. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one span: their sum if none overlap, as on one instance.

    Args:
        spans: begin and end of each, in any order; one that ends before it begins covers nothing.
    """
    total, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        if end > max(begin, last):
            total += end - max(begin, last)
            last = end
    return total
