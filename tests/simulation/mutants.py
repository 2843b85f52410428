"""Bugs planted one by one into the real code, to see whether the simulation finds them: `python -m tests.simulation.mutants`.

Each is an attribute swapped for the duration of a `with`. No other tests patch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import time

from tests.simulation import bugs_of_failures, bugs_of_others, bugs_of_topics, bugs_of_workers
from tests.simulation.planting import MUTANTS, SEEDS, planted
from tests.simulation.pool import simulation_pool
from tests.simulation.simulate import Report, simulate

TRIES = 400
"""Schedules in which a planted bug must show."""
FOLDERS = (bugs_of_workers, bugs_of_failures, bugs_of_others, bugs_of_topics)
"""Imported for what they register."""


@dataclasses.dataclass
class Verdict:
    """Whether a planted bug was found, and by what."""

    name: str
    report: Report | None
    tried: int
    crashed: str = ""

    @property
    def found(self) -> bool:
        return self.report is not None or bool(self.crashed)

    def __str__(self) -> str:
        if self.report is None:
            return f"{'found  ' if self.found else 'MISSED '} {self.name}: {self.crashed or f'{self.tried} schedules'}"
        return f"found   {self.name}: schedule {self.report.seed}: {self.report.violations[0]}"


def hunt(name: str, tries: int = TRIES) -> Verdict:
    """Plant the bug and simulate until a promise breaks: first the schedules that found it when this was written."""
    with planted(MUTANTS[name]):
        for tried, seed in enumerate(itertools.chain(SEEDS.get(name, ()), range(tries)), 1):
            report = simulate(seed)
            if report.violations:
                return Verdict(name, report, tried)
    return Verdict(name, None, tries)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description="Hunt for planted bugs.")
    parser.add_argument("names", nargs="*", help="only bugs with this in their name")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = [name for name in MUTANTS if not options.names or any(part in name for part in options.names)]
    started, found = time.monotonic(), 0
    with simulation_pool(options.processes) as pool:
        for verdict in pool.map(hunt, chosen, itertools.repeat(options.tries)):
            found += verdict.found
            print(verdict, flush=True)
    print(f"{found} of {len(chosen)} planted bugs were found in {time.monotonic() - started:.0f} s")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
