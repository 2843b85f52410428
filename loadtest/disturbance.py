"""How callers of one model are disturbed when another model loads, or a worker joins or leaves.

A load and a worker's start take CPU time. Whether they take it from serving processes is measured with nothing pinned, at a low
rate. The fleet's own effects are measured with all of it on one core: the joining worker has the other core, as it would have a
machine. The generator represents callers elsewhere and, if the system permits, has real-time priority.

Each disturbance is compared with the quiet time right before it, with calls at the same offsets, over two windows: the minute that
begins with it, which a graph of p99 shows, and its first seconds. They contain only the fleet's own work: models are written and
copied beforehand and appear by a rename, and the broker has enough memory to collect no garbage, which would otherwise fall into
the same second of every round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from loadtest import arrivals, direct, models, payloads
from loadtest.connections import HttpTarget
from loadtest.openloop import open_loop
from loadtest.processes import ServerProcess, before_all_others, cores, on_core
from loadtest.results import Disturbance
from loadtest.run import on_fresh_loop
from loadtest.samples import Outcome, Samples
from loadtest.systems import System, fleet, wait_until_ready
from protocol.runtime.loop import spare_collector

SERVED: Final = "addsub"
RATE: Final = 200.0
FIRST: Final = 8.0
"""Seconds that a load, a join or a leave takes, roughly."""
MINUTE: Final = 60.0
ON_ONE_CORE: Final = "; the fleet on one core"
OF_ITS_OWN: Final = ", with a core of its own"
POLL: Final = ["--model-control-mode", "poll", "--repository-poll-secs", "0.5"]

Act = Callable[[], Callable[[], None]]
"""Prepares a disturbance, and returns the function that causes it."""


def measure(folder: Path, rounds: int, say: Callable[[str], None], seconds: float = MINUTE) -> list[Disturbance]:
    """Every disturbance, `rounds` times, each time with a fleet of its own; each over its first seconds and over all.

    Args:
        folder: where models are kept between runs.
        rounds: how often.
        say: called with a line for each disturbance.
        seconds: of calls before each disturbance, and as many from it on.
    """
    server_core, other_core = cores()
    found: list[Disturbance] = []
    for _ in range(rounds):
        with _fleet(None) as (system, repository, target, stack):
            acts = _nothing(""), *_loads(folder, repository, system), *_joins(repository, system, stack, None, "")
            found += _disturbed(target, acts, seconds, say)
        if server_core is not None:
            with _fleet(server_core) as (system, repository, target, stack), on_core(other_core):
                acts = _nothing(ON_ONE_CORE), *_joins(repository, system, stack, other_core, OF_ITS_OWN)
                found += _disturbed(target, acts, seconds, say)
    return found


@contextlib.contextmanager
def _fleet(core: int | None) -> Iterator[tuple[System, Path, HttpTarget, contextlib.ExitStack]]:
    """A serving fleet with its repository, its target, and a stack of things to close before it."""
    from infra.local.kafka import UNPAUSED

    with tempfile.TemporaryDirectory(prefix="penstock-disturbed-") as place:
        repository = models.write_repository(Path(place), [SERVED])
        pool = payloads.build(models.MODELS[SERVED].inputs, reference=direct.load(repository / SERVED))
        with fleet(repository, core, SERVED, pool, POLL, jvm=UNPAUSED) as system, contextlib.ExitStack() as stack:
            yield system, repository, HttpTarget(system.address(SERVED), pool), stack


def _nothing(where: str) -> tuple[str, Act]:
    return f"nothing (control){where}", lambda: lambda: None


def _loads(folder: Path, repository: Path, system: System) -> Iterator[tuple[str, Act]]:
    def load(model: str) -> Callable[[], None]:
        source = models.write_repository(folder / "disturbing", [model]) / model
        partial = shutil.copytree(source, repository.parent / f"{repository.name}-{model}")

        def act() -> None:
            partial.rename(repository / model)
            wait_until_ready(dataclasses.replace(system.address(SERVED), model=model))

        return act

    yield "loading a model of the same framework (mlp-half, 17 MB)", lambda: load("mlp-half")
    yield "loading a model of a framework that was not imported yet (encoder, torch)", lambda: load("encoder")


def _joins(
    repository: Path, system: System, stack: contextlib.ExitStack, core: int | None, where: str
) -> Iterator[tuple[str, Act]]:
    line = ["-m", "penstock", "worker", "--model-repository", str(repository), *POLL, "--metrics-port", "0"]
    line += ["--kafka", system.kafka, "--redis", system.redis, "--prefix", system.prefix]
    joined: list[ServerProcess] = []

    def join() -> None:
        joined.append(ServerProcess(line, core))
        stack.callback(joined[0].stop)

    def leave() -> None:
        joined[0].stop()

    yield f"a second worker that joins{where}", lambda: join
    yield f"the second worker that leaves{where}", lambda: leave


def _disturbed(
    target: HttpTarget, acts: Iterable[tuple[str, Act]], seconds: float, say: Callable[[str], None]
) -> Iterator[Disturbance]:
    for name, act in acts:
        with before_all_others():
            found = _disturb(name, target, act, seconds)
        for each in found:
            say(f"disturbed by {name}: p99 of {each.seconds:g} s {each.quiet_p99_ms:.2f} -> {each.p99_ms:.2f} ms")
        yield from found


def _disturb(name: str, target: HttpTarget, act: Act, seconds: float) -> list[Disturbance]:
    _calls(target, 2.0)
    cause = act()
    spare_collector()  # the generator's: with torch and onnx imported, a collection stops it for 0.1 s
    quiet = _calls(target, seconds)
    thread = threading.Thread(target=cause)
    thread.start()
    then = _calls(target, seconds)
    thread.join()
    return [_compared(name, length, quiet[length], then[length]) for length in quiet]


def _compared(name: str, seconds: float, quiet: Samples, then: Samples) -> Disturbance:
    before, while_it_happened = quiet.latency.summary_ms(), then.latency.summary_ms()
    return Disturbance(
        name, RATE, before["p50"], before["p99"], while_it_happened["p50"], while_it_happened["p99"], while_it_happened["max"],
        then.total - then.outcomes[Outcome.OK], seconds,
        quiet.latency.slowest_ms(Disturbance.SLOWEST), then.latency.slowest_ms(Disturbance.SLOWEST),
    )  # fmt: skip


class Windows(dict[float, Samples]):
    """The counts of all seconds and of the `FIRST` ones, by their number; a recorder."""

    def __init__(self, seconds: float) -> None:
        super().__init__({length: Samples() for length in (seconds, FIRST) if length <= seconds})

    def record(self, intended: float, sent: float, finished: float, outcome: Outcome) -> None:
        """See `samples.Recorder`."""
        for seconds, samples in self.items():
            if intended < seconds:
                samples.record(intended, sent, finished, outcome)


def _calls(target: HttpTarget, seconds: float) -> Windows:
    found = Windows(seconds)
    on_fresh_loop(open_loop(target, arrivals.schedule("poisson", RATE, seconds, seed=0), found))
    return found
