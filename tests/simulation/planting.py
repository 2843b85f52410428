"""Plants bugs: a method is swapped for the duration of a `with`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Bug = Callable[[], contextlib.AbstractContextManager[None]]
MUTANTS: dict[str, Bug] = {}
SEEDS: dict[str, tuple[int, ...]] = {}
"""Schedules that once found a bug; they only save time, because any change of the fleet changes the schedules."""


def bug(name: str, owner: Any, attribute: str, *seeds: int) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Registers a function that gets the right method and returns the wrong one."""

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextlib.contextmanager
        def plant() -> Iterator[None]:
            home = next(base for base in owner.__mro__ if attribute in base.__dict__)
            right = home.__dict__[attribute]
            setattr(home, attribute, make(right))
            try:
                yield
            finally:
                setattr(home, attribute, right)

        MUTANTS[name] = plant
        SEEDS[name] = seeds
        return make

    return register


def planted(plant: Bug) -> contextlib.AbstractContextManager[None]:
    """The bug is in the code for the duration of the `with`."""
    return plant()
