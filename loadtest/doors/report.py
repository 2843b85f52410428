"""The page docs/benchmarks/doors.md."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from loadtest.doors.measure import TRITON
from loadtest.doors.results import DoorPoint, DoorResults
from loadtest.tables import table

_TITLES = {"grpc": "Add/sub over gRPC and HTTP", "large": "Large tensors"}
_TEXTS = {
    "grpc": (
        "The Python model that adds and subtracts two vectors of 16 FP32, as `raw_input_contents` over gRPC and as a binary V2 "
        "body over HTTP; the server on one core, the generator (h2load, wrk) on another; each caller has a connection of its own. "
        "The ratio is the median of the rounds' ratios to Triton's figure of the same round."
    ),
    "large": (
        "A Python model that negates an FP32 tensor of 602 KB (3x224x224) or 8 MB, in and out as raw bytes. Embedded is `penstock "
        "serve`; fleet is a gateway and a worker on a real Kafka and Redis, all server processes on one core."
    ),
}


def write(results: DoorResults, page: Path) -> None:
    """Write the page."""
    page.write_text("\n".join(_sections(results)))


def _sections(results: DoorResults) -> Iterator[str]:
    yield "# gRPC, and large tensors\n"
    yield (
        "Made by `python -m loadtest doors`; the raw figures are in [results.json](doors/results.json). Both servers run the same "
        "model source, get the same messages from the same generator, in alternated rounds on one machine; rates of this shared "
        "machine vary by the hour, so read the ratios.\n"
    )
    for part in results.about:
        yield f"## {_TITLES.get(part, part)}\n"
        yield _TEXTS.get(part, "") + "\n"
        yield _table([point for point in results.points if point.part == part])
    yield "## Machine\n"
    for part, facts in results.about.items():
        yield table((part, ""), facts.items())


def _table(points: list[DoorPoint]) -> str:
    large = any(point.megabytes > 1 for point in points)
    columns = [
        "model", "protocol", "callers", "server", "requests/s", *(["MB/s"] if large else []), "ratio", "lowest", "highest",
        "p50 ms", "p50 ratio", "p99 ms", "server CPU µs", "generator CPU µs", "errors",
    ]  # fmt: skip
    return table(columns, list(_rows(points, large)))


def _rows(points: list[DoorPoint], large: bool) -> Iterator[list[object]]:
    def place(point: DoorPoint) -> tuple[str, str, int]:
        return point.model, point.protocol, point.callers

    for where, found in itertools.groupby(sorted(points, key=place), place):
        group = list(found)
        rivals = {point.round: point for point in group if point.server == TRITON}
        for server in dict.fromkeys(point.server for point in group):
            mine = [point for point in group if point.server == server]
            ratios = [point.rate / rivals[point.round].rate for point in mine if point.round in rivals]
            waits = [point.p50_ms / rivals[point.round].p50_ms for point in mine if point.round in rivals]
            rate = _median(point.rate for point in mine)
            ours = bool(ratios) and server != TRITON
            yield [
                *where, server, rate, *([rate * mine[0].megabytes] if large else []),
                statistics.median(ratios) if ours else None, min(ratios) if ours else None, max(ratios) if ours else None,
                _median(point.p50_ms for point in mine), statistics.median(waits) if ours else None,
                _median(point.p99_ms for point in mine), _median(sum(point.cpu_us.values()) for point in mine),
                _median(point.generator_us for point in mine), sum(point.errors for point in mine),
            ]  # fmt: skip


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))
