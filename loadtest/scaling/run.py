"""Runs the trial or the simulation, and writes page, JSON and pictures; the part that is not run stays as it was."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loadtest.scaling.report import markdown
from loadtest.scaling.results import ScalingResults, Simulated, Trial
from loadtest.scaling.simulation import Scene, simulate_all
from loadtest.scaling.trace import DAY, KINDS, day
from loadtest.scaling.trial import TrialPlan, run_trial
from protocol.errors import FleetError


def run(plan: TrialPlan, out: Path, say: Callable[[str], None]) -> None:
    """The trial.

    Raises:
        FleetError: a process does not start, or a request was not answered right; the page is written all the same.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-scaling-") as place:
        trial = run_trial(plan, Path(place), say)
    write(dataclasses.replace(ScalingResults.load(out.with_suffix(".json")), trial=trial), out)
    say(f"wrote {out}")
    if lost := sum(run.unanswered for run in trial.runs):
        raise FleetError(f"{lost} requests were not answered")


def run_simulation(models: int, seed: int, out: Path, say: Callable[[str], None], seconds: float = DAY) -> None:
    """The simulated day."""
    from loadtest.machine import about

    simulated = simulated_day(models, seed, seconds, about(None, None), say)
    write(dataclasses.replace(ScalingResults.load(out.with_suffix(".json")), simulated=simulated), out)
    say(f"wrote {out}")


def simulated_day(
    models: int, seed: int, seconds: float, about: dict[str, str], say: Callable[[str], None]
) -> Simulated:
    """All kinds of models together, and each by itself."""
    began, scene, traces = time.process_time(), Scene(), day(models, seed, seconds)
    groups = {}
    for kind in KINDS:
        groups[kind] = simulate_all([trace for trace in traces if trace.kind == kind], scene, seconds)
        say("\n".join(f"{kind:8} {one.policy:6} {one.goodput:.2f} rows in time per worker-s" for one in groups[kind]))
    facts = {"models": models, "rows": sum(trace.total for trace in traces), "seconds": time.process_time() - began}
    return Simulated(groups, facts, about)


def write(results: ScalingResults, out: Path) -> None:
    """Page, JSON and pictures."""
    folder = out.with_suffix("")
    results.save(out.with_suffix(".json"))
    trial = results.trial
    made = _pictures(trial, folder) if trial is not None and trial.runs else []
    pictures = [f"{folder.name}/{picture.name}" for picture in made]
    out.write_text(markdown(results, pictures))


def _pictures(trial: Trial, folder: Path) -> list[Path]:
    from loadtest.plots import write_scaling

    folder.mkdir(parents=True, exist_ok=True)
    facts = trial.facts
    spans = [(0.0, facts["ramp ends"]), (facts["step begins"], facts["step ends"])]
    return [write_scaling(trial.runs, spans, folder / "trial.png")]
