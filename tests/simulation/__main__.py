"""Runs schedules from the command line; see `simulate`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator

from tests.simulation.pool import simulation_pool
from tests.simulation.simulate import Report, simulate


def run(seeds: Iterable[int], processes: int) -> Iterator[Report]:
    """Simulate all of them, spread over processes."""
    if processes == 1:
        yield from map(simulate, seeds)
        return
    with simulation_pool(processes) as pool:
        yield from pool.map(_brief, seeds, chunksize=20)


def _brief(seed: int) -> Report:
    report = simulate(seed)
    report.events = []
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate fault schedules.")
    parser.add_argument("--seed", type=int, help="only this one, with all of its events")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        report = simulate(options.seed)
        print(*report.events, report, f"digest {report.digest}", sep="\n")
        return 1 if report.violations else 0
    started, failed, calls, reruns, virtual = time.monotonic(), 0, 0, 0, 0.0
    for report in run(range(options.first, options.first + options.count), options.processes):
        calls, reruns, virtual = calls + report.calls, reruns + report.reruns, virtual + report.seconds
        if report.violations:
            failed += 1
            print(report, flush=True)
    print(
        f"{options.count} schedules, {calls} calls, {reruns} repeated runs, {virtual / 3600:.1f} virtual hours in "
        f"{time.monotonic() - started:.0f} s: {failed} schedules broke a promise"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
