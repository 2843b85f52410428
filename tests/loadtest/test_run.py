from __future__ import annotations

import io
import json

from loadtest.connections import HttpTarget
from loadtest.payloads import Pool
from loadtest.run import OpenPlan, closed_point, open_point
from tests.loadtest.conftest import V2Server


def test_an_open_run_reports_what_was_asked_and_what_it_cost(threaded_server: V2Server, pool: Pool) -> None:
    rows = io.StringIO()
    plan = OpenPlan(rate=300, duration=0.5, warmup=0.2, process="constant", slo_ms=1000)
    point = open_point(HttpTarget(threaded_server.address, pool), plan, rows)
    assert point.outcomes == {"ok": 150, "rejected": 0, "failed": 0, "wrong": 0}
    assert point.rate == point.goodput == 300
    assert threaded_server.requests == 210
    assert len(rows.getvalue().splitlines()) == 150
    assert all(json.loads(row)["intended"] >= 0.2 for row in rows.getvalue().splitlines())
    assert 0 < point.generator_us < 5000
    assert point.latency_ms["p50"] <= point.latency_ms["p99"] <= point.latency_ms["max"]
    assert point.curve_ms[0][0] == 0
    assert point.complaints == {}


def test_goodput_is_what_came_in_time(threaded_server: V2Server, pool: Pool) -> None:
    plan = OpenPlan(rate=200, duration=0.3, warmup=0.0, slo_ms=0.001)
    point = open_point(HttpTarget(threaded_server.address, pool), plan)
    assert point.rate > 0
    assert point.goodput == 0


def test_a_closed_run_counts_right_answers(threaded_server: V2Server, pool: Pool) -> None:
    point = closed_point(HttpTarget(threaded_server.address, pool), callers=4, duration=0.3, warmup=0.1)
    assert point.callers == 4
    assert point.rate > 0
    assert point.errors == 0
    assert threaded_server.connections == 4
