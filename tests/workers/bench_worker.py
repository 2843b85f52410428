"""What one request costs a worker, by hand: `python tests/workers/bench_worker.py [requests] [--profile]`.

Everything is in one process on the memory transport, and the records are encoded and published beforehand, so that the CPU time
between the first fetch and the last answer is the worker's and the embedded store's.
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
from tests.workers.fleet import CHANNEL, IDENTITY, NAMES, Caller, Fleet, write_model
from workers.app import tune

ROWS = 32


async def main(requests: int, config: str, size: int, profile: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), "m", config)
        fleet = Fleet(Path(folder))
        caller = await fleet.caller()
        await lone(fleet, caller, size)
        received, finished = 0, asyncio.Event()

        def on_wake(wakes: list[Wake]) -> None:
            nonlocal received
            received += len(wakes)
            if received >= requests:
                finished.set()

        await caller.transport.results.listen(CHANNEL, on_wake)
        topic = NAMES.infer_topic("m", "1")
        bus = caller.transport.bus
        await bus.ensure_topic(topic, 4)
        for start in range(0, requests, ROWS):
            group = [caller.request(*range(size)) for _ in range(min(ROWS, requests - start))]
            now = time.time()
            for request in group:
                request.accepted = request.published = now
            await bus.publish(topic, [OutRecord(*encode_request(request)) for request in group])
        # An earlier end of the log would make every record a possible redelivery.
        log_ends = [log.end for log in fleet.broker.topics[topic].logs]
        worker = await fleet.worker()
        for serving in worker.models.serving():
            serving.intake._ends.clear()
        tune()
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        await finished.wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        profiler.disable()
        statistics = worker.models.serving()[0].statistics
        print(f"{sum(log_ends)} requests, mean batch {requests / max(1, statistics.execution_count):.1f}")
        print(f"{cpu / requests * 1e6:.1f} us CPU per request, {requests / wall:.0f}/s")
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        await fleet.close()


async def lone(fleet: Fleet, caller: Caller, size: int) -> None:
    """One caller at a time."""
    worker = await fleet.worker()
    for _ in range(200):
        await caller.ask(caller.request(*range(size)))
    tune()
    stages, totals = [], []
    for _ in range(500):
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
    print(f"lone: p50 {totals[250] * 1e6:.0f} us, p99 {totals[495] * 1e6:.0f} us publish to wake-up")
    names = ("decode", "queue", "stack and hand over", "run", "hand back and encode")
    print(
        "  "
        + ", ".join(
            f"{n} {sorted(column)[250] * 1e6:.0f}" for n, column in zip(names, zip(*stages, strict=True), strict=True)
        )
    )
    await worker.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", nargs="?", type=int, default=20000)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    batching = IDENTITY.replace("max_batch_size: 8", f"max_batch_size: {ROWS}")
    work = main(options.requests, batching, options.size, options.profile)
    if options.uvloop:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    else:
        asyncio.run(work)
