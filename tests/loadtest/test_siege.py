"""A siege of a few seconds, and its page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from loadtest import siege, siege_report
from loadtest.besiegers import Counted, besiege, counted_of
from loadtest.siege_attacks import ATTACKS, Ground
from tests.loadtest.conftest import Body, Reply, V2Server, right

SUMMARY = {
    "outcomes": {"ok": 500, "rejected": 0, "failed": 0, "wrong": 0},
    "latency_ms": {"p50": 2.0, "p95": 3.0, "p99": 4.0, "p99.9": 5.0, "max": 6.0},
}


def found(**changed: object) -> siege.Siege:
    attacked = {**SUMMARY, "latency_ms": {**SUMMARY["latency_ms"], "p99": 8.0}}
    counted = [Counted("smuggling", "a request in a body", 10.0, 50, {"200": 40, "-": 10})]
    whole = siege.Siege(
        {"commit": "abc"}, siege.SiegePlan(), SUMMARY, attacked, [(0.0, 100.0), (1.0, 612.0)], 100.0, 300.0, counted, {}
    )
    return dataclasses.replace(whole, **changed)  # type: ignore[arg-type]


def test_what_is_within_its_bounds_holds() -> None:
    assert all(found().verdicts.values())


@pytest.mark.parametrize(
    ("changed", "promise"),
    [
        ({"attacked": {**SUMMARY, "latency_ms": {**SUMMARY["latency_ms"], "p99": 8.1}}}, "p99"),
        ({"quiet": {**SUMMARY, "outcomes": {**SUMMARY["outcomes"], "wrong": 1}}}, "wrong"),
        ({"attacks": [Counted("x", "y", 1.0, wrong_count=1)]}, "wrong"),
        ({"memory": [(0.0, 612.1)]}, "512 MiB"),
        ({"highest_mib": 612.1}, "512 MiB"),
        ({"attacked": {**SUMMARY, "outcomes": {**SUMMARY["outcomes"], "rejected": 1}}}, "served"),
        ({"attacked": {**SUMMARY, "outcomes": {**SUMMARY["outcomes"], "failed": 1}}}, "served"),
    ],
)
def test_what_is_not_breaks_its_promise(changed: dict[str, object], promise: str) -> None:
    assert [name for name, held in found(**changed).verdicts.items() if not held and promise in name]


def test_a_siege_is_kept_as_json_and_shown_as_a_page(tmp_path: Path) -> None:
    siege.save(found(), tmp_path / "siege.json")
    loaded = siege.load(tmp_path / "siege.json")
    assert loaded == found()
    page = siege_report.markdown(loaded)
    assert "| no wrong answer | yes |" in page
    assert "p99 under attack / alone: 2.00" in page
    assert "| smuggling | a request in a body | 10 | 50 | 200: 40, -: 10 | 0 | 0 |" in page


def test_attacks_are_chosen_by_parts_of_their_names() -> None:
    assert siege.names_of(["gzip"]) == ("gzip bombs", "a volley of gzip bombs")
    assert len(siege.names_of([])) == len(ATTACKS) >= 16
    with pytest.raises(ValueError, match="no attack has nonsense"):
        siege.names_of(["nonsense"])


async def test_attackers_count_what_is_answered_and_what_is_wrong(serve: object) -> None:
    async def wrong(body: Body) -> Reply:
        status, answer = await right(body)
        return status, answer.replace(b'"model_name"', b'"id":"nobody","model_name"')

    server: V2Server = await serve(wrong)  # type: ignore[operator]
    (counted,) = await besiege(Ground(server.port, server.port), ["pipelines"], 1.0)
    assert counted.begun >= 4
    assert counted.statuses["200"] > 0
    assert counted.wrong_count > 0
    assert counted_of('a warning\n[{"name":"a","what":"b","per_second":1.0}]\n') == [Counted("a", "b", 1.0)]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_few_seconds_of_siege() -> None:
    """Every attack is made and counted; the honest caller gets right answers meanwhile, and memory stays within its bounds."""
    plan = siege.SiegePlan("embedded", seconds=8.0, before=3.0, rate=30.0)
    outcome = siege.run_siege(plan)
    assert outcome.attacked["outcomes"]["ok"] > 100
    assert outcome.attacked["outcomes"]["wrong"] == outcome.quiet["outcomes"]["wrong"] == 0
    assert {each.name for each in outcome.attacks} == set(ATTACKS)
    assert all(each.begun for each in outcome.attacks if each.per_second >= 1)
    assert outcome.memory
    assert outcome.peak_mib < outcome.before_mib + plan.limit_mib
    assert [(each.name, each.wrong) for each in outcome.attacks if each.wrong_count] == []
