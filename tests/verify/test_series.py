"""Several runs as one report: nothing that broke, failed or proved nothing is lost in the sum."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest

from penstock.cli.verify import _seeds
from penstock.verify.observe.history import InjectedFault, ObservedCall
from penstock.verify.plan.plan import FaultKind
from penstock.verify.report.report import BROKEN, HELD, PROVES_NOTHING, judged_report
from penstock.verify.report.series import brief, exit_code, failed, histogram, line, merged, percentiles, table
from protocol.errors import ConfigError
from tests.verify.histories import PLAN, START, healthy

ABOUT = {"date": "2026-01-01", "penstock": "1", "python": "3", "machine": "a machine"}


def run(seed: int = 1, *, wait: float = 0.5, wrong: bool = False) -> dict[str, Any]:
    history = healthy()
    history.faults = [
        InjectedFault(FaultKind.WORKER_KILL, "worker-0", START + 0.8, START + 0.9, (77,), hit=START + 0.85)
    ]
    last: ObservedCall = next(seen for seen in history.seen if seen.number == 8)
    last.at = START + 0.85 + wait
    if wrong:
        history.seen[0].answer = 12345
    return brief(judged_report(dataclasses.replace(PLAN, seed=seed), history).plain())


def test_the_sum_of_two_runs() -> None:
    made = merged([run(1, wait=0.5), run(2, wait=3.5)], ABOUT)

    assert made["exit_code"] == HELD
    assert orjson.loads(orjson.dumps(made))["totals"] == made["totals"]
    assert made["totals"]["requests"] == 18
    assert made["totals"]["redelivered"] == 2
    assert made["faults"] == {"worker-kill": {"done": 2, "left_out": 0}}
    waits = made["waits"]["worker-kill"]
    assert (waits["alone"], waits["over_bar"], waits["waits_s"]) == (2, 1, [0.5, 3.5])
    assert all("not_judged" not in one and "plan" not in one for one in made["runs"])


def test_one_run_that_broke_a_promise_breaks_all() -> None:
    made = merged([run(2), run(1, wrong=True), failed(3, "no broker")], ABOUT)

    assert made["exit_code"] == BROKEN
    assert made["totals"]["broken"] == [1]
    assert made["totals"]["did_not_take_place"] == [3]
    assert made["verdicts"]["I5"]["broken"] >= 1


def test_a_run_that_did_not_take_place_proves_nothing() -> None:
    assert exit_code([run(), failed(3, "no broker")]) == PROVES_NOTHING
    assert "no broker" in line(failed(3, "no broker"))


def test_the_table_says_what_was_run_and_what_became_of_it() -> None:
    text = "\n".join(table(merged([run(1), run(2, wrong=True)], ABOUT)))

    assert "| runs (all promises held) | 2 (1) |" in text
    assert "| I5 | " in text
    assert "worker-kill 2" in text


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentiles([0.3, 0.1, 0.2]) == {"p50": 0.2, "p90": 0.3, "p99": 0.3, "max": 0.3}
    assert percentiles([])["max"] is None


def test_a_histogram_counts_every_value_once_and_a_bound_belongs_to_its_bucket() -> None:
    assert histogram([0.05, 0.1, 0.11, 0.3, 2.5, 3.0, 7.0]) == "≤ 0.1 s: 2, ≤ 0.15 s: 1, ≤ 0.3 s: 1, ≤ 3 s: 2, > 3 s: 1"
    assert histogram([]) == ""


def test_seeds_are_one_a_range_or_a_count() -> None:
    assert _seeds("7", None) == [7]
    assert _seeds("3-5", None) == [3, 4, 5]
    assert _seeds("4", 3) == [4, 5, 6]
    assert _seeds("", 2) == [1, 2]
    for text, count in (("x", None), ("5-3", None), ("1-3", 2)):
        with pytest.raises(ConfigError):
            _seeds(text, count)
