from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import pack
from protocol.model_stats import (
    DURATIONS,
    FailureReason,
    add_miss,
    add_release,
    add_run,
    batch_sizes,
    count_cached,
    count_failure,
    count_success,
    document,
    encode_duration,
    encode_model_stats,
    failures,
    first_responses,
    releases,
)
from protocol.totals import Counts, add

KEY = ("m", "1")

WORKED = encode_model_stats(
    1.5, 3, 1, {"success": encode_duration(2, 0.5)},
    [
        {
            "batch_size": 3,
            "compute_input": encode_duration(1, 0.0),
            "compute_infer": encode_duration(1, 0.25),
            "compute_output": encode_duration(1, 0.0),
        }
    ],
)  # fmt: skip


def test_every_byte_of_a_document() -> None:
    zero = {"count": 0, "ns": 0}
    written = {
        "last_inference": 1500,
        "inference_count": 3,
        "execution_count": 1,
        "inference_stats": {
            "success": {"count": 2, "ns": 500_000_000}, "fail": zero, "queue": zero, "compute_input": zero,
            "compute_infer": zero, "compute_output": zero, "cache_hit": zero, "cache_miss": zero,
        },
        "batch_stats": [
            {
                "batch_size": 3,
                "compute_input": {"count": 1, "ns": 0},
                "compute_infer": {"count": 1, "ns": 250_000_000},
                "compute_output": {"count": 1, "ns": 0},
            }
        ],
        "memory_usage": [],
    }  # fmt: skip
    assert pack(WORKED) == pack(written)


def totals_of(*counts: Counts) -> dict[str, int]:
    totals: dict[str, int] = {}
    for one in counts:
        add(totals, one.answer)
        add(totals, one.batch)
    return totals


def success(rows: int, at: float = 10.0, **batch: int) -> Counts:
    """A request of 10 s: 4 in the queue, 1 for inputs, 2 in the model, 3 for outputs."""
    counts = count_success(KEY, rows, (10.0, 4.0), (1.0, 2.0, 3.0), at)
    counts.batch = batch
    return counts


def ran(*sizes: int) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for rows in sizes:
        add_run(numbers, rows, 1.0, 2.0, 3.0)
    return numbers


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([success(1, **ran(1))], (1, 1, 1)),
        ([success(8, **ran(8))], (1, 8, 1)),
        ([success(1, **ran(9)), success(8)], (2, 9, 1)),
        ([success(8, **ran(8)), success(8, **ran(8))], (2, 16, 2)),
    ],
)
def test_tritons_worked_table_of_totals(answers: list[Counts], expected: tuple[int, int, int]) -> None:
    shown = document(totals_of(*answers))
    assert (
        shown["inference_stats"]["success"]["count"], shown["inference_count"], shown["execution_count"]
    ) == expected  # fmt: skip


def test_every_duration_of_a_document_of_totals() -> None:
    shown = document(totals_of(success(1, 5.0, **ran(3)), success(2, 7.5)))
    second = 10**9
    assert shown["inference_stats"] == {
        "success": {"count": 2, "ns": 20 * second},
        "fail": {"count": 0, "ns": 0},
        "queue": {"count": 2, "ns": 8 * second},
        "compute_input": {"count": 2, "ns": 2 * second},
        "compute_infer": {"count": 2, "ns": 4 * second},
        "compute_output": {"count": 2, "ns": 6 * second},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    assert tuple(shown["inference_stats"]) == DURATIONS
    assert shown["last_inference"] == 7500
    assert shown["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": second},
            "compute_infer": {"count": 1, "ns": 2 * second},
            "compute_output": {"count": 1, "ns": 3 * second},
        }
    ]


def test_batches_are_shown_by_size_and_runs_of_one_size_add_up() -> None:
    shown = document(totals_of(success(2, **ran(16, 2, 16, 128))))
    assert [(row["batch_size"], row["compute_infer"]["count"]) for row in shown["batch_stats"]] == [
        (2, 1), (16, 2), (128, 1)
    ]  # fmt: skip
    assert shown["execution_count"] == 4


