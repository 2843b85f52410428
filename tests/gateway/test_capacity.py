"""What heartbeats say about workers, whatever they say."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backlog import MAX_COUNT
from gateway.catalogue.catalogue import Catalogue
from gateway.catalogue.heartbeats import is_sound
from gateway.routing.capacity import ASK_AFTER, HeartbeatCapacity
from gateway.routing.loads import MAX_PARTITIONS, full_batch, worker_load
from protocol.errors import FleetError
from protocol.heartbeat_codec import decode_heartbeat
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from tests.gateway.fleet import ADD_SUB, NAMES

TOPIC = NAMES.infer_topic("add_sub", "1")


def capacity(partitions: int = 4) -> HeartbeatCapacity:
    catalogue = Catalogue(NAMES, {})
    catalogue.announce(Announcement("add_sub", "1", ModelState.READY, ADD_SUB, "d", partitions=partitions))
    return HeartbeatCapacity(NAMES, catalogue)


def beat(name: str, *partitions: int, at: float = 1.0, draining: bool = False, **load: Any) -> Heartbeat:
    models = (ModelLoad("add_sub", "1", ModelState.READY, partitions, **load),)
    return Heartbeat(name, "i", "h", 1, at, models, draining=draining)


def stats(**seconds: float) -> dict[str, Any]:
    """Batches by size, ten of each."""
    sizes = [
        {"batch_size": int(size.removeprefix("b")), "compute_infer": {"count": 10, "ns": round(took * 1e10)}}
        for size, took in seconds.items()
    ]
    return {"batch_stats": sizes, "inference_count": 77}


def test_a_heartbeat_says_who_owns_what_and_how_much_waits_there() -> None:
    known = capacity()
    known.observe([beat("a", 0, 2, queued_rows=5, running_rows=8, statistics=stats(b1=0.01, b8=0.01))])

    (load,) = known.workers(TOPIC)
    assert (load.worker, load.partitions, load.rows, load.full) == ("a", (0, 2), 13, 8)
    assert load.speed == pytest.approx(800)
    assert (load.flat, load.executed) == (True, 77)


def test_nothing_is_known_of_the_batch_lane_or_an_unknown_model() -> None:
    known = capacity()
    known.observe([beat("a", 0)])

    for topic in (NAMES.batch_topic("add_sub", "1"), NAMES.infer_topic("other", "1"), "penstock.models", "x"):
        assert (known.workers(topic), known.partitions(topic)) == ([], 0)


def test_the_newest_heartbeat_owns_a_partition_that_two_claim() -> None:
    known = capacity()
    known.observe([beat("old", 0, 1, at=1.0), beat("new", 1, 2, at=2.0)])

    assert {load.worker: load.partitions for load in known.workers(TOPIC)} == {"new": (1, 2), "old": (0,)}


def test_the_log_counts_only_behind_a_full_queue() -> None:
    short = beat("a", 0, queued_rows=4, queued_requests=4, lag=1000).models[0]
    full = beat("a", 0, queued_rows=24, queued_requests=12, lag=1000).models[0]

    assert worker_load(beat("a"), short, 8, 1).rows == 4
    assert worker_load(beat("a"), full, 8, 1).rows == 2000


def test_a_worker_that_says_what_it_has_not_read_is_believed_and_both_lanes_run_before_a_new_row() -> None:
    said = beat(
        "a", 0, queued_rows=4, queued_requests=2, running_rows=9, batch_running_rows=5, lag=1000, unanswered=4, unread=6
    )

    assert worker_load(beat("a"), said.models[0], 8, 1).rows == 4 + 4 + 6 * 2 + 5


def test_a_topic_with_more_partitions_than_announced_is_asked_about_now_and_then() -> None:
    known = capacity(partitions=4)
    heartbeats = [beat("a", 0, 1, 2, 3), beat("b", 4, 5, 10**9)]
    asked = 0
    for _ in range(2 * ASK_AFTER):
        known.observe(heartbeats)
        known.workers(TOPIC)
        asked += len(known.unsure())

    assert asked == 2
    assert known.partitions(TOPIC) == 4
    known.learn(TOPIC, 6)
    assert known.partitions(TOPIC) == 6
    known.learn(TOPIC, 0)
    assert known.partitions(TOPIC) == 4


@pytest.mark.parametrize(
    ("seconds", "flat"),
    [
        ({"b1": 0.010, "b2": 0.010, "b8": 0.0101}, True),
        ({"b1": 0.003, "b2": 0.004, "b4": 0.006}, False),
        ({"b1": 0.00003, "b8": 0.00003}, False),  # too brief: its requests cost the worker more than its batches
        ({"b2": 0.02, "b1": 5.0}, True),  # a slow first run
        ({"b4": 0.01}, None),
        ({}, None),
    ],
)
def test_whether_larger_batches_cost_hardly_more(seconds: dict[str, float], flat: bool | None) -> None:
    assert full_batch(stats(**seconds), 8)[1] is flat


def test_a_full_batch_is_extrapolated() -> None:
    took, flat = full_batch(stats(b1=0.003, b2=0.004, b4=0.006), 8)

    assert took == pytest.approx(0.010)
    assert flat is False


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
STATISTICS = st.fixed_dictionaries(
    {
        "inference_count": JUNK,
        "batch_stats": JUNK
        | st.lists(
            st.fixed_dictionaries(
                {"batch_size": JUNK, "compute_infer": st.fixed_dictionaries({"count": JUNK, "ns": JUNK})}
            ),
            max_size=4,
        ),
    }
)


@given(st.lists(JUNK, max_size=6), JUNK, JUNK, JUNK, JUNK, JUNK | STATISTICS, st.integers(1, 1000))
def test_no_number_in_a_heartbeat_is_believed_unchecked(
    partitions: list[Any], rows: Any, requests: Any, running: Any, lag: Any, statistics: Any, batch: int
) -> None:
    load = ModelLoad("m", "1", ModelState.READY, tuple(partitions), rows, requests, running, lag, statistics=statistics)

    known = worker_load(beat("a"), load, batch, 1)

    assert all(type(partition) is int and partition >= 0 for partition in known.partitions)
    assert 0 <= known.rows <= MAX_COUNT
    assert known.executed >= 0
    assert known.speed >= 0
    assert math.isfinite(known.speed)


def test_a_worker_that_claims_every_partition_there_could_be_costs_little() -> None:
    load = worker_load(beat("a", *range(10**6)), beat("a", *range(10**6)).models[0], 8, 1)

    assert len(load.partitions) == MAX_PARTITIONS


@given(JUNK, JUNK, JUNK, JUNK, st.lists(JUNK, max_size=12))
def test_a_heartbeat_of_wrong_types_is_left_out(
    worker: Any, at: Any, members: Any, draining: Any, model: list[Any]
) -> None:
    head = {
        "v": 1, "worker": worker, "incarnation": "i", "host": "h", "pid": 1, "at": at, "models": [model], "members": members,
        "draining": draining,
    }  # fmt: skip
    try:
        found = decode_heartbeat(msgpack.packb(head))
    except (FleetError, OverflowError):
        return
    if is_sound(found):
        known = capacity()
        known.observe([found])
        known.workers(TOPIC)


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf, "1"])
def test_a_heartbeat_without_a_time_is_left_out(at: Any) -> None:
    assert not is_sound(beat("a", 0, at=at))
    assert is_sound(beat("a", 0, at=-1e300))
