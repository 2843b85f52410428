"""The HTTP fuzzer: a gateway in its own process, dialogues over sockets, and its memory watched meanwhile."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import random
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

from loadtest.processes import Meter, ServerProcess
from loadtest.systems import free_port
from tests.bad_input.dialogues import Act, Dialogue, dialogue
from tests.bad_input.requests import farewell, right, write_models
from tests.bad_input.talk import talk

CONNECTIONS: Final = 64
BUDGET_MIB: Final = 512
"""Allowed bytes of a gateway's calls and bodies."""
SLACK_MIB: Final = 384
"""Allowed besides: the interpreter's and the allocator's share, the models' processes, and an embedded log and store."""
BUSY_SHARE: Final = 0.02
"""Honest requests that may get 429 or 503."""
_START_WITHIN: Final = 60.0
_IDLE_WITHIN: Final = 30.0
_LOOK_EVERY: Final = 1.0
_COUNTS: Final = ("penstock_gateway_inflight", "penstock_gateway_queued_bytes")


@dataclasses.dataclass
class Outcome:
    """The results of a run.

    Attributes:
        problems: the first of them, with the number of their dialogue.
        requests, dialogues, answered: how much was sent, and answered.
        busy: honest requests that got 429 or 503.
        manners: dialogues by the client's behaviour.
        seconds: how long it took.
        cpu_s: processor time of all the gateway's processes.
        before_mib, peak_mib, after_mib: their resident memory.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    requests: int = 0
    dialogues: int = 0
    answered: int = 0
    busy: int = 0
    manners: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0
    before_mib: float = 0.0
    peak_mib: float = 0.0
    after_mib: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {self.dialogues} dialogues in {self.seconds:.0f} s "
            f"({self.cpu_s:.0f} s of the gateway's CPU), {self.answered} answers, "
            f"{self.busy} honest ones refused as busy; memory {self.before_mib:.0f} MiB before, {self.peak_mib:.0f} at most, "
            f"{self.after_mib:.0f} after; {len(self.problems)} problems"
        )


@contextlib.contextmanager
def served(*flags: str) -> Iterator[tuple[int, int, ServerProcess]]:
    """(port, port of the metrics, process) of a one-process fleet with the models of `requests`."""
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-") as folder:
        models = write_models(Path(folder))
        port, metrics = free_port(), free_port()
        line = [
            "-m",
            "penstock",
            "serve",
            "--model-repository",
            str(models),
            "--http-port",
            str(port),
            "--grpc-port",
            "off",
        ]
        server = ServerProcess([*line, "--metrics-port", str(metrics), "--log-level", "error", *flags], None)
        try:
            yield port, metrics, server
        finally:
            server.stop()


async def fuzz(seed: int, first: int, requests: int, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Hold dialogues from number `first` on until so many requests were sent; then the gateway must be as before."""
    outcome = Outcome()
    with served() as (port, metrics, server):
        await until_it_serves(port, server)
        meter = Meter({"gateway": server.pid})
        outcome.before_mib = outcome.peak_mib = meter.memory_mib()["gateway"]
        started = time.monotonic()
        before = meter.cpu_seconds()["gateway"]
        async with _watched(meter, server, outcome, say, started):
            numbers = itertools.count(first)
            await asyncio.gather(*[_one_connection(port, seed, numbers, requests, outcome) for _ in range(CONNECTIONS)])
        outcome.seconds = time.monotonic() - started
        outcome.cpu_s = meter.cpu_seconds()["gateway"] - before
        outcome.problems += await _afterwards(port, metrics, server)
        outcome.after_mib = meter.memory_mib()["gateway"]
        outcome.problems += _about_the_whole(outcome)
        if outcome.problems:
            outcome.problems += [f"its log ends: {line}" for line in server.log().splitlines()[-5:]]
    return outcome


async def _one_connection(port: int, seed: int, numbers: Iterator[int], requests: int, outcome: Outcome) -> None:
    while outcome.requests < requests and len(outcome.problems) < 1000:
        spoken = dialogue(seed, next(numbers))
        outcome.requests += spoken.requests
        outcome.dialogues += 1
        outcome.manners[spoken.manner.name] += 1
        verdict = await talk(port, spoken)
        outcome.problems += verdict.problems
        outcome.busy += verdict.busy
        outcome.answered += verdict.answered


@contextlib.asynccontextmanager
async def _watched(
    meter: Meter, server: ServerProcess, outcome: Outcome, say: Callable[[str], object], started: float
) -> AsyncIterator[None]:
    async def watch() -> None:
        for look in itertools.count(1):
            await asyncio.sleep(_LOOK_EVERY)
            memory = meter.memory_mib()["gateway"]
            outcome.peak_mib = max(outcome.peak_mib, memory)
            if look % 10 == 0:
                rate = outcome.requests / (time.monotonic() - started)
                say(f"{outcome.requests} requests, {rate:.0f}/s, {memory:.0f} MiB, {len(outcome.problems)} problems")

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _about_the_whole(outcome: Outcome) -> list[str]:
    problems = []
    if outcome.peak_mib > outcome.before_mib + BUDGET_MIB + SLACK_MIB:
        problems.append(f"memory: {outcome.peak_mib:.0f} MiB, {outcome.before_mib:.0f} before: more than the budget")
    if outcome.busy > BUSY_SHARE * outcome.requests + 5:
        problems.append(f"{outcome.busy} honest requests of {outcome.requests} were refused as busy")
    return problems


async def until_it_serves(port: int, server: ServerProcess) -> None:
    """Return once it answers honest requests."""
    deadline = time.monotonic() + _START_WITHIN
    while problems := (await talk(port, _honest())).problems:
        server.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the gateway does not serve: {problems}")
        await asyncio.sleep(0.1)


def _honest(count: int = 30) -> Dialogue:
    dice = random.Random(count)
    return Dialogue(-1, (Act((*[right(f"after-{n}", dice) for n in range(count)], farewell("after", dice))),))


async def _afterwards(port: int, metrics: int, server: ServerProcess) -> list[str]:
    """Problems once all clients have disconnected."""
    try:
        server.check()
    except Exception as error:
        return [f"the gateway has ended: {error}"]
    deadline = time.monotonic() + _IDLE_WITHIN
    while left := await asyncio.to_thread(_left, metrics):
        if time.monotonic() > deadline:
            return [f"{left} after all clients have disconnected"]
        await asyncio.sleep(0.2)
    return (await talk(port, _honest(100))).problems


def _left(metrics: int) -> dict[str, float]:
    """The gateway's non-zero counts of waiting work."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:  # ours
        rows = [row.rpartition(" ") for row in answer.read().decode().splitlines() if not row.startswith("#")]
    return {name: float(value) for name, _, value in rows if name in _COUNTS and float(value)}
