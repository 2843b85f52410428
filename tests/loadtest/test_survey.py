from __future__ import annotations

import os
import threading

import pytest

from loadtest import models, survey, systems
from loadtest.payloads import Pool
from loadtest.processes import Meter
from tests.loadtest.conftest import V2Server


def test_an_account_holds_cpu_per_request_and_the_mean_batch_since_it_was_asked(
    threaded_server: V2Server, pool: Pool
) -> None:
    system = systems.System("embedded", threaded_server.port, Meter({"ours": os.getpid()}), 0.5)
    account = survey.Account(system, "addsub")
    with account.window():
        for body in pool.bodies[:10]:
            systems.ask(system.address("addsub"), "POST", system.address("addsub").path, body)
        sum(index * index for index in range(3_000_000))
    assert account.cpu_us(10)["ours"] > 5_000
    assert account.mean_batch() == pytest.approx(2.0)
    assert account.mean_batch() == 0  # nothing since


def test_sampling_reads_while_the_block_runs_and_stops_with_it() -> None:
    enough, count = threading.Event(), 0

    def read() -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 3:
            enough.set()
        return {"server": float(count)}

    with survey.sampled(read, 0.01) as rows:
        assert enough.wait(10)
    assert [row["server"] for row in rows[:3]] == [1, 2, 3]
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert len(rows) == count


def test_plans_name_what_there_is() -> None:
    for plan in (survey.SurveyPlan(), survey.QUICK, survey.GPU):
        assert set(plan.models) <= set(models.ALL)
        assert {models.ALL[name].on_gpu for name in plan.models} == {plan is survey.GPU}
        assert set(plan.systems) <= set(survey.SYSTEMS)
        assert 1 in plan.callers
        assert max(plan.batch_sizes) == 32


def test_the_full_plan_stays_below_a_quarter_of_an_hour_of_load() -> None:
    plan = survey.SurveyPlan()
    points = plan.sweeps * len(plan.callers) * plan.closed_s + len(plan.shares) * (plan.open_s + 1) + plan.warmup_s
    limits = 2 * (len(plan.batch_sizes) * (plan.limit_s + 0.2) + 1)
    asked = 2 * (plan.sweeps * len(plan.callers) + len(plan.shares) + 2) * systems.HEARTBEATS  # for statistics
    fleet_only = plan.sweeps * plan.closed_s + asked
    queue = 3 * plan.closed_s + plan.open_s
    rest = survey.IDLE_SETTLE + survey.IDLE_FOR + plan.broker_warmup_s + 40  # seconds for starts
    assert len(plan.models) * (2 * (points + limits) + fleet_only) + queue + rest < 900
