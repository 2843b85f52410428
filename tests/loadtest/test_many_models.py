"""The page of many models, and what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.many_models import ManyPoint, ManyResults, names_of, page, per_member, write_models


def members(count: int) -> ManyPoint:
    share = {"gateway": 0.01, "worker 1": 0.02 + 0.001 * count, "kafka": 0.002 * count, "redis": 0.0}
    return ManyPoint("members", count, 1, 2.0, share, {"gateway": 60.0, "worker 1": 80.0 + count, "kafka": 300.0})


def test_the_cost_of_a_member_is_the_slope_over_the_models() -> None:
    slope = per_member([members(1), members(50), members(100)])
    assert slope == pytest.approx({"gateway": 0.0, "worker 1": 1.0, "kafka": 2.0, "redis": 0.0})
    assert per_member([members(1)]) == {}


def test_results_survive_their_file_and_a_later_point_replaces_an_earlier_one(tmp_path: Path) -> None:
    results = ManyResults(failed={"members 1": "no"})
    for point in (members(1), ManyPoint("registered", 1000, 1, call_us=90.0, rate=900.0), members(1)):
        results.add(point)
    results.save(tmp_path / "r.json")
    read = ManyResults.load(tmp_path / "r.json")
    assert read == results
    assert (len(read.points), read.failed) == (2, {})
    assert ManyResults.load(tmp_path / "none.json") == ManyResults()


def test_the_page_has_every_point_and_what_failed() -> None:
    results = ManyResults([members(1), members(100)], {"cores": "2"}, {"fleet 1000": "250 of 1000 models are ready"})
    shares = {"gateway": 0.01, "kafka": 0.5, "redis": 0.0} | {f"worker {n}": 0.1 for n in range(1, 5)}
    memory = {"gateway": 64.0, "kafka": 400.0, "redis": 9.0} | {f"worker {n}": 100.0 for n in range(1, 5)}
    results.points.append(ManyPoint("fleet", 100, 4, 12.0, shares, memory, 95.0, 1000.0))
    results.points.append(ManyPoint("registered", 1000, 1, call_us=91.0, rate=900.0, memory_mib={"gateway": 70.0}))
    text = page(results)
    assert "| 100 | 12.0 | 1.00 | 40.0 | 50.0 | 0.00 | 64.0 | 400 | 400 | 9.00 | 95.0 |" in text
    assert "| 1,000 | 91.0 | 900 | 0 | 70.0 |" in text
    assert "worker 1 1.00 ms" in text
    assert "Not measured: fleet 1000 models: 250 of 1000 models are ready." in text


def test_a_repository_of_models_without_files(tmp_path: Path) -> None:
    folder = write_models(tmp_path, names_of(3))
    assert sorted(path.parent.name for path in folder.glob("*/config.pbtxt")) == ["many-0000", "many-0001", "many-0002"]