def test_failures_count_by_reason_and_in_all() -> None:
    totals = totals_of(*[count_failure(KEY, reason, 2.0) for reason in (*FailureReason, FailureReason.REJECTED)])
    assert failures(totals) == {**dict.fromkeys(FailureReason, 1), FailureReason.REJECTED: 2}
    shown = document(totals)
    assert shown["inference_stats"]["fail"] == {"count": 5, "ns": 10**10}
    assert (shown["inference_count"], shown["execution_count"], shown["last_inference"]) == (0, 0, 0)


def test_an_answer_from_the_cache_is_a_success_without_a_computation() -> None:
    numbers: dict[str, int] = {}
    add_miss(numbers, 0.25)
    shown = document(totals_of(success(4, **ran(4), **numbers), count_cached(KEY, 1.0, 0.5)))
    stats = shown["inference_stats"]
    counts = [stats[name]["count"] for name in DURATIONS]
    assert counts == [2, 0, 2, 1, 1, 1, 1, 1]
    assert (stats["cache_hit"]["ns"], stats["cache_miss"]["ns"]) == (5 * 10**8, 25 * 10**7)
    assert (shown["inference_count"], shown["execution_count"]) == (4, 1)


def test_no_totals_are_zeros() -> None:
    shown = document({})
    assert shown["inference_stats"] == {name: {"count": 0, "ns": 0} for name in DURATIONS}
    assert (shown["batch_stats"], shown["response_stats"], shown["memory_usage"]) == ([], {}, [])


def test_totals_that_a_newer_worker_counts_are_no_trouble() -> None:
    totals = {"ok": 1, "new": 3, "bx": 4, "b": 5, "b²": 6, "fail.NEW": 7}
    assert document(totals)["inference_stats"]["success"]["count"] == 1


@pytest.mark.parametrize("seconds", [-1.0, -math.inf, math.nan, 1e300, math.inf])
def test_a_broken_clock_adds_no_nonsense(seconds: float) -> None:
    for counts in (
        count_success(KEY, 1, (seconds, seconds), (seconds,) * 3, 1.0),
        count_failure(KEY, FailureReason.OTHER, seconds),
    ):
        assert all(0 <= number <= 2**52 for number in counts.answer.values())


@given(st.lists(st.integers(0, 10_000_000_000).map(lambda nanoseconds: nanoseconds / 1e9), max_size=30))
def test_the_first_response_histogram_is_that_of_its_values(values: list[float]) -> None:
    totals = totals_of(*[count_success(KEY, 1, (value, 0.0), (0.0, 0.0, 0.0), 1.0) for value in values])
    rows, total = first_responses(totals)
    assert [bound for bound, _ in rows] == ["100.0", "500.0", "2000.0", "5000.0", "+Inf"]
    for bound, count in rows:
        assert count == sum(value * 1000 <= float(bound) for value in values)
    assert total == pytest.approx(1000 * sum(values), abs=2e-6 * len(values))  # each is cut to whole nanoseconds


def test_releases_are_counted_by_reason_and_leave_tritons_entry_as_it_was() -> None:
    numbers: dict[str, int] = {}
    add_run(numbers, 3, 0.0, 0.5, 0.0)
    before = document(numbers)
    for reason in ("delay", "full", "batch_lane", "delay"):
        add_release(numbers, reason)

    assert list(releases(numbers).items()) == [("delay", 2), ("batch_lane", 1), ("full", 1)]
    assert batch_sizes(numbers) == {3: 1}
    assert document(numbers) == before


def test_totals_of_an_older_worker_have_no_releases() -> None:
    numbers: dict[str, int] = {}
    add_run(numbers, 3, 0.0, 0.5, 0.0)
    assert releases(numbers) == {}


def test_answers_name_the_bucket_of_their_time_since_acceptance() -> None:
    for slow in (0.001, 0.3):
        assert count_success(KEY, 1, (slow, 0.0), (0.0, slow, 0.0), 5.0, "t40").answer["t40"] == 1
        assert count_cached(KEY, slow, 0.0, "t7").answer["t7"] == 1
        assert not [name for name in count_success(KEY, 1, (slow, 0.0), (0.0, slow, 0.0), 5.0).answer if name[0] == "t"]
