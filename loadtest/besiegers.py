"""The attackers' process of a siege: `python -m loadtest.besiegers PORT METRICS SECONDS SCALE SEED NAME…`; it prints JSON."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson
import uvloop

from loadtest.siege_attacks import ATTACKS, Attack, Ground

IN_FLIGHT: Final = 6000
"""Of one attack; at this number no new attempt begins."""


@dataclasses.dataclass
class Counted:
    """The results of one attack.

    Attributes:
        name, what: as in `Attack`.
        per_second: how often it was due.
        begun: number of attempts.
        statuses: counts of answers by status.
        wrong: the first wrong answers.
        wrong_count: the number of wrong answers.
        no_connection: failed connection attempts.
    """

    name: str
    what: str
    per_second: float
    begun: int = 0
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    wrong_count: int = 0
    no_connection: int = 0


async def besiege(ground: Ground, names: Sequence[str], seconds: float, scale: float = 1.0) -> list[Counted]:
    """Do the named attacks, each at its rate times `scale`, for `seconds`; then disconnect at once."""
    counted = [Counted(each.name, each.what, scale * each.per_second) for each in (ATTACKS[name] for name in names)]
    tasks: set[asyncio.Task[None]] = set()
    until = time.monotonic() + seconds
    await asyncio.gather(*[_keep_on(ground, ATTACKS[each.name], each, until, tasks) for each in counted])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for each in counted:
        each.statuses = dict(sorted(ground.statuses[each.name].items()))
        each.wrong, each.wrong_count = ground.wrong[each.name][:5], len(ground.wrong[each.name])
    return counted


async def _keep_on(
    ground: Ground, attack: Attack, counted: Counted, until: float, tasks: set[asyncio.Task[None]]
) -> None:
    async def once() -> None:
        try:
            await attack.strike(ground, attack.name)
        except OSError:
            counted.no_connection += 1

    due, mine = time.monotonic() + ground.dice.random() / counted.per_second, set[asyncio.Task[None]]()
    while due < until:
        await asyncio.sleep(due - time.monotonic())
        due += 1 / counted.per_second
        if len(mine) < IN_FLIGHT:
            counted.begun += 1
            task = asyncio.get_running_loop().create_task(once())
            for kept in (mine, tasks):
                kept.add(task)
                task.add_done_callback(kept.discard)
    await asyncio.sleep(max(0.0, until - time.monotonic()))


def counted_of(output: str) -> list[Counted]:
    """The counts that an attackers' process printed."""
    rows: list[dict[str, Any]] = orjson.loads(output.splitlines()[-1]) if output.strip() else []
    return [Counted(**row) for row in rows]


def main() -> int:
    """Attack, and print the counts."""
    port, metrics, seconds, scale, seed, *names = sys.argv[1:]
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(5)  # real attackers run elsewhere, and take no CPU from the honest caller
    ground = Ground(int(port), int(metrics), int(seed))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counted = runner.run(besiege(ground, names, float(seconds), float(scale)))
    sys.stdout.write(orjson.dumps(counted).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
