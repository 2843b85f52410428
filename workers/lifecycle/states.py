"""The states of a model version on one worker and the legal transitions, as one table. Pure.

`python -m workers.lifecycle.states` prints the table in workers/README.md; a test compares them.
"""

from __future__ import annotations

import enum
from typing import Final

from protocol.messages import ModelState


class State(enum.StrEnum):
    """The state of a version; one that was never loaded is `UNLOADED`."""

    UNLOADED = "UNLOADED"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


class Event(enum.StrEnum):
    """An event in the life of a version."""

    LOAD = "load"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOAD = "unload"
    UNLOADED = "unloaded"


MOVES: Final[dict[State, dict[Event, State]]] = {
    State.UNLOADED: {Event.LOAD: State.LOADING, Event.FAILED: State.UNAVAILABLE},
    State.LOADING: {
        Event.LOADED: State.READY,
        Event.FAILED: State.UNAVAILABLE,
        Event.UNLOAD: State.UNLOADING,
    },
    State.READY: {
        Event.LOAD: State.READY,
        Event.UNLOAD: State.UNLOADING,
        Event.FAILED: State.UNAVAILABLE,
    },
    State.UNLOADING: {Event.UNLOADED: State.UNLOADED},
    State.UNAVAILABLE: {
        Event.LOAD: State.LOADING,
        Event.FAILED: State.UNAVAILABLE,
        Event.UNLOAD: State.UNLOADED,
    },
}
"""A READY version that is reloaded (its files changed) serves until its successor is ready."""


def next_state(state: State, event: Event) -> State:
    """The state after the event.

    Raises:
        ValueError: the event is not legal in this state; a bug in this program.
    """
    after = MOVES[state].get(event)
    if after is None:
        raise ValueError(f"a model version that is {state} cannot be {event}")
    return after


def public_state(state: State) -> ModelState:
    """The state in Triton's terms: an unloaded version is UNAVAILABLE."""
    return ModelState.UNAVAILABLE if state is State.UNLOADED else ModelState(state.value)


def table() -> str:
    """The legal transitions as a Markdown table."""
    events = list(Event)
    lines = ["| from | " + " | ".join(events) + " |", "| --- |" + " --- |" * len(events)]
    lines += [f"| {state} | " + " | ".join(MOVES[state].get(event, "") for event in events) + " |" for state in State]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201  # the purpose of the command
