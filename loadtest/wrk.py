"""Closed-loop load from `wrk`: a C program that takes so little CPU that one core of it saturates any server here.

wrk counts statuses, it does not read answers: correctness is checked by our own generator on the same server.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loadtest.connections import Address
from loadtest.payloads import Pool
from loadtest.results import ClosedPoint
from protocol.errors import FleetError, NotFound

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
_PERCENTILES: Final = ("p50", "p90", "p95", "p99", "p99.9")


def command(address: Address, bodies: Path, callers: int, seconds: float, headers: Mapping[str, str]) -> list[str]:
    """The command line: one thread, `callers` connections, whole seconds."""
    duration = f"{max(1, round(seconds))}s"
    base = f"http://{address.host}:{address.port}"
    options = ["--threads", "1", "--connections", str(callers), "--duration", duration, "--timeout", "10s"]
    extra = [part for name, value in headers.items() for part in (name, value)]
    return ["wrk", *options, "--script", str(SCRIPT), base, "--", str(bodies), address.path, *extra]


def run(
    address: Address,
    pool: Pool,
    *,
    callers: int,
    seconds: float,
    core: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> ClosedPoint:
    """Load a server for `seconds`, from `core` if one is given; `headers` come besides those of the pool.

    Raises:
        NotFound: wrk (or taskset, with a core) is not installed.
        FleetError: wrk could not run; the message has its output.
    """
    with tempfile.NamedTemporaryFile("wb", prefix="penstock-bodies-", suffix=".bodies") as bodies:
        bodies.writelines(b"%d %b" % (len(body), body) for body in pool.bodies)
        bodies.flush()
        line = command(address, Path(bodies.name), callers, seconds, {**pool.headers, **(headers or {})})
        if core is not None:
            line = ["taskset", "--cpu-list", str(core), *line]
        for program in {line[0], "wrk"}:
            if shutil.which(program) is None:
                raise NotFound(f"{program} is not installed; on Debian: apt-get install wrk util-linux")
        # Every part is ours but the host, and no shell reads it.
        before = _children_seconds()
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds + 60, check=False)  # noqa: S603
        spent = _children_seconds() - before
    if done.returncode != 0:
        raise FleetError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    point = parse(done.stdout, callers)
    return dataclasses.replace(point, generator_us=spent * 1e6 / max(1.0, point.rate * point.seconds))


def _children_seconds() -> float:
    """CPU seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def parse(output: str, callers: int) -> ClosedPoint:
    """The point in wrk's output: the JSON line that our script writes at its end.

    Raises:
        FleetError: there is no such line.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise FleetError(f"wrk's output has no result line; it said: {output.strip()[-300:]}")
    data: dict[str, Any] = json.loads(lines[-1])
    seconds = data["duration_us"] / 1e6
    latency = {name: data[name] / 1e3 for name in (*_PERCENTILES, "mean", "max")}
    failed = sum(data[name] for name in ("connect", "read", "write", "timeout"))
    good = data["requests"] - data["status"]
    return ClosedPoint(callers, seconds, good / seconds, latency, failed + data["status"])
