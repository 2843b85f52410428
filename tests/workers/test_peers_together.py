"""Peers that die together are all declared dead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Pulse
from tests.workers.test_peers import STEP, directory
from workers.supervision.peers import PER_PULSE, SILENCE, STAGGER, WATCHERS, Peers


def test_two_that_die_at_the_same_moment_are_both_dead() -> None:
    d = directory()
    d.live(1, "a", "b", "c", "d")
    d.live(5, "a", "d")
    assert sorted(d.dead) == ["b", "c"]


@given(st.sets(st.sampled_from("bcdefgh")), st.sets(st.sampled_from("bcdefgh")))
def test_whoever_dies_is_declared_once_whatever_else_dies_with_it(first: set[str], second: set[str]) -> None:
    d = directory()
    everybody = set("abcdefgh")
    d.live(1, *sorted(everybody))
    d.live(6, *sorted(everybody - first))
    d.live(6, *sorted(everybody - first - second))
    assert sorted(d.dead) == sorted(first | second)


class Fleet:
    """Supervisors that read what each of them wants, half a second apart, from a store that all write."""

    def __init__(self, workers: int) -> None:
        self.names = [f"w{number:03}" for number in range(workers)]
        self.peers = {name: Peers(name) for name in self.names}
        self.living = set(self.names)
        self.pulses: dict[str, Pulse] = {}
        self.now = 1000.0
        self.read = 0
        self.dead: dict[str, float] = {}

    def step(self, seconds: float = STEP) -> None:
        self.now += seconds
        for name in sorted(self.living):
            self.pulses[name] = Pulse(name, "i", self.now)
        for name in sorted(self.living):
            peers = self.peers[name]
            wanted = peers.wanted(self.now)
            found = [pulse for worker, pulse in self.pulses.items() if wanted is None or worker in wanted]
            self.read += len(found)
            for pulse in peers.observe(found, self.now, wanted):
                assert pulse.worker not in self.living
                self.dead.setdefault(pulse.worker, self.now)
        for worker in self.dead:
            self.pulses.pop(worker, None)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.step()


def test_a_worker_is_watched_by_three_and_reads_do_not_grow_with_the_fleet_squared() -> None:
    per_supervisor = []
    for workers in (20, 80):
        fleet = Fleet(workers)
        fleet.run(10)
        for name in fleet.names:
            watching = [other for other in fleet.names if name in (fleet.peers[other].wanted(fleet.now + 0.01) or ())]
            assert len(watching) == WATCHERS + 1  # and by its own supervisor
        fleet.read = 0
        fleet.run(20)
        per_supervisor.append(fleet.read / workers / 20)
    assert per_supervisor[1] < 2 * (1 + WATCHERS) + 2 / PER_PULSE
    assert per_supervisor[1] < 1.3 * per_supervisor[0]


@given(st.integers(4, 40), st.data())
def test_whoever_dies_with_whomever_is_dead_soon_and_nobody_else_is(workers: int, data: st.DataObject) -> None:
    """Machines die with several workers, and with those that watched them."""
    fleet = Fleet(workers)
    fleet.run(6)
    assert not fleet.dead
    gone = data.draw(st.sets(st.sampled_from(fleet.names), min_size=1, max_size=workers - 1))
    fleet.living -= gone
    died = fleet.now
    fleet.run(12)
    assert set(fleet.dead) == gone
    assert max(fleet.dead.values()) - died <= PER_PULSE * workers + 2 * SILENCE + STAGGER * WATCHERS + 3 * STEP
    newcomer = "w999"
    fleet.peers[newcomer] = Peers(newcomer)
    fleet.living.add(newcomer)
    fleet.run(PER_PULSE * workers + 2 * STEP)
    fleet.living.discard(newcomer)
    fleet.run(SILENCE + PER_PULSE * workers + STAGGER * WATCHERS + 3 * STEP)
    assert newcomer in fleet.dead


def test_a_single_death_is_seen_as_fast_as_when_everybody_read_everything() -> None:
    fleet = Fleet(50)
    fleet.run(6)
    fleet.living.discard("w017")
    died = fleet.now
    fleet.run(6)
    assert fleet.dead["w017"] - died <= SILENCE + STEP


def test_whoever_could_not_be_removed_is_declared_dead_again() -> None:
    d = directory()
    d.live(1, "a", "b")
    d.live(3, "a")
    assert d.dead == ["b"]
    d.peers.again("b")
    d.peers.again("stranger")
    d.live(1, "a")
    assert d.dead == ["b", "b"]
