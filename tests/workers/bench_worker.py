"""The cost of one request to a worker, run by hand: `python tests/workers/bench_worker.py [--uvloop] [--profile] [--inline]`.

Everything is in one process on the memory transport, and the records are encoded and published beforehand, so that the CPU time
between the first fetch and the last answer is the worker's and the embedded store's. The best of many short rounds is reported:
on a shared machine only this figure is comparable.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from protocol.codec import encode_request
from protocol.ports import OutRecord, Wake
from tests.workers.fleet import CHANNEL, IDENTITY, Caller, Fleet, write_model
from workers.app import tune
from workers.instances.executor import ThreadExecutor
from workers.instances.job import Job

ROWS = 32
REQUESTS = 2048


class Counter:
    """Counts wake-ups up to a number."""

    def __init__(self) -> None:
        self.received = 0
        self.wanted = 0
        self.finished = asyncio.Event()

    def __call__(self, wakes: list[Wake]) -> None:
        self.received += len(wakes)
        if self.received >= self.wanted:
            self.finished.set()


async def main(rounds: int, size: int, profiler: cProfile.Profile | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), "m", IDENTITY.replace("max_batch_size: 8", f"max_batch_size: {ROWS}"))
        fleet = Fleet(Path(folder))
        caller = await fleet.caller()
        await lone(fleet, caller, size)
        counter = Counter()
        await caller.transport.results.listen(CHANNEL, counter)
        worker = await fleet.worker()
        (serving,) = worker.models.serving()
        tune()
        figures = []
        for number in range(rounds):
            groups = [records(caller, size) for _ in range(REQUESTS // ROWS)]
            counter.wanted = counter.received + REQUESTS
            counter.finished.clear()
            for group in groups:
                await caller.transport.bus.publish(serving.topic, group)
            if profiler is not None and number:
                profiler.enable()
            wall, cpu = time.perf_counter(), time.process_time()
            await counter.finished.wait()
            figures.append((time.process_time() - cpu, time.perf_counter() - wall))
            if profiler is not None:
                profiler.disable()
        cpus = sorted(cpu for cpu, _ in figures)
        print(f"mean batch {REQUESTS * rounds / serving.statistics.execution_count:.1f}")
        print(
            f"CPU per request: best {cpus[0] / REQUESTS * 1e6:.1f} us, median {cpus[rounds // 2] / REQUESTS * 1e6:.1f} us"
        )
        print(f"throughput: best {REQUESTS / min(wall for _, wall in figures):.0f}/s")
        await fleet.close()


def records(caller: Caller, size: int) -> list[OutRecord]:
    """One group as a gateway publishes it."""
    now = time.time()
    group = [
        caller.request(
            *range(size),
            label="17",
            deadline=now + 60,
            accepted=now,
            published=now,
            id=f"{now:.9f}{n:016}".replace(".", ""),
        )
        for n in range(ROWS)
    ]
    return [OutRecord(*encode_request(request)) for request in group]


async def lone(fleet: Fleet, caller: Caller, size: int) -> None:
    """One caller at a time: how its time is spent."""
    worker = await fleet.worker()
    tune()
    stages, totals = [], []
    for _ in range(1500):
        sent = time.perf_counter()
        (reply,) = await caller.ask(caller.request(*range(size)))
        totals.append(time.perf_counter() - sent)
        t = reply.timing
        stages.append(
            (
                t.enqueued - t.fetched,
                t.released - t.enqueued,
                t.compute_start - t.released,
                t.compute_end - t.compute_start,
                t.emitted - t.compute_end,
            )
        )
    totals.sort()
    print(
        f"lone: best {totals[0] * 1e6:.0f} us, p50 {totals[750] * 1e6:.0f}, p99 {totals[1485] * 1e6:.0f} from publish to wake-up"
    )
    names = ("decode", "queue", "stack and hand over", "run", "hand back and encode")
    columns = zip(names, zip(*stages, strict=True), strict=True)
    print("  " + ", ".join(f"{name} {sorted(column)[150] * 1e6:.0f}" for name, column in columns))
    await worker.close()


def inline(executor: ThreadExecutor, job: Job) -> None:
    """Runs the job on the event loop: shows the cost of handing over."""
    executor._run(job)
    assert executor._completions is not None
    executor._completions.push(job)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if options.inline:
        ThreadExecutor.submit = inline  # type: ignore[method-assign, assignment]
    profile = cProfile.Profile() if options.profile else None
    work = main(options.rounds, options.size, profile)
    if options.uvloop:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    else:
        asyncio.run(work)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
