from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest import report, tables
from loadtest.cli import main
from loadtest.plots import write_all
from loadtest.results import ClosedPoint, Disturbance, Idle, ModelResult, OpenPoint, Results, ServerResult, Soak
from loadtest.samples import Latencies

LATENCY = {"p50": 1.5, "p90": 2.0, "p95": 2.5, "p99": 4.0, "p99.9": 9.0, "mean": 1.7, "max": 12.0}
OPEN = OpenPoint(
    "poisson", 2000.0, 10.0, 1998.0, 1990.0, 50.0, {"ok": 19980, "rejected": 15, "failed": 5, "wrong": 0}, LATENCY,
    {"p99": 0.08}, [(0.0, 0.5), (50.0, 1.5), (99.0, 4.0)], 21.5, {"server": 98.0}, 5.5, {"rejected 429": 15},
)  # fmt: skip
CLOSED = [
    ClosedPoint(1, 5.0, 1800.0, LATENCY, 0, {"server": 210.0}, 1.0),
    ClosedPoint(32, 5.0, 4570.0, {**LATENCY, "p50": 6.0}, 0, {"server": 160.0}, 28.4),
    ClosedPoint(64, 5.0, 4400.0, {**LATENCY, "p50": 12.0}, 3, {"server": 165.0}, 31.0),
]
RESULTS = Results(
    about={"machine": "2 cores", "commit": "abc"},
    limits={"mlp": {1: 600.0, 32: 7310.0}, "addsub": {1: 42000.0}},
    servers={
        "embedded": ServerResult(
            0.82,
            {"first answer": {"server": 120.0}, "after load": {"server": 131.0}},
            {"mlp": ModelResult(CLOSED, [OPEN])},
            {"mlp": {1: 600.0, 32: 7310.0}},
        )
    },
    soaks=[
        Soak(
            "embedded",
            "addsub",
            OPEN,
            [{"seconds": at, "server": mib} for at, mib in ((0.0, 120.0), (5.0, 131.0), (10.0, 131.5))],
        )
    ],
    idle=[Idle(100, {"worker": 0.036}, {"worker": 310.0})],
)


def test_results_survive_json(tmp_path: Path) -> None:
    RESULTS.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == RESULTS


def test_the_best_point_is_the_fastest_not_the_last() -> None:
    assert ModelResult(CLOSED, []).best.callers == 32
    with pytest.raises(ValueError, match="empty"):
        _ = ModelResult([], []).best


def test_disturbances_of_older_results_are_medians_over_their_rounds() -> None:
    rounds = [
        Disturbance("a join", 200.0, 1.0, 4.0, 1.5, then, longest, 1)
        for then, longest in ((4.0, 9), (8.0, 30), (5.0, 7))
    ]
    quiet = Disturbance("nothing", 200.0, 1.0, 4.0, 1.0, 4.0, 5.0, 0)
    *_, nothing, join = report.disturbances_table([quiet, *rounds]).splitlines()
    assert nothing == "| nothing | 1 | 1.00 | 4.00 | 1.00 | 4.00 | 1.00 | 1.00 | 1.00 | 5.00 | 0 |"
    assert join == "| a join | 3 | 1.00 | 4.00 | 1.50 | 5.00 | 1.25 | 1.00 | 2.00 | 30 | 3 |"


def test_p99_of_a_disturbance_is_of_the_calls_of_all_rounds_together() -> None:
    latencies = [Latencies(), Latencies()]
    for which, slow in enumerate((0, 30)):  # 970 calls of 2 ms, and 30 of 10 to 39 ms, or none
        for call in range(1000 - slow):
            latencies[which].add(0.002 + call * 1e-9)
        for call in range(slow):
            latencies[which].add(0.010 + call * 0.001)
    tails = [each.slowest_ms(Disturbance.SLOWEST) for each in latencies]
    assert [len(tail) for tail in tails] == [20, 20]
    rounds = [Disturbance("a join", 200.0, 1.0, 2.0, 1.0, 9.0, 39.0, 0, 5.0, tails[0], tail) for tail in tails]
    join = report.disturbances_table(rounds).splitlines()[-1]
    # 20 of 2000 calls are 1 %: the twentieth from the end are 20 ms.
    assert join == "| a join | 2 | 1.00 | 2.00 | 1.00 | 20.0 | 10.0 | 4.50 | 4.50 | 39.0 | 0 |"


def test_disturbances_have_a_table_for_each_length_of_time() -> None:
    both = [
        Disturbance("a join", 200.0, 1.0, 4.0, 1.5, then, 30.0, 0, length) for length, then in ((60.0, 4.2), (8.0, 6.0))
    ]
    _, minute, first = report.disturbances_table(both).split("### ")
    assert minute.startswith("The 60 s before")
    assert "| 1.05 |" in minute
    assert first.startswith("The 8 s before")
    assert "| 1.50 |" in first


