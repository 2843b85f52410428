from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Heartbeat
from workers.supervision.peers import MAX_GAP, MAX_STAGGER, SILENCE, STAGGER, Peers

STEP = 0.5


@dataclasses.dataclass
class Directory:
    """A store's hash of heartbeats, a clock, and one supervisor that reads it every half second."""

    peers: Peers
    beats: dict[str, Heartbeat] = dataclasses.field(default_factory=dict)
    now: float = 1000.0
    dead: list[str] = dataclasses.field(default_factory=list)

    def beat(self, *workers: str) -> None:
        for worker in workers:
            self.beats[worker] = Heartbeat(worker, "i1", "host", 1, self.now, members={"g": "m"})

    def read(self, seconds: float = STEP) -> list[str]:
        self.now += seconds
        found = [beat.worker for beat in self.peers.observe(list(self.beats.values()), self.now)]
        self.dead += found
        return found

    def live(self, seconds: float, *workers: str) -> None:
        for _ in range(round(seconds / STEP)):
            self.beat(*workers)
            self.read()


def directory(own: str = "a") -> Directory:
    return Directory(Peers(own))


def test_a_silent_worker_is_dead_after_a_second_and_a_half_and_only_once() -> None:
    d = directory()
    d.live(2, "a", "b", "c")
    assert d.dead == []
    d.live(SILENCE - STEP, "a", "c")
    assert d.dead == []
    d.live(STEP * 2, "a", "c")
    assert d.dead == ["b"]
    d.live(10, "a", "c")
    assert d.dead == ["b"]


def test_a_worker_that_comes_back_and_dies_again_is_dead_again() -> None:
    d = directory()
    d.live(1, "a", "b")
    d.live(3, "a")
    d.live(1, "a", "b")
    d.live(3, "a")
    assert d.dead == ["b", "b"]


def test_a_store_that_forgot_everybody_looks_like_nobodys_death() -> None:
    d = directory()
    d.live(1, "a", "b", "c")
    d.beats.clear()
    d.live(5, "a")
    assert d.dead == []


def test_a_store_that_cannot_be_read_looks_like_nobodys_death() -> None:
    d = directory()
    d.live(1, "a", "b", "c")
    for _ in range(20):
        d.now += STEP
        d.peers.unreadable()
    d.beat("a")
    assert d.read() == []
    d.live(5, "a", "b", "c")
    assert d.dead == []


def test_a_store_that_refuses_writes_looks_like_nobodys_death() -> None:
    d = directory()
    d.live(1, "a", "b")
    for _ in range(20):
        d.read()
    assert d.dead == []
    d.live(5, "a", "b")
    assert d.dead == []


def test_a_supervisor_that_slept_judges_nobody() -> None:
    d = directory()
    d.live(1, "a", "b")
    d.beat("a")
    assert d.read(3600.0) == []
    d.live(5, "a", "b")
    assert d.dead == []


def test_without_a_worker_of_its_own_it_judges_nobody() -> None:
    d = directory()
    d.live(5, "b")
    assert d.dead == []


def test_supervisors_take_turns_by_their_order() -> None:
    d = directory("c")
    d.live(2, "a", "b", "c", "x")
    before = d.now
    while not d.dead:
        d.live(STEP, "a", "b", "c")
    assert d.dead == ["x"]
    assert d.now - before >= SILENCE + 2 * STAGGER


def test_the_stagger_is_bounded() -> None:
    others = [f"a{number:03}" for number in range(50)]
    d = directory("z")
    d.live(2, *others, "z", "x")
    d.live(SILENCE + MAX_STAGGER + 2 * STEP, *others, "z")
    assert d.dead == ["x"]


def test_whom_another_supervisor_has_removed_is_forgotten() -> None:
    d = directory("b")
    d.live(2, "a", "b", "x")
    d.live(1, "a", "b")
    del d.beats["x"]
    d.live(5, "a", "b")
    assert d.dead == []


steps = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.floats(0.1, 3.0)), max_size=60)


@given(steps)
def test_nobody_is_ever_declared_dead_without_having_been_silent(moves: list[tuple[bool, bool, bool, float]]) -> None:
    """Random beats of a peer and of our own, failed readings and pauses: a verdict needs proven silence of 1.5 s."""
    d = directory()
    silent = 0.0
    d.live(1, "a", "b")
    for own, peer, readable, seconds in moves:
        if own:
            d.beat("a")
        if peer:
            d.beat("b")
            silent = 0.0
        if not readable:
            d.now += seconds
            d.peers.unreadable()
            continue
        silent += min(seconds, MAX_GAP) if own else 0.0
        if d.read(seconds):
            assert silent >= SILENCE
