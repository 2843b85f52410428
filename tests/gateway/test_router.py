"""Which partition a group is published to."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.loads import WorkerLoad
from gateway.routing.router import PartitionRows, Router

TOPIC = "penstock.infer.m.1"
LIVE = 2.0


@dataclasses.dataclass
class Known:
    """`Capacity` as a test states it."""

    loads: Sequence[WorkerLoad] = ()
    count: int = 4
    revision: int = 1

    def partitions(self, topic: str) -> int:
        return self.count

    def workers(self, topic: str) -> Sequence[WorkerLoad]:
        return self.loads


def worker(name: str, *partitions: int, at: float = 100.0, **more: object) -> WorkerLoad:
    fields: dict[str, object] = {"full": 8, "speed": 800.0, "flat": False, **more}
    return WorkerLoad(name, partitions, at=at, **fields)  # type: ignore[arg-type]


def router(*loads: WorkerLoad, count: int = 4) -> Router:
    return Router(Known(loads, count), random.Random(1), LIVE)


def send(of: Router, groups: int, rows: int = 1, now: float = 100.0) -> list[int | None]:
    """Choose and count; nothing is answered."""
    chosen = []
    for _ in range(groups):
        partition = of.choose(TOPIC, rows, rows, now)
        if partition is not None:
            of.sent(TOPIC, partition, rows)
        chosen.append(partition)
    return chosen


TWO = (worker("a", 0, 1), worker("b", 2, 3))


def test_without_information_the_partitions_take_turns() -> None:
    assert send(router(), 3) == [None] * 3
    assert send(router(count=0), 3) == [None] * 3


def test_one_worker_alone_needs_no_choice() -> None:
    assert send(router(worker("a", 0, 1, 2, 3)), 3) == [None] * 3


def test_while_nobody_is_known_to_own_a_partition_the_partitions_take_turns() -> None:
    assert send(router(worker("a", 0, 1), worker("b", 2)), 3) == [None] * 3


@pytest.mark.parametrize("at", [97.9, 102.1, -1e12, 1e12])
def test_old_heartbeats_and_those_of_the_future_count_as_silence(at: float) -> None:
    assert set(send(router(worker("a", 0, 1, at=at), worker("b", 2, 3)), 8)) == {2, 3}
    assert send(router(worker("a", 0, 1, at=at), worker("b", 2, 3, at=at)), 3) == [None] * 3


def test_a_draining_worker_gets_nothing_while_another_serves() -> None:
    assert set(send(router(worker("a", 0, 1), worker("b", 2, 3, draining=True)), 8)) == {0, 1}
    assert send(router(worker("a", 0, 1, draining=True), worker("b", 2, 3, draining=True)), 3) == [None] * 3


def test_heartbeats_that_stop_are_noticed_without_a_new_one() -> None:
    routed = router(*TWO)

    assert None not in send(routed, 4, now=100.0)
    assert send(routed, 4, now=102.1) == [None] * 4


def test_equal_workers_take_turns_and_so_do_their_partitions() -> None:
    chosen = send(router(*TWO), 8)

    assert sorted(chosen, key=str) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [partition in (0, 1) for partition in chosen if partition is not None] in (
        [True, False] * 4,
        [False, True] * 4,
    )


def test_a_worker_with_a_backlog_of_others_is_spared_until_it_has_worked_it_off() -> None:
    loads = (worker("a", 0, 1, rows=800), worker("b", 2, 3))

    assert set(send(router(*loads), 8)) == {2, 3}
    assert set(send(router(*loads), 8, now=101.5)) == {0, 1, 2, 3}


def test_a_worker_that_does_not_answer_gets_no_more_than_a_batch_above_the_other() -> None:
    routed = router(*TWO)
    waiting = []
    for _ in range(200):
        partition = routed.choose(TOPIC, 1, 1, 100.0)
        assert partition is not None
        counted = routed.sent(TOPIC, partition, 1)
        if partition in (2, 3):
            counted.left(1)  # b answers at once
        else:
            waiting.append(partition)

    assert len(waiting) <= 8 + 2


def test_a_slower_worker_gets_less() -> None:
    routed = router(worker("a", 0, 1), worker("b", 2, 3, speed=200.0))
    chosen = send(routed, 400)

    assert 0.7 < sum(partition in (0, 1) for partition in chosen) / 400 < 0.85


def test_different_topics_prefer_different_workers() -> None:
    firsts = set()
    for number in range(32):
        topic = f"penstock.infer.m{number}.1"
        known = Known((worker("a", 0, 1, flat=True), worker("b", 2, 3, flat=True)))
        routed = Router(known, random.Random(1), LIVE)
        for turn in range(8):
            known.revision, now = turn, 99.0 + turn / 10
            partition = routed.choose(topic, 1, 1, now)
        firsts.add(partition in (0, 1))

    assert firsts == {True, False}


def gathering(load: float) -> Router:
    """A router that has measured a rate of so many times one worker's speed."""
    known = Known((worker("a", 0, 1, flat=True), worker("b", 2, 3, flat=True)))
    routed = Router(known, random.Random(1), LIVE)
    executed = 0
    for turn in range(12):
        now = 95.0 + turn / 2
        known.revision = turn
        known.loads = [dataclasses.replace(load, at=now, executed=executed) for load in known.loads]
        for step in range(int(load * 400)):
            partition = routed.choose(TOPIC, 1, 1, now + step / (load * 800))
            assert partition is not None
            routed.sent(TOPIC, partition, 1).left(1)
            executed += 1
    return routed


