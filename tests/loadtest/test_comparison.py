from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from loadtest import comparison_report
from loadtest.compare import BATCH_SIZES, Plan
from loadtest.comparison import Comparison, Range, Sample, ScenarioResult, Server, over_rounds, p50, rate
from loadtest.interpreters import THIS_ONE
from loadtest.scenarios import SCENARIOS

TRITON, ONNX, BARE = Server("triton", "3.11"), Server("onnx", "3.11"), Server("bare", "")


def sample(index: int, server: Server, callers: int, rate: float, spin: float = 50.0, after: float = 0.0) -> Sample:
    cpu = {"server": 1e6 / rate}
    return Sample(index, *server, callers, rate, 1e3 / rate, 2e3 / rate, cpu, 5.0, 0, (spin, after or spin), 0.004)


def result(*samples: Sample) -> ScenarioResult:
    return ScenarioResult("abc", "today", list(samples))


def addsub() -> ScenarioResult:
    """Three rounds; in the second, the machine was half as fast."""
    speeds = (1.0, 0.5, 1.0)
    rates = {(TRITON, 1): 100.0, (TRITON, 64): 1000.0, (ONNX, 1): 50.0, (ONNX, 64): 1700.0}
    return result(
        *(
            sample(index, server, callers, value * speed, 50 / speed)
            for index, speed in enumerate(speeds)
            for (server, callers), value in rates.items()
        )
    )


def test_a_figure_is_the_median_with_its_range() -> None:
    assert over_rounds([3.0, 1.0, 2.5]) == Range(2.5, 1.0, 3.0)
    assert over_rounds([]) is None
    assert addsub().figure(ONNX, rate, 64) == Range(1700, 850, 1700)


def test_ratios_are_within_a_round_so_a_slow_round_changes_none() -> None:
    assert addsub().against_triton(ONNX, rate, 64) == pytest.approx(Range(1.7, 1.7, 1.7))
    assert addsub().against_triton(ONNX, p50, 1) == pytest.approx(Range(2, 2, 2))


def test_without_a_number_of_callers_the_best_of_each_round_counts() -> None:
    rates = {(0, 16): 900.0, (0, 64): 1000.0, (1, 16): 1100.0, (1, 64): 700.0}
    found = result(*(sample(index, TRITON, callers, value) for (index, callers), value in rates.items()))
    assert found.figure(TRITON, rate) == Range(1050, 1000, 1100)


def test_a_share_of_the_bare_loop_is_within_a_round() -> None:
    rates = {
        (0, ONNX): 500.0,
        (1, ONNX): 240.0,
        (2, ONNX): 600.0,
        (0, BARE): 1000.0,
        (1, BARE): 400.0,
        (2, BARE): 1000.0,
    }
    found = result(*(sample(index, server, 32, value) for (index, server), value in rates.items()))
    assert found.of_bare_loop(ONNX) == pytest.approx(Range(0.6, 0.5, 0.6))
    assert found.pythons == ["3.11"]
    assert addsub().of_bare_loop(ONNX) is None


def test_each_python_is_compared_with_triton_on_the_same_one() -> None:
    other = [Server(role, "3.11.2") for role in ("triton", "onnx")]
    rates = {TRITON: 1000.0, ONNX: 1000.0, other[0]: 1200.0, other[1]: 2400.0}
    found = result(*(sample(0, server, 64, value) for server, value in rates.items()))
    ratios = [found.against_triton(Server("onnx", python), rate, 64) for python in found.pythons]
    assert ratios == [Range(1, 1, 1), Range(2, 2, 2)]


def test_a_triton_of_unknown_python_stands_against_all_and_none_against_nobody() -> None:
    found = result(sample(0, Server("triton", ""), 1, 100.0), sample(0, ONNX, 1, 50.0))
    assert found.against_triton(ONNX, rate, 1) == Range(0.5, 0.5, 0.5)
    assert result(sample(0, ONNX, 1, 50.0)).against_triton(ONNX, rate, 1) is None


@pytest.mark.parametrize(("after", "unsteady"), [(54.9, False), (55.1, True), (44.9, True), (45.1, False)])
def test_a_point_is_unsteady_if_the_calibration_moved(after: float, unsteady: bool) -> None:
    assert sample(0, ONNX, 1, 50.0, 50.0, after).unsteady is unsteady


def test_a_comparison_survives_json(tmp_path: Path) -> None:
    comparison = Comparison({"machine": "2 cores"}, {"addsub": addsub(), "mlp": result()})
    comparison.save(tmp_path / "deep" / "results.json")
    assert Comparison.load(tmp_path / "deep" / "results.json") == comparison


