"""When a refused call may come again."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.expected import MAX_TOPICS, ExpectedWait
from gateway.routing.loads import WorkerLoad


class Known:
    """What is known of the workers: a `Capacity`."""

    def __init__(self, *loads: WorkerLoad) -> None:
        self.loads = loads
        self.revision = 0
        self.asked = 0

    def partitions(self, topic: str) -> int:
        return 4

    def workers(self, topic: str) -> Sequence[WorkerLoad]:
        self.asked += 1
        return self.loads if topic != "none" else ()


def worker(rows: int, speed: float, at: float = 100.0, *, draining: bool = False) -> WorkerLoad:
    return WorkerLoad("w", (0,), rows, at, 8, speed, None, draining)


def expected(known: Known) -> ExpectedWait:
    return ExpectedWait(known, 2.0, {"none": 7.0}.get, lambda: 100.0)


def test_the_workers_backlog_is_drained_at_their_speed_together() -> None:
    waits = expected(Known(worker(300, 50.0), worker(100, 50.0)))
    assert waits.seconds("m", 10) == 4.0
    assert waits.seconds("m", 900) == 9.0, "calls that wait here may not be in a heartbeat yet"


def test_silent_and_draining_workers_answer_nothing() -> None:
    assert expected(Known(worker(10, 1.0, at=97.0), worker(10, 1.0, draining=True))).seconds("none", 1) == 7.0
    assert expected(Known(worker(10, 1.0, at=97.0), worker(6, 2.0))).seconds("m", 1) == 3.0


def test_what_is_not_known_is_not_guessed() -> None:
    assert expected(Known(worker(10, 0.0))).seconds("m", 1) is None
    assert expected(Known()).seconds("m", 1) is None


def test_many_refusals_cost_one_look_until_the_next_heartbeats() -> None:
    known = Known(worker(10, 5.0))
    waits = expected(known)
    for _ in range(1000):
        waits.seconds("m", 1)
    assert known.asked == 1
    known.revision, known.loads = 1, (worker(50, 5.0),)
    assert waits.seconds("m", 1) == 10.0
    for number in range(3 * MAX_TOPICS):
        waits.seconds(f"m{number}", 1)
    assert len(waits._known) <= MAX_TOPICS


@given(st.lists(st.builds(worker, st.integers(0, 10**9), st.floats(0, 1e9))), st.integers(0, 10**9))
def test_more_that_waits_never_means_less_time(loads: list[WorkerLoad], waiting: int) -> None:
    waits = expected(Known(*loads))
    few, many = waits.seconds("m", waiting), waits.seconds("m", 2 * waiting)
    assert (few is None) == (many is None) or waiting == 0
    assert few is None or many is None or 0.0 <= few <= many
