"""How a bug is planted: a method is swapped for the length of a `with`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Bug = Callable[[], contextlib.AbstractContextManager[None]]
MUTANTS: dict[str, Bug] = {}
SEEDS: dict[str, tuple[int, ...]] = {}
"""Schedules that found a bug when they were written down; only to save time, for any change of the fleet changes the schedules."""


def bug(name: str, owner: Any, attribute: str, *seeds: int) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Names a function that gets the right method and returns the wrong one."""

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextlib.contextmanager
        def plant() -> Iterator[None]:
            right = owner.__dict__[attribute]
            setattr(owner, attribute, make(right))
            try:
                yield
            finally:
                setattr(owner, attribute, right)

        MUTANTS[name] = plant
        SEEDS[name] = seeds
        return make

    return register


def planted(plant: Bug) -> contextlib.AbstractContextManager[None]:
    """The bug is in the code for as long as this lasts."""
    return plant()
