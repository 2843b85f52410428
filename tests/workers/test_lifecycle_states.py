from pathlib import Path

import pytest

from protocol.messages import ModelState
from workers.lifecycle.states import MOVES, Event, State, next_state, public_state, table


def test_every_state_has_its_moves_and_can_be_reached() -> None:
    assert set(MOVES) == set(State)
    reached = {State.UNLOADED}
    while True:
        further = reached | {after for state in reached for after in MOVES[state].values()}
        if further == reached:
            break
        reached = further
    assert reached == set(State)


def test_every_state_leads_back_to_unloaded() -> None:
    for start in State:
        reached, frontier = {start}, {start}
        while frontier:
            frontier = {after for state in frontier for after in MOVES[state].values()} - reached
            reached |= frontier
        assert State.UNLOADED in reached


def test_what_is_not_in_the_table_is_refused() -> None:
    assert next_state(State.LOADING, Event.LOADED) is State.READY
    for state in State:
        for event in set(Event) - set(MOVES[state]):
            with pytest.raises(ValueError, match=f"{state} cannot be {event}"):
                next_state(state, event)


def test_shown_in_tritons_terms() -> None:
    assert public_state(State.UNLOADED) is ModelState.UNAVAILABLE
    assert {public_state(state) for state in State} == set(ModelState)


def test_the_readme_shows_this_table() -> None:
    assert table() in (Path(__file__).parents[2] / "workers" / "README.md").read_text()
