"""Closed-loop load over HTTP/2 from `h2load`, a C program of the package nghttp2-client: unary gRPC calls with one fixed message.

h2load counts HTTP statuses, and a gRPC error is a 200 without a message: so the bytes of the answers are compared with those of
right ones.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.results import ClosedPoint
from protocol.errors import FleetError, NotFound

_FINISHED: Final = re.compile(r"finished in ([\d.]+)s")
_REQUESTS: Final = re.compile(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded")
_DATA: Final = re.compile(r"\((\d+)\) data")
_FRAME: Final = 9
"""Bytes of an HTTP/2 frame's head."""
_MOST_FRAME: Final = 16384
_PERCENTILES: Final = (50, 90, 99)
_HEADERS: Final = ("content-type: application/grpc", "te: trailers")


def framed(message: bytes) -> bytes:
    """A message with the five bytes that gRPC puts before it."""
    return b"\0" + struct.pack(">I", len(message)) + message


@dataclasses.dataclass(frozen=True, slots=True)
class Unary:
    """One unary call.

    Attributes:
        port: of the server on loopback.
        method: such as `/inference.GRPCInferenceService/ModelInfer`.
        message: the request.
        answer_bytes: of a right answer.
    """

    port: int
    method: str
    message: bytes
    answer_bytes: int


def command(call: Unary, body: Path, log: Path, callers: int, seconds: int) -> list[str]:
    """The command line: one thread; each caller has a connection of its own and waits for its answer."""
    options = ["-D", str(seconds), "-c", str(callers), "-m", "1", "-t", "1", "-w", "24", "-W", "24"]
    headers = [part for header in _HEADERS for part in ("-H", header)]
    url = f"http://127.0.0.1:{call.port}{call.method}"
    return ["h2load", *options, *headers, "-d", str(body), f"--log-file={log}", url]


def run(call: Unary, *, callers: int, seconds: int, core: int | None = None) -> ClosedPoint:
    """Load a server for `seconds`, from `core` if one is given.

    Raises:
        NotFound: h2load is not installed.
        FleetError: it could not run, or answers were not right; the message says what it had.
    """
    if shutil.which("h2load") is None:
        raise NotFound("h2load is not installed; on Debian: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="penstock-h2load-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(framed(call.message))
        line = command(call, body, log, callers, seconds)
        if core is not None:
            line = ["taskset", "--cpu-list", str(core), *line]
        before = os.times()
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds + 60, check=False)  # noqa: S603
        after = os.times()
        if done.returncode != 0:
            raise FleetError(f"h2load ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
        point = parse(done.stdout, log.read_text(), callers, seconds, call.answer_bytes)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return dataclasses.replace(point, generator_us=spent * 1e6 / max(1.0, point.rate * seconds))


def parse(output: str, log: str, callers: int, seconds: int, answer_bytes: int) -> ClosedPoint:
    """The point in h2load's output and log, whose lines are: start in µs, HTTP status, µs of the call.

    Raises:
        FleetError: there is no result, or the answers are not as long as right ones.
    """
    requests, data = _REQUESTS.search(output), _DATA.search(output)
    if _FINISHED.search(output) is None or requests is None or data is None:
        raise FleetError(f"h2load's output has no result; it said: {output.strip()[-300:]}")
    total, done, good = map(int, requests.groups())
    _check_sizes(int(data[1]), done, callers, answer_bytes)
    times = np.array(sorted(_times(log.splitlines())), float) / 1e3
    if not len(times):
        raise FleetError(f"h2load's log has no call; it said: {output.strip()[-300:]}")
    latency = {f"p{share}": float(np.percentile(times, share)) for share in _PERCENTILES}
    latency |= {"mean": float(times.mean()), "max": float(times[-1])}
    return ClosedPoint(callers, float(seconds), good / seconds, latency, total - good)


def _times(lines: Sequence[str]) -> Iterator[int]:
    for line in lines:
        _, _, taken = line.split("\t")
        yield int(taken)


def _check_sizes(data: int, done: int, callers: int, answer_bytes: int) -> None:
    """`data` has whole answers, and up to one of each caller that was on its way when the time began or was over."""
    if done and not (done - 2 * callers) * answer_bytes <= data <= (done + 2 * callers) * answer_bytes:
        raise FleetError(
            f"{done} answers had {data} bytes, and right ones have {answer_bytes} each: the calls fail; see the server's log"
        )