def test_scenarios_of_an_earlier_run_stay_if_it_was_on_the_same_machine() -> None:
    earlier = Comparison({"processor": "A", "Python 3.11": "fast"}, {"addsub": addsub()})
    again = earlier.then({"processor": "A", "load before the start": "1 %"})
    assert again.scenarios == earlier.scenarios
    assert again.about == {"processor": "A", "Python 3.11": "fast", "load before the start": "1 %"}
    assert earlier.then({"processor": "B"}) == Comparison({"processor": "B"})


def test_the_page_has_a_row_for_each_server_and_number_of_callers() -> None:
    page = comparison_report.markdown(Comparison({"machine": "2 cores"}, {"addsub": addsub()}))
    assert "| machine | 2 cores |" in page
    rows = [line for line in page.splitlines() if line.startswith(("| Triton,", "| Penstock,"))]
    assert len(rows) == 4
    assert rows[3] == (
        "| Penstock, ONNX backend | 3.11 | 64 | 1,700 (850 to 1,700) | 1.70 (1.70 to 1.70)"
        " | 0.59 (0.59 to 1.18) | 1.18 (1.18 to 2.35) | 588 | 5.00 | 50 to 100 | 0 of 3 |"
    )
    assert "took at most 0.4 % of the core" in page
    assert "3 rounds" in page


def test_the_page_says_what_was_not_measured() -> None:
    page = comparison_report.markdown(Comparison({}, {"addsub": result(sample(0, ONNX, 1, 50.0))}))
    missing = page.partition("## Not measured")[2]
    assert "MLP, JSON, one process" in missing
    assert "Triton in: add/sub, JSON, one process" in missing
    assert "nvidia-pytriton" in missing
    one = result(sample(0, TRITON, 1, 50.0), sample(0, Server("kafka-onnx", "3.11"), 1, 50.0))
    page = comparison_report.markdown(Comparison({}, {"addsub": with_two_pythons(), "kafka": one}))
    assert "Python 3.11.2 in: add/sub, JSON, through Kafka and Redis" in page.partition("## Not measured")[2]


def with_two_pythons() -> ScenarioResult:
    servers = itertools.product(("triton", "onnx"), ("3.11", "3.11.2"))
    return result(*(sample(0, Server(*server), 1, 50.0) for server in servers))


def test_cpu_of_several_processes_is_named_by_process() -> None:
    both = dataclasses.replace(sample(0, Server("kafka-onnx", "3.11"), 1, 50.0), cpu_us={"gateway": 30.0, "kafka": 5.0})
    page = comparison_report.markdown(Comparison({}, {"kafka": result(both)}))
    assert "| 35.0: gateway 30.0, kafka 5.00 |" in page


def test_the_readme_gets_the_medians_of_the_first_python() -> None:
    mlp = result(sample(0, TRITON, 32, 400.0), sample(0, ONNX, 32, 600.0), sample(0, BARE, 32, 1000.0))
    assert mlp.servers()[-1] == BARE
    assert "| - | - | - | - | 50 to 50 | 0 of 1 |" in comparison_report.markdown(Comparison({}, {"mlp": mlp}))
    table = comparison_report.figures(Comparison({}, {"addsub": addsub(), "mlp": mlp}))
    assert "| add/sub, JSON: best rate/s | 1,000 | - | 1,700 (x 1.70) | - |" in table
    assert "| add/sub, JSON: p50 with one caller, ms | 10.0 | - | 20.0 | - |" in table
    assert "| MLP, JSON: share of the bare loop | 0.40 | - | 0.60 | - |" in table


def test_the_readme_in_this_repository_has_the_figures_of_the_page() -> None:
    root = Path(__file__).parents[2]
    comparison = Comparison.load(root / "docs" / "benchmarks" / "results.json")
    readme = (root / "README.md").read_text()
    assert comparison_report.with_figures(readme, comparison) == readme
    assert (root / "docs" / "benchmarks.md").read_text() == comparison_report.markdown(comparison)


def test_a_readme_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        comparison_report.with_figures("# P\n", Comparison({}))


def test_the_full_plan_stays_below_twenty_minutes_of_points() -> None:
    plan = Plan((THIS_ONE, THIS_ONE), "triton")
    total = 0.0
    for name in plan.scenarios:
        scenario = SCENARIOS[name]
        servers = 3 * (1 if scenario.through_kafka else len(plan.interpreters))
        points = servers * len(scenario.callers) * (scenario.seconds + 0.2)
        bare = len(BATCH_SIZES) * (plan.bare + 0.5) if scenario.bare else 0
        starts = servers * (plan.warmup + 3) + (plan.broker_warmup if scenario.through_kafka else 0)
        total += plan.rounds * (points + bare * len(scenario.callers)) + starts
    assert total < 20 * 60
