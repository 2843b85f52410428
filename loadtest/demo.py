"""The callers of `make demo` beside wrk: the same server, requests and number of connections, in alternated rounds.

The demo's callers are coroutines with the Python client, in a process of their own, as `make demo` has them. If they were the
bottleneck, wrk, which costs next to nothing, would get clearly more out of the same server.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from loadtest import payloads, wrk
from loadtest.payloads import InputSpec, Pool
from loadtest.systems import System, embedded
from loadtest.tables import table
from penstock.client import requests
from penstock.client.requests import InferOptions
from protocol.errors import FleetError

Generator = Literal["demo", "wrk"]
GENERATORS: Final[tuple[Generator, ...]] = ("demo", "wrk")
EXAMPLE: Final = Path(__file__).parent.parent / "examples" / "digits"
MODEL: Final = "digits"
CALLERS: Final = 48
_WARM_SECONDS: Final = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class DemoPoint:
    """One point.

    Attributes:
        generator: who calls.
        round: points of the same round are compared.
        rate: right answers per second; wrk checks their status only.
        p50_ms, p99_ms: of all answers.
        caller_us: CPU microseconds per request of the generator.
        server_us: CPU microseconds per request of the server.
    """

    generator: Generator
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    caller_us: float
    server_us: float


def measure(rounds: int, seconds: float, say: Callable[[str], None]) -> list[DemoPoint]:
    """All points; nothing is pinned to a core, as in the demo.

    Raises:
        FleetError: the server does not start, wrk is missing, or a call failed.
    """
    pool = pool_of(EXAMPLE / "held_back.npz")
    first = payloads.build((InputSpec("image", "FP32", (1, 1, 8, 8)),), 1)
    points = []
    with embedded(EXAMPLE / "models", None, MODEL, first) as system:
        wrk.run(system.address(MODEL), pool, callers=CALLERS, seconds=_WARM_SECONDS)
        for number in range(rounds):
            for generator in GENERATORS if number % 2 else reversed(GENERATORS):
                points.append(_point(generator, number, system, pool, seconds))
                say(_line(points[-1]))
    return points


def pool_of(digits: Path) -> Pool:
    """The requests that the demo's callers send: one for each image, as the Python client makes them."""
    images = (np.load(digits)["pixels"] / 16).astype(np.float32)
    made = [requests.infer(MODEL, {"image": images[[index]]}, InferOptions()) for index in range(len(images))]
    return Pool((), tuple(request.body for request in made), (), headers=made[0].headers)


def _point(generator: Generator, number: int, system: System, pool: Pool, seconds: float) -> DemoPoint:
    with system.meter.window() as spent:
        if generator == "wrk":
            point = wrk.run(system.address(MODEL), pool, callers=CALLERS, seconds=seconds)
            if point.errors:
                raise FleetError(f"{point.errors} requests of wrk were not answered")
            seen = DemoPoint(
                "wrk", number, point.rate, point.latency_ms["p50"], point.latency_ms["p99"], point.generator_us, 0.0
            )
            count = point.rate * point.seconds
        else:
            figures = callers(f"http://127.0.0.1:{system.port}")
            seen = DemoPoint(
                "demo", number, figures["rate"], figures["p50_ms"], figures["p99_ms"], figures["cpu_us"], 0.0
            )
            count = figures["requests"]
    return dataclasses.replace(seen, server_us=sum(spent.values()) * 1e6 / count)


def callers(url: str) -> dict[str, float]:
    """The figures of the demo's callers against a server that runs.

    Raises:
        FleetError: the demo failed, or the answers are wrong; the message has its output.
    """
    line = [sys.executable, str(EXAMPLE / "demo.py"), "--url", url, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603  # ours
    if done.returncode != 0:
        raise FleetError(f"the demo ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-1000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _line(point: DemoPoint) -> str:
    return (
        f"{point.generator} round {point.round}: {point.rate:.0f}/s, p50 {point.p50_ms:.2f} ms, p99 {point.p99_ms:.1f} ms, "
        f"{point.caller_us:.0f} us CPU of the callers, {point.server_us:.0f} of the server"
    )


# --- the page ---------------------------------------------------------------------------------------------------------

_COMPARED: Final = ("rate", "p50_ms", "p99_ms", "caller_us", "server_us")


def markdown(points: Sequence[DemoPoint], about: Mapping[str, str]) -> str:
    """The page: medians of the rounds, and the ratios of points of the same round."""
    of = {generator: [point for point in points if point.generator == generator] for generator in GENERATORS}
    names = {"demo": "`make demo`, Python client", "wrk": "wrk"}
    rows: list[list[Any]] = [
        [names[generator], *[_spread([getattr(point, name) for point in of[generator]]) for name in _COMPARED]]
        for generator in GENERATORS
    ]
    pairs = list(zip(of["demo"], of["wrk"], strict=True))
    ratios = [[getattr(demo, name) / getattr(other, name) for demo, other in pairs] for name in _COMPARED]
    rows.append(["demo / wrk", *[f"x {_spread(each)}" for each in ratios]])
    columns = ("callers", "rate/s", "p50, ms", "p99, ms", "callers' CPU, µs", "server's CPU, µs")
    return "\n".join([_INTRODUCTION, table(columns, rows), table(("about these figures", ""), about.items())])


def _spread(values: Sequence[float]) -> str:
    """The median, with the smallest and the largest."""
    digits = 0 if min(values) >= 100 else 1 if min(values) >= 10 else 2
    median, low, high = (f"{each:,.{digits}f}" for each in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def run(rounds: int, seconds: float, out: Path, say: Callable[[str], None]) -> None:
    """Measure, and write the page and its JSON beside it.

    Raises:
        FleetError: as `measure`.
    """
    from loadtest.machine import about

    facts = {**about(None, None), "connections": str(CALLERS), "rounds": str(rounds)}
    points = measure(rounds, seconds, say)
    document = {"about": facts, "points": [dataclasses.asdict(point) for point in points]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.write_text(markdown(points, facts))
    say(f"wrote {out}")


def load(path: Path) -> tuple[list[DemoPoint], dict[str, str]]:
    """The points and the facts in a page's JSON."""
    document: dict[str, Any] = json.loads(path.read_text())
    return [DemoPoint(**point) for point in document["points"]], document["about"]


_INTRODUCTION: Final = """# The demo beside wrk

Written by `python -m loadtest demo`; every point is in [demo.json](demo.json). One server of `penstock serve` with the demo's model
is called in turn by the 48 callers of `make demo`, coroutines with the Python client in one process, and by wrk, a C program, with
the same requests (one image of 8 x 8 as a binary tensor) over as many connections. Nothing is pinned: server and callers share the
machine. The demo decodes and checks every answer, wrk checks statuses. CPU is that of a process per answered request: as long as
the callers' is the smaller one, the server is what is measured. Medians of the rounds, with the smallest and the largest, and
ratios of points of the same round.
"""
