"""More than a thousand schedules of faults against the real gateway and worker code: no promise may break.

A seed that fails is replayed by `python -m tests.simulation --seed N`, which prints everything that happened, or here by
`PENSTOCK_SIMULATION_SEED=N`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.__main__ import run
from tests.simulation.seeds import seeds
from tests.simulation.simulate import simulate


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_schedule_breaks_a_promise() -> None:
    chosen = seeds()
    reports = list(run(chosen, 1 if len(chosen) == 1 else os.cpu_count() or 1))
    failed = [report for report in reports if report.violations]
    assert not failed, "\n".join(map(str, failed[:5]))
    if len(chosen) > 100:  # else the schedules prove nothing
        assert sum(report.reruns for report in reports) > len(reports) / 10
        assert {fault.kind for report in reports for fault in report.faults} >= {"kill_worker", "fail_redis_over"}


@pytest.mark.parametrize("seed", [3, 17, 58])
def test_a_seed_does_the_same_again(seed: int) -> None:
    """Also after others, and in a process that hashes strings differently."""
    first = simulate(seed)
    simulate(seed + 1)
    again = simulate(seed)
    assert again.events == first.events
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.stdout.splitlines()[-1] == f"digest {first.digest}"


def test_seeds_differ() -> None:
    assert simulate(3).digest != simulate(4).digest


def test_a_broken_promise_says_how_to_see_it_again() -> None:
    from tests.simulation.mutants import MUTANTS
    from tests.simulation.planting import planted

    with planted(MUTANTS["answers are swapped within a batch"]):
        report = next(report for report in map(simulate, range(200)) if report.violations)
    assert f"python -m tests.simulation --seed {report.seed}" in str(report)
    assert "I5" in str(report)
