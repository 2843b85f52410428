"""The scaling trial for real, shortened: our signal under one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE
from loadtest.scaling.load import Phases
from loadtest.scaling.trial import TrialPlan, run_trial

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]


def test_workers_come_and_go_with_a_step_and_every_request_is_answered(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    phases = Phases(peak=40.0, up=0.0, top=0.0, gap=1.0, step=6.0, tail=8.0)
    plan = TrialPlan(phases, ("ours",), most=3, window=2.0, wakes=1, calibration=2.0)
    environ = {**os.environ, KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url}
    trial = run_trial(plan, tmp_path, print, environ)
    (run,) = trial.runs
    step = run.shapes["step"]
    assert run.unanswered == 0, run.complaints
    assert step.outcomes == {"ok": step.requests}
    assert step.requests > 150
    workers = [there for _, _, there, _, _ in run.samples]
    assert workers[0] == 0
    assert 1 <= max(workers) <= plan.most
    assert max(ready for *_, ready, _ in run.samples) >= 1
    assert run.statuses.keys() <= {"0", "starting"}, "each worker was drained and ended in order"
    assert run.statuses["0"] >= 1
    assert step.worker_seconds > 0
    (wake,) = trial.wakes
    assert 0 < wake.push < wake.answer