def test_few_requests_go_to_one_worker() -> None:
    routed = gathering(0.3)

    assert len({partition in (0, 1) for partition in send(routed, 4, now=100.9)}) == 1


def test_more_than_a_worker_can_serve_goes_to_both() -> None:
    routed = gathering(1.5)

    assert len({partition in (0, 1) for partition in send(routed, 4, now=100.9)}) == 2


def test_a_burst_spills_to_the_next_worker() -> None:
    routed = gathering(0.3)

    assert len({partition in (0, 1) for partition in send(routed, 32, now=100.9)}) == 2


def test_large_requests_are_not_gathered() -> None:
    routed = gathering(0.3)

    assert len({partition in (0, 1) for partition in send(routed, 2, rows=5, now=100.9)}) == 2


# --- properties -------------------------------------------------------------------------------------------------------

ABSURD = st.one_of(st.integers(-10, 10**9), st.just(10**30))
LOADS = st.lists(
    st.builds(
        WorkerLoad,
        worker=st.sampled_from("abcdef"),
        partitions=st.lists(ABSURD | st.integers(0, 7), max_size=8, unique=True).map(tuple),
        rows=st.integers(0, 10**9),
        at=st.floats(90, 110) | st.sampled_from([-1e300, 1e300, 0.0]),
        full=st.integers(1, 10**6),
        speed=st.floats(0, 1e9),
        flat=st.sampled_from([True, False, None]),
        draining=st.booleans(),
        executed=st.integers(0, 10**17),
    ),
    max_size=6,
    unique_by=lambda load: load.worker,
)


@settings(deadline=None)
@given(st.lists(LOADS, min_size=1, max_size=6), st.integers(0, 8), st.integers(1, 10**6), st.integers(0, 2**32))
def test_only_a_live_workers_partition_is_ever_chosen(
    histories: list[list[WorkerLoad]], count: int, rows: int, seed: int
) -> None:
    known = Known((), count)
    routed = Router(known, random.Random(seed), LIVE)
    for turn, loads in enumerate(histories):
        known.loads, known.revision, now = loads, turn, 100.0 + turn / 2
        for _ in range(4):
            partition = routed.choose(TOPIC, rows, rows, now)
            if partition is None:
                continue
            routed.sent(TOPIC, partition, rows)
            assert 0 <= partition < count
            owners = [load for load in loads if partition in load.partitions]
            assert any(not load.draining and abs(now - load.at) <= LIVE for load in owners)


@given(
    st.lists(
        st.tuples(st.sampled_from(["sent", "left", "choose", "new"]), st.integers(0, 5), st.integers(0, 20)),
        max_size=60,
    )
)
def test_counts_never_fall_below_zero_whatever_is_reported_in_whichever_order(
    steps: list[tuple[str, int, int]],
) -> None:
    known = Known(TWO)
    routed = Router(known, random.Random(1), LIVE)
    held = dict.fromkeys(range(6), 0)
    for step, partition, rows in steps:
        if step == "sent":
            routed.sent(TOPIC, partition, rows)
            held[partition] += rows
        elif step == "left":
            routed.sent(TOPIC, partition, 0).left(rows)
            held[partition] = max(0, held[partition] - rows)
        elif step == "choose":
            routed.choose(TOPIC, 1, 1, 100.0)
        else:
            known.loads = known.loads[::-1] if rows % 2 else (worker("c", 0, 2), worker("b", 1, 3))
            known.revision += 1
        outstanding = routed.outstanding(TOPIC)
        assert {p: n for p, n in outstanding.items() if n} == {p: n for p, n in held.items() if n}
    state = routed._topic(TOPIC)
    assert state.traffic.own == sum(held.values())
    assert all(
        each.own == sum(held[p.number] for p in each.partitions)
        for each in state.workers
        if state.revision == known.revision
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_under_high_load_equal_workers_get_equal_shares(seed: int, workers: int) -> None:
    dice = random.Random(seed)
    loads = [worker(f"w{number}", 2 * number, 2 * number + 1) for number in range(workers)]
    routed = Router(Known(loads, 2 * workers), random.Random(seed), LIVE)
    counts = [0] * workers
    waiting: list[tuple[PartitionRows, int]] = []
    for _ in range(4000):
        rows = dice.choice((1, 1, 2, 4))
        partition = routed.choose(TOPIC, rows, rows, 100.0)
        assert partition is not None
        counts[partition // 2] += rows
        waiting.append((routed.sent(TOPIC, partition, rows), rows))
        if len(waiting) > 16 * workers:
            counted, gone = waiting.pop(dice.randrange(len(waiting)))
            counted.left(gone)

    assert max(counts) <= 1.2 * sum(counts) / workers


def test_what_is_not_in_flight_is_not_remembered_for_ever() -> None:
    routed = router(*TWO)
    for number in range(10_000):
        routed.choose(f"penstock.infer.m{number}.1", 1, 1, 100.0)

    assert len(routed._topics) <= 4096