def test_a_run_on_a_gpu_says_so_first() -> None:
    assert report.markdown(RESULTS).startswith("# Survey of our servers\n")
    elsewhere = dataclasses.replace(RESULTS, about={"cores": "not pinned", "gpu": "one"})
    assert report.markdown(elsewhere).startswith("# Benchmarks on a GPU\n")


def test_ratios_are_to_the_best_batch_size() -> None:
    assert report.ratio(4570.0, {1: 600.0, 32: 7310.0}) == pytest.approx(0.625, abs=1e-3)
    assert report.ratio(4570.0, None) is None
    assert report.ratio(4570.0, {}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (0.625, "0.62"),
        (None, "-"),
        (math.nan, "-"),
        ("x", "x"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert tables.cell(value) == text


def test_the_report_leads_with_the_ratio() -> None:
    text = report.markdown(RESULTS, ["benchmarks/mlp-throughput.png"])
    headline = next(line for line in text.splitlines() if line.startswith("| mlp |"))
    assert headline == "| mlp | 7,310 | 4,570 (32 callers) | 0.63 | 1.50 | 4.00 |"
    assert "![benchmarks/mlp-throughput.png](benchmarks/mlp-throughput.png)" in text
    assert "| 64 | 4,400 | 0.60 | 12.0 | 4.00 | 31.0 | 3 | 165 |" in text
    assert "| poisson | 2,000 | 1,998 | 1,990 (≤ 50 ms) | 1.50 | 4.00 | 9.00 | 5.50 | 20 | 0.08 | 21.5 | 98.0 |" in text
    assert "| worker | 3.60 | 310 |" in text
    assert "| server | 120 | 131 | 132 | 0.50 |" in text


def test_every_table_is_rectangular() -> None:
    widths = []
    for line in report.markdown(RESULTS).splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
        elif widths:
            assert len(set(widths)) == 1
            widths.clear()


def test_an_empty_run_still_makes_a_report() -> None:
    assert "# Survey of our servers" in report.markdown(Results(about={}))


def test_plots_are_written(tmp_path: Path) -> None:
    files = write_all(RESULTS, tmp_path / "plots")
    assert [file.name for file in files] == ["mlp-throughput.png", "mlp-latency.png", "soak-memory.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_model_without_open_loop_has_no_distribution(tmp_path: Path) -> None:
    server = dataclasses.replace(RESULTS.servers["embedded"], models={"mlp": ModelResult(CLOSED, [])})
    results = dataclasses.replace(RESULTS, servers={"embedded": server}, soaks=[])
    assert [file.name for file in write_all(results, tmp_path)] == ["mlp-throughput.png"]


def test_a_server_is_compared_with_the_limit_of_its_own_minutes() -> None:
    assert "| mlp | 7,310 | 4,570 (32 callers) | 0.63 |" in report.markdown(RESULTS)
    server = dataclasses.replace(RESULTS.servers["embedded"], limits={"mlp": {32: 5000.0}})
    slower = dataclasses.replace(RESULTS, servers={"embedded": server})
    assert "| mlp | 7,310 | 4,570 (32 callers) | 0.91 |" in report.markdown(slower)


def test_results_from_before_that_have_one_limit_for_all(tmp_path: Path) -> None:
    data = json.loads(json.dumps(dataclasses.asdict(RESULTS)))
    del data["servers"]["embedded"]["limits"]
    (tmp_path / "results.json").write_text(json.dumps(data))
    assert Results.load(tmp_path / "results.json").servers["embedded"].limits == RESULTS.limits


def test_a_soak_of_another_run_says_of_which(tmp_path: Path) -> None:
    (soak,) = RESULTS.soaks
    (tmp_path / "docs").mkdir()
    dataclasses.replace(RESULTS, soaks=[]).save(tmp_path / "here.json")
    dataclasses.replace(RESULTS, about={"commit": "def", "date": "yesterday"}).save(tmp_path / "there.json")
    files = [str(tmp_path / "here.json"), "--soaks", str(tmp_path / "there.json")]
    line = ["report", *files, "--out", str(tmp_path / "docs" / "b.md")]
    assert CliRunner().invoke(main, line, catch_exceptions=False).exit_code == 0
    text = (tmp_path / "docs" / "b.md").read_text()
    assert f"| embedded: addsub at {tables.cell(soak.point.offered)}/s for 10.0 s (commit def, yesterday) |" in text
