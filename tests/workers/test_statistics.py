import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.model_stats import FailureReason
from workers.latency import MAX_KEYS, LatencyModel
from workers.statistics import Duration, Executed, Histogram, ModelStatistics


def executed(*rows: int, failed: int = 0, ran: bool = True) -> Executed:
    """A batch of requests with these rows, enqueued at 10 s; stacked for 1 s, started at 12 s, run for 2 s, answered at 15 s."""
    start = 12.0 if ran else 0.0
    return Executed(
        sum(rows) + failed, [10.0] * len(rows), sum(rows), failed, 5.0 * failed, 1.0, start, start and 14.0, 15.0
    )


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([executed(1)], (1, 1, 1)),
        ([executed(8)], (1, 8, 1)),
        ([executed(1, 8)], (2, 9, 1)),
        ([executed(8), executed(8)], (2, 16, 2)),
    ],
)
def test_tritons_worked_table(batches: list[Executed], expected: tuple[int, int, int]) -> None:
    statistics = ModelStatistics()
    for batch in batches:
        statistics.executed(batch)
    assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == expected


def test_every_request_is_charged_its_batchs_times() -> None:
    statistics = ModelStatistics()
    statistics.executed(executed(1, 2))
    shown = statistics.to_json()
    stats = shown["inference_stats"]
    second = 1_000_000_000
    assert stats["success"] == {"count": 2, "ns": 10 * second}
    assert stats["queue"] == {"count": 2, "ns": 2 * second}
    assert stats["compute_input"] == {"count": 2, "ns": 2 * second}
    assert stats["compute_infer"] == {"count": 2, "ns": 4 * second}
    assert stats["compute_output"] == {"count": 2, "ns": 2 * second}
    parts = sum(stats[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert parts == stats["success"]["ns"]
    assert shown["last_inference"] == 15_000
    assert shown["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": second},
            "compute_infer": {"count": 1, "ns": 2 * second},
            "compute_output": {"count": 1, "ns": second},
        }
    ]


def test_a_batch_with_failures_counts_each_side() -> None:
    statistics = ModelStatistics()
    statistics.executed(executed(1, failed=2))
    assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == (1, 1, 1)
    assert statistics.failures[FailureReason.BACKEND] == 2
    assert statistics.to_json()["inference_stats"]["fail"] == {"count": 2, "ns": 10_000_000_000}


def test_a_batch_that_never_ran_is_no_execution() -> None:
    statistics = ModelStatistics()
    statistics.executed(executed(failed=3, ran=False))
    assert statistics.execution_count == 0
    assert statistics.by_batch_size == {}
    assert statistics.failures[FailureReason.BACKEND] == 3


def test_failures_without_a_run_keep_their_reason() -> None:
    statistics = ModelStatistics()
    statistics.failed(FailureReason.REJECTED, 0.5)
    statistics.failed(FailureReason.CANCELED, 0.25)
    assert statistics.failures == {
        FailureReason.REJECTED: 1,
        FailureReason.CANCELED: 1,
        FailureReason.BACKEND: 0,
        FailureReason.OTHER: 0,
    }
    assert statistics.cancellations == 1
    assert statistics.fail == Duration(2, 0.75)


def test_batch_sizes_are_sorted() -> None:
    statistics = ModelStatistics()
    for rows in (8, 2, 8):
        statistics.executed(executed(rows))
    assert [(row["batch_size"], row["compute_infer"]["count"]) for row in statistics.to_json()["batch_stats"]] == [
        (2, 1),
        (8, 2),
    ]


def test_a_clock_that_is_set_back_never_makes_time_negative() -> None:
    duration = Duration()
    duration.add(1, -3.0)
    assert duration == Duration(1, 0.0)


@given(st.lists(st.floats(0, 30)))
def test_a_histogram_counts_every_value_once_and_in_order(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    rows = histogram.cumulative()
    assert [bound for bound, _ in rows] == ["0.1", "1.0", "10.0", "+Inf"]
    for bound, count in rows:
        assert count == sum(value <= float(bound) for value in values)
    assert histogram.total == pytest.approx(sum(values))


def test_latency_is_per_shape_class_and_power_of_two() -> None:
    latency = LatencyModel()
    latency.observe("16", 3, 0.3)
    latency.observe("16", 4, 0.8)
    latency.observe("16", 5, 0.5)
    latency.observe("32", 1, 1.0)
    measured = latency.seconds_per_row()
    assert measured["16/4"] == pytest.approx(0.1 + 0.2 * (0.2 - 0.1))
    assert measured["16/8"] == pytest.approx(0.1)
    assert measured["32/1"] == 1.0


def test_latency_forgets_what_was_not_seen_for_longest() -> None:
    latency = LatencyModel()
    for size in range(MAX_KEYS):
        latency.observe(str(size), 1, 1.0)
    latency.observe("0", 1, 1.0)
    latency.observe("new", 1, 1.0)
    measured = latency.seconds_per_row()
    assert len(measured) == MAX_KEYS
    assert "0/1" in measured
    assert "1/1" not in measured
