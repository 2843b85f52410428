"""How long batches take: measured seconds per row, by shape class and batch size. Pure."""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.2
"""Weight of the newest batch in the moving average."""
MAX_KEYS: Final = 64
"""Pairs of shape class and size that are kept; a model with variable sizes has any number."""


class LatencyModel:
    """An exponentially weighted average per shape class and batch size (rounded up to a power of two)."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[tuple[object, int], float] = {}

    def observe(self, shape_class: object, rows: int, seconds: float) -> None:
        """A batch of `rows` ran for `seconds`."""
        key = (shape_class, (rows - 1).bit_length())
        per_row = seconds / rows
        known = self._seconds.pop(key, None)
        if known is None and len(self._seconds) >= MAX_KEYS:
            del self._seconds[
                next(iter(self._seconds))
            ]  # the one not seen for longest: every observation moves its key back
        self._seconds[key] = per_row if known is None else known + WEIGHT * (per_row - known)

    def predict(self, shape_class: object, rows: int) -> float | None:
        """Seconds that such a batch should take, by its size, else by the next larger or the largest one; None if unknown."""
        power = (rows - 1).bit_length()
        known = self._seconds.get((shape_class, power))
        if known is not None:
            return known * rows
        sizes = [size for shape, size in self._seconds if shape == shape_class]
        larger = min((size for size in sizes if size > power), default=None)
        if larger is not None:
            return self._seconds[shape_class, larger] * (1 << larger)
        smaller = max(sizes, default=None)
        return None if smaller is None else self._seconds[shape_class, smaller] * rows

    def seconds_per_row(self) -> dict[str, float]:
        """By "<shape class>/<batch size>"."""
        return {f"{shape_class}/{1 << power}": seconds for (shape_class, power), seconds in self._seconds.items()}
