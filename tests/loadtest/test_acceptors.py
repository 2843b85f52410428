"""The page about acceptor processes, from made-up points."""

from __future__ import annotations

from pathlib import Path

from loadtest.acceptors import AcceptorPoint, AcceptorResults, markdown


def point(processes: int, number: int, rate: float, cpu_us: float) -> AcceptorPoint:
    return AcceptorPoint("embedded", processes, number, rate, 2.0, 5.0, cpu_us, 0.0, 10.0, 0)


def test_the_page_compares_points_of_the_same_round(tmp_path: Path) -> None:
    points = [point(1, 0, 1000, 100), point(2, 0, 1900, 110), point(2, 1, 2100, 120), point(1, 1, 1000, 100)]
    results = AcceptorResults().with_points(points, {"cores": "2"})
    results.save(tmp_path / "processes.json")
    assert AcceptorResults.load(tmp_path / "processes.json") == results

    page = markdown(results)
    assert "| embedded | 1 | 1,000 | 2.00 | 5.00 | 100 | 10,000 |" in page
    assert "| embedded | 2 / 1 | x 2.00 (1.90 to 2.10) | x 1.00 (1.00 to 1.00) |" in page
    assert "x 1.15 (1.10 to 1.20)" in page
    assert "| cores | 2 |" in page


def test_new_points_replace_those_of_their_kind_only() -> None:
    first = AcceptorResults().with_points([point(1, 0, 1, 1)], {"a": "1"})
    again = first.with_points([point(1, 0, 2, 1)], {"a": "2"})
    assert [each.rate for each in again.points] == [2]
    assert again.about == {"embedded": {"a": "2"}}
