"""A slow reply does not change the fleet's clock if a better sample is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.runtime.clock import CERTAIN, DRIFT, TRIES, Clock, ClockSample

AHEAD = 1_700_000_000.0

delays = st.tuples(st.floats(0, 2), st.floats(0, 2))


class World:
    """A store whose clock is ahead, and whose replies take the given delays; the last delay repeats."""

    def __init__(self, ahead: float = AHEAD) -> None:
        self.now = 100.0
        self.ahead = ahead
        self.delays: list[tuple[float, float]] = []
        self.asked = 0
        self.clock = Clock(lambda: self.now, lambda: self.now)

    async def store_time(self) -> float:
        out, back = self.delays.pop(0) if len(self.delays) > 1 else self.delays[0]
        self.asked += 1
        self.now += out
        at = self.now + self.ahead
        self.now += back
        return at

    async def resync(self, *delays: tuple[float, float]) -> None:
        self.delays = list(delays)
        await self.clock.resync(self.store_time)

    @property
    def error(self) -> float:
        return abs(self.clock() - (self.now + self.ahead))


async def test_a_reply_that_took_long_does_not_move_a_clock_that_is_right() -> None:
    world = World()
    await world.resync((0.001, 0.001))
    await world.resync((0.4, 0.0))
    assert world.error < 0.002
    assert world.asked == 1 + TRIES


async def test_the_shortest_round_trip_of_several_counts() -> None:
    world = World()
    await world.resync((0.4, 0.0), (0.0, 0.3), (0.001, 0.0), (5.0, 5.0))
    assert world.error < 0.002
    assert world.asked == 3


async def test_a_store_that_is_always_slow_is_followed_as_well_as_can_be() -> None:
    world = World()
    await world.resync((0.2, 0.0))
    assert world.error <= 0.1 + 1e-6


async def test_a_clock_that_was_set_is_followed_also_by_slow_replies() -> None:
    world = World()
    await world.resync((0.001, 0.001))
    world.ahead += 3600
    await world.resync((0.4, 0.0))
    assert world.error <= 0.2 + 1e-6


@given(st.lists(st.lists(delays, min_size=1, max_size=TRIES), min_size=1, max_size=8))
async def test_the_error_is_never_above_half_of_the_shortest_round_trip(
    rounds: list[list[tuple[float, float]]],
) -> None:
    world, shortest = World(), float("inf")
    for answers in rounds:
        began = world.now
        await world.resync(*answers)
        asked = [sum(answer) for answer in answers]
        until = next((at for at, took in enumerate(asked) if took <= CERTAIN), len(asked) - 1)
        shortest = min(shortest + 2 * (world.now - began) * DRIFT, *asked[: until + 1])
        assert world.error <= shortest / 2 + 1e-5


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e5))
def test_of_two_readings_that_agree_the_more_certain_is_held(first: float, second: float, age: float) -> None:
    held = ClockSample(0.0, AHEAD + first / 2, first)
    later = first + age
    sample = ClockSample(later, AHEAD + later + second / 2, later + second)
    assert sample.better_than(held) is (sample.error <= held.error + (sample.at - held.at) * DRIFT)
