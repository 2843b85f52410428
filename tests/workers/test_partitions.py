"""When a topic gets more partitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.lifecycle.partitions import PATIENCE, SpareWatch, wanted_partitions

counts = st.integers(1, 1000)


@given(counts, st.integers(0, 1000), counts)
def test_partitions_are_never_taken_away_nor_raised_above_the_bound(partitions: int, workers: int, most: int) -> None:
    wanted = wanted_partitions(partitions, workers, most)
    assert partitions <= wanted <= max(partitions, most)
    assert wanted == partitions or workers > partitions


@given(counts, counts, counts)
def test_every_worker_has_work_afterwards_where_the_bound_allows_it(partitions: int, workers: int, most: int) -> None:
    wanted = wanted_partitions(partitions, workers, most)
    assert wanted >= min(workers, most)
    assert wanted_partitions(wanted, workers, most) == wanted


def test_four_partitions_become_ten_for_the_fifth_worker() -> None:
    assert [wanted_partitions(4, workers, 64) for workers in (1, 4, 5, 31, 32, 100)] == [4, 4, 10, 62, 64, 64]


def test_only_a_worker_that_owns_nothing_for_a_while_asks() -> None:
    watch = SpareWatch()
    assert watch.due(0.0, ["a", "b"]) == []
    assert watch.due(PATIENCE / 2, ["a"]) == []
    assert watch.due(PATIENCE, ["a", "b"]) == ["a"]
    assert watch.due(PATIENCE + 1, ["a", "b"]) == []
    assert watch.due(2 * PATIENCE, ["a", "b"]) == ["a", "b"]
    assert watch.due(9 * PATIENCE, []) == []


@given(st.lists(st.tuples(st.floats(0, 5), st.sets(st.sampled_from("abc")))))
def test_nothing_is_asked_twice_within_a_while(steps: list[tuple[float, set[str]]]) -> None:
    watch, now, asked = SpareWatch(), 0.0, dict[str, float]()
    spare_since: dict[str, float] = {}
    for passed, spare in steps:
        now += passed
        spare_since = {topic: spare_since.get(topic, now) for topic in spare}
        for topic in watch.due(now, spare):
            assert now - spare_since[topic] >= PATIENCE
            assert now - asked.get(topic, -PATIENCE) >= PATIENCE
            asked[topic] = now
