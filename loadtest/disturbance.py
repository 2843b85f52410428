"""What the callers of one model notice while something happens beside it: another model loads, a worker joins.

Unlike the benchmark proper nothing is pinned: a load takes CPU time, and what is asked is whether it can take it from those who
already serve. The rate is low for the same reason. Each disturbance is compared with the quiet seconds right before it, in which
calls arrive at the same moments. Only what the fleet does falls into the disturbed seconds: models are written and copied before
them, and appear by a rename; the broker has memory enough to collect no garbage, or it would do so in the same second of every
round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from loadtest import direct, models, payloads
from loadtest.connections import HttpTarget
from loadtest.processes import ServerProcess
from loadtest.results import Disturbance
from loadtest.run import OpenPlan, open_point
from loadtest.systems import System, fleet, wait_until_ready

SERVED: Final = "addsub"
RATE: Final = 200.0
SECONDS: Final = 8.0
POLL: Final = ["--model-control-mode", "poll", "--repository-poll-secs", "0.5"]

Act = Callable[[], Callable[[], None]]
"""Prepares a disturbance, and returns what causes it."""


def measure(folder: Path, rounds: int, say: Callable[[str], None]) -> list[Disturbance]:
    """Every disturbance, `rounds` times, each time with a fleet of its own."""
    from infra.local.kafka import UNPAUSED

    found: list[Disturbance] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="penstock-disturbed-") as place:
            repository = models.write_repository(Path(place), [SERVED])
            pool = payloads.build(models.MODELS[SERVED].inputs, reference=direct.load(repository / SERVED))
            with fleet(repository, None, SERVED, pool, POLL, jvm=UNPAUSED) as system, contextlib.ExitStack() as stack:
                target = HttpTarget(system.address(SERVED), pool)
                for name, act in _acts(folder, repository, system, stack):
                    found.append(_disturb(name, target, act))
                    say(f"disturbed by {name}: p99 {found[-1].quiet_p99_ms:.2f} -> {found[-1].p99_ms:.2f} ms")
    return found


def _acts(folder: Path, repository: Path, system: System, stack: contextlib.ExitStack) -> Iterator[tuple[str, Act]]:
    def load(model: str) -> Callable[[], None]:
        source = models.write_repository(folder / "disturbing", [model]) / model
        partial = shutil.copytree(source, repository.parent / f"{repository.name}-{model}")

        def act() -> None:
            partial.rename(repository / model)
            wait_until_ready(dataclasses.replace(system.address(SERVED), model=model))

        return act

    def join() -> Callable[[], None]:
        line = ["-m", "penstock", "worker", "--model-repository", str(repository), *POLL, "--metrics-port", "0"]
        line += ["--kafka", system.kafka, "--redis", system.redis, "--prefix", system.prefix]

        def act() -> None:
            stack.callback(ServerProcess(line, None).stop)
            time.sleep(SECONDS - 1)

        return act

    yield "nothing: what the machine does by itself", lambda: lambda: None
    yield "loading a model of the same framework (mlp-half, 17 MB)", lambda: load("mlp-half")
    yield "loading a model of a framework that was not imported yet (encoder, torch)", lambda: load("encoder")
    yield "a second worker that joins", join


def _disturb(name: str, target: HttpTarget, act: Act) -> Disturbance:
    open_point(target, OpenPlan(RATE, 2.0, warmup=0.0))
    cause = act()
    quiet = open_point(target, OpenPlan(RATE, SECONDS, warmup=0.0))
    thread = threading.Thread(target=cause)
    thread.start()
    point = open_point(target, OpenPlan(RATE, SECONDS, warmup=0.0))
    thread.join()
    failed = sum(count for outcome, count in point.outcomes.items() if outcome != "ok")
    return Disturbance(
        name, RATE, quiet.latency_ms["p50"], quiet.latency_ms["p99"], point.latency_ms["p50"], point.latency_ms["p99"],
        point.latency_ms["max"], failed,
    )  # fmt: skip
