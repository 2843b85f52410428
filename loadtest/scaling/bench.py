"""The fleet of a trial: broker, store, gateway and scaler, and workers that are started and stopped; and what a worker can do.

The model waits instead of computing, as a host waits for an accelerator, so that several workers on two cores run side by side: a
batch of up to `MAX_BATCH` rows takes `BATCH_SECONDS`, and loading the model takes `LOAD_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from infra.local import fleet as local
from infra.local.process import HOST, free_port
from infra.local.scaler import Workers
from infra.local.servers import Servers, servers
from loadtest.connections import Address, HttpTarget
from loadtest.openloop import closed_loop
from loadtest.payloads import Pool
from loadtest.samples import Outcome, Samples
from loadtest.scaling.future import ColdStarts
from loadtest.scaling.signals import cpu_seconds
from loadtest.targets import get_json
from loadtest.waiting import MODEL, requests, write_model
from protocol.errors import FleetError, Unavailable
from protocol.naming import Names

MAX_BATCH: Final = 4
BATCH_SECONDS: Final = 0.2
LOAD_SECONDS: Final = 0.5
PARTITIONS: Final = 12
PATIENCE: Final = 600.0
"""Seconds that a request may wait for its answer before the gateway gives it up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """A running fleet without workers.

    Attributes:
        backing: broker and store.
        names: of topics.
        address: of the model at the gateway.
        scaler: `HOST:PORT` of the scaler's gRPC.
        pool: of requests.
        make_worker: for `Workers`.
    """

    backing: Servers
    names: Names
    address: Address
    scaler: str
    pool: Pool
    make_worker: Callable[[str], local.FleetProcess]

    def target(self) -> HttpTarget:
        """The callers: they wait as long as it takes."""
        return HttpTarget(
            self.address, self.pool, headers={"penstock-timeout-ms": str(int(PATIENCE * 1e3))}, limit=8192
        )

    def state(self) -> dict[str, Any]:
        """What the gateway says of the model's scaling (docs/scaling.md).

        Raises:
            FleetError: it does not say it.
        """
        found: dict[str, Any] = get_json(self.address, f"/v2/fleet/scaling?model={MODEL}")
        return found


@contextlib.contextmanager
def bench(data: Path, environ: Mapping[str, str] = os.environ) -> Iterator[Bench]:
    """The fleet for the duration of a `with`, its files in `data`; broker and store are those that the environment names, or own
    ones.

    Raises:
        Unavailable: a process cannot be started.
    """
    repository = write_model(data / "models", MAX_BATCH, BATCH_SECONDS, LOAD_SECONDS)
    pool = requests()
    with contextlib.ExitStack() as stack:
        backing = stack.enter_context(servers(data, environ=environ))
        prefix = f"scaling-{secrets.token_hex(4)}"  # the environment may name servers that others use too
        options, port, grpc_port = ["--prefix", prefix], free_port(), free_port()
        calls = ["--max-queued-calls", "20000", "--max-queued-calls-per-model", "20000"]
        stack.enter_context(local.gateway(data, backing, port, [*options, *calls]))
        stack.enter_context(local.scaler(data, backing, grpc_port, options))

        def make_worker(name: str) -> local.FleetProcess:
            own = [*options, "--partitions", str(PARTITIONS)]
            place = data / secrets.token_hex(4)
            return local.worker(place, name, backing, [repository], own, path="/v2/health/ready")

        address = Address(HOST, port, MODEL)
        yield Bench(backing, Names(prefix), address, f"{HOST}:{grpc_port}", pool, make_worker)


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """What a worker can do here.

    Attributes:
        cold: how long workers take to be ready.
        speed: rows per second of one that always has full batches waiting.
        cpu: CPU seconds per second that it takes then.
    """

    cold: ColdStarts
    speed: float
    cpu: float


async def calibrate(bench: Bench, most: int, seconds: float = 5.0) -> Calibration:
    """Start one worker, then the others together, and load them all. The model is announced, and its speed known, after that.

    Raises:
        FleetError: a worker does not start, or a request is not answered.
    """
    workers = Workers(bench.make_worker)
    try:
        workers.scale(1)
        await workers.settle()
        workers.scale(most)
        await workers.settle()
        if len(workers.ready) < most:
            raise Unavailable(f"only {len(workers.ready)} of {most} workers became ready; see their logs")
        await until(lambda: _is_shared(bench, most), 30.0, f"{most} workers to share the partitions")
        await _load(bench, most, 1.0)
        before, began = _cpu(workers), time.perf_counter()
        rows = await _load(bench, most, seconds)
        took = time.perf_counter() - began
        cpu = (_cpu(workers) - before) / took / most
        starts = [worker.ready - worker.started for worker in workers.all if worker.ready is not None]
        cold = ColdStarts(starts[0], max(starts[1:], default=starts[0]), max(1, most - 1))
        return Calibration(cold, rows / took / most, cpu)
    finally:
        await workers.close()


async def _load(bench: Bench, most: int, seconds: float) -> int:
    """Callers enough for full batches at each worker; how many rows were answered."""
    samples, target = Samples(), bench.target()
    await closed_loop(target, 4 * MAX_BATCH * most, seconds, samples, grace=30.0)
    if samples.total != samples.outcomes[Outcome.OK]:
        raise FleetError(f"the model did not answer: {dict(target.complaints)}")
    return samples.total


def _cpu(workers: Workers) -> float:
    return sum(cpu_seconds(worker.process.pid) for worker in workers.ready)


def _is_shared(bench: Bench, most: int) -> bool:
    with contextlib.suppress(FleetError):
        return bool(bench.state()["ready_workers"] == most)
    return False


async def until(check: Callable[[], bool], within: float, what: str, tell: Callable[[], object] = str) -> None:
    """Return once `check`, in a thread, says so; otherwise the error says what `tell` returns.

    Raises:
        Unavailable: not within this many seconds.
    """
    deadline = time.monotonic() + within
    while not await asyncio.to_thread(check):
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {within:.0f} s for {what}: {tell()}")
        await asyncio.sleep(0.1)
