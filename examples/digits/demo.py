"""The demo of `make demo`: starts a one-process fleet, classifies held-back handwritten digits with 48 callers at once, and shows
what the fleet made of them.

    python examples/digits/demo.py                               # starts a fleet of its own
    python examples/digits/demo.py --url http://localhost:8000   # asks one that runs; --json prints the figures alone
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from penstock import AsyncClient, Client
from penstock.client.timing import Times, parse_timing, sentence
from protocol.errors import FleetError

HERE = Path(__file__).parent
CALLERS = 48
ROUNDS = 30
SHADES = " .:-=+*#%@"
MOST_BARS = 8
STEPS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclasses.dataclass
class Run:
    """What the callers saw. Request n asks for image n modulo the number of images.

    Attributes:
        digits: the model's digit for every request.
        latencies: seconds of each request.
        timings: what each answer says about its times.
        seconds: of all of them together.
        cpu_seconds: that this process spent meanwhile.
    """

    digits: npt.NDArray[np.int64]
    latencies: npt.NDArray[np.float64]
    timings: list[str]
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def times(self) -> list[Times]:
        """The times of each answer."""
        return [parse_timing(text) for text in self.timings]

    def figures(self) -> dict[str, float]:
        """Rate per second, percentiles of the latency in milliseconds, and the callers' CPU microseconds per request."""
        p50, p95, p99 = (float(each) for each in np.percentile(self.latencies, [50, 95, 99]) * 1e3)
        count = len(self.digits)
        cpu = self.cpu_seconds * 1e6 / count
        return {
            "rate": count / self.seconds,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "cpu_us": cpu,
            "requests": count,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; exits with a message if the answers are wrong."""
    parser = argparse.ArgumentParser(description="Classify handwritten digits with a fleet.")
    parser.add_argument("--url", help="a server with the model, instead of one that the demo starts")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON, and nothing else")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each digit is asked for [{ROUNDS}]")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # bars, on a terminal that knows only ASCII
    held_back = np.load(HERE / "held_back.npz")
    images, labels = (held_back["pixels"] / 16).astype(np.float32), held_back["labels"]
    own = contextlib.nullcontext(options.url) if options.url else fleet()
    with own as url:
        try:
            run = call(url, images, max(1, options.rounds), quiet=options.json)
        except FleetError as error:
            sys.exit(f"a call failed: {error.message}")
        right = float((run.digits == np.resize(labels, len(run.digits))).mean())
        if options.json:
            print(json.dumps({**run.figures(), "accuracy": right}))
        else:
            show(images, labels, run.digits)
            report(run, labels, right)
    if right < 0.95:
        sys.exit("the answers are wrong: the accuracy should be above 95 %")
    if not options.json and not options.url:
        print("\n" + what_next())


# --- the fleet ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fleet() -> Iterator[str]:
    """The URL of a one-process fleet that serves the demo's model, stopped as an operator would stop it."""
    port, metrics = free_port(), free_port()
    repository = str(HERE / "models")
    line = [sys.executable, "-m", "penstock", "serve", "--model-repository", repository, "--log-level", "warning"]
    begin = time.perf_counter()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*line, "--http-port", str(port), "--grpc-port", "off", "--metrics-port", str(metrics)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the demo's: it stops the fleet
    )
    ready = False
    try:
        with Client(url) as client:
            while not client.ready():
                if process.poll() is not None or time.perf_counter() - begin > 60:
                    sys.exit("the fleet did not start; try: penstock serve --model-repository examples/digits/models")
                time.sleep(0.02)
        ready = True
        print(f"one-process fleet ready after {time.perf_counter() - begin:.2f} s: {url}/v2/models/digits\n")
        yield url
    finally:
        process.terminate()
        code = process.wait(30)
        if ready:
            print("\nstopped cleanly" if code == 0 else f"\nthe fleet ended with exit code {code}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- the callers --------------------------------------------------------------------------------------------------------


def call(url: str, images: npt.NDArray[np.float32], rounds: int, *, quiet: bool = False) -> Run:
    """Ask for every image `rounds` times, with `CALLERS` calls at once, one image per request.

    The callers are coroutines of this process, on uvloop like the server: what they spend on a request is less than what the
    server does. They only call and note; what the answers say is read afterwards.
    """
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(classify(url, images, rounds, quiet=quiet))


def event_loop() -> Any:
    """What makes uvloop's event loop; None, for asyncio's own, where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def classify(url: str, images: npt.NDArray[np.float32], rounds: int, *, quiet: bool) -> Run:
    """See `call`."""
    count = len(images) * rounds
    run = Run(np.full(count, -1), np.zeros(count), [""] * count)
    inputs = [{"image": images[[index]]} for index in range(len(images))]
    waiting = iter(range(count))
    out = io.StringIO() if quiet else sys.stdout
    with click.progressbar(length=count, label="classifying", file=out, update_min_steps=CALLERS) as bar:

        async def caller(client: AsyncClient) -> None:
            for job in waiting:
                sent = time.perf_counter()
                answer = await client.infer("digits", inputs[job % len(inputs)])
                run.latencies[job] = time.perf_counter() - sent
                run.digits[job] = answer.outputs["digit"][0, 0]
                run.timings[job] = answer.timing
                bar.update(1)

        async with AsyncClient(url, connections=CALLERS) as client:
            begin, spent = time.perf_counter(), time.process_time()
            await asyncio.gather(*(caller(client) for _ in range(CALLERS)))
            run.seconds, run.cpu_seconds = time.perf_counter() - begin, time.process_time() - spent
    return run


# --- what is printed ----------------------------------------------------------------------------------------------------


def report(run: Run, labels: npt.NDArray[np.int64], right: float) -> None:
    """The figures and histograms of a run."""
    figures, times = run.figures(), run.times
    rounds = len(run.digits) // len(labels)
    print(f"\naccuracy   {right:.2%} on {len(labels)} digits that the model has never seen, {rounds} times each")
    print(f"speed      {figures['rate']:,.0f} requests/s from {CALLERS} callers at once, one digit per request")
    print(
        f"latency    p50 {figures['p50_ms']:.1f} ms   p95 {figures['p95_ms']:.1f} ms   p99 {figures['p99_ms']:.1f} ms"
        "   (callers and fleet share this machine)"
    )
    print("\n".join(bars(latency_ranges(run.latencies * 1e3))))
    print("batches    how many ran with so many rows: requests that arrive together are run together")
    print("\n".join(bars(size_ranges(batches(times)))))
    print(
        f"inside     the median call was {sentence(sorted(times, key=lambda each: each.total or 0.0)[len(times) // 2])}"
    )


def batches(times: Sequence[Times]) -> dict[int, float]:
    """How many batches of each size ran: a batch of n rows was seen by n requests."""
    rows = collections.Counter(each.rows or 0 for each in times)
    return {size: count / size for size, count in sorted(rows.items()) if size}


def show(
    images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], digits: npt.NDArray[np.int64], count: int = 5
) -> None:
    """A few different digits as pictures, each above the model's answer."""
    chosen = np.unique(labels, return_index=True)[1][:: 10 // count][:count]
    print()
    for row in range(8):
        print("   ".join("".join(SHADES[int(value * 9)] * 2 for value in images[index][0, row]) for index in chosen))
    print("   ".join(f"read {digits[index]}, is {labels[index]}".center(16) for index in chosen))


def size_ranges(batches: Mapping[int, float]) -> dict[str, float]:
    """Batches by their number of rows, in at most `MOST_BARS` ranges of equal width."""
    width = -(-max(batches, default=1) // MOST_BARS)
    ranges: dict[str, float] = {}
    for low in range(1, max(batches, default=0) + 1, width):
        name = f"{low} to {low + width - 1} rows" if width > 1 else f"{low} row{'s' * (low > 1)}"
        ranges[name] = sum(count for size, count in batches.items() if low <= size < low + width)
    return ranges


def latency_ranges(milliseconds: npt.NDArray[np.float64]) -> dict[str, float]:
    """Calls by their latency, in at most `MOST_BARS` ranges; the last is open."""
    most = float(np.percentile(milliseconds, 99))
    step = next((each for each in STEPS_MS if each * (MOST_BARS - 1) >= most), STEPS_MS[-1])
    edges = [step * number for number in range(MOST_BARS)]
    counts = [float(((milliseconds >= low) & (milliseconds < low + step)).sum()) for low in edges[:-1]]
    ranges = {f"{low:g} to {low + step:g} ms": count for low, count in zip(edges, counts, strict=False)}
    ranges[f"{edges[-1]:g} ms and more"] = float((milliseconds >= edges[-1]).sum())
    while len(ranges) > 1 and ranges[next(reversed(ranges))] == 0:
        ranges.popitem()
    return ranges


def bars(ranges: Mapping[str, float], width: int = 40) -> list[str]:
    """One line for each range."""
    top = max([*ranges.values(), 1.0])
    names = max(map(len, ranges), default=0)
    return [
        f"  {name:>{names}} {'█' * max(int(count > 0), round(width * count / top))} {count:.0f}"
        for name, count in ranges.items()
    ]


def what_next() -> str:
    """Commands that work as they are printed, in the folder where the demo was started."""
    penstock = program()
    models = os.path.relpath(HERE / "models")
    rows = [
        (
            f"{penstock} serve --model-repository {models}",
            "its page is at http://localhost:8000/ ; in another terminal:",
        ),
        (f"{penstock} infer digits --random 4", "four rows of random pixels, and where the time went"),
        (f"{penstock} status", "models, queues and workers on one screen"),
        ("curl -s http://localhost:8002/metrics | grep nv_inference", "the same metrics as Triton's"),
        (f"{penstock} new mymodel", "writes a model in Python to start from"),
    ]
    wide = max(len(command) for command, _ in rows)
    lines = [f"  {command:<{wide}}  # {what}" for command, what in rows]
    return "\n".join(["what to try next", *lines, "", "Your own model, step by step: docs/first-model.md"])


def program() -> str:
    """How to start `penstock` from here: its name if it is on the PATH, else where this Python has it."""
    mine = Path(sys.executable).parent / "penstock"
    found = shutil.which("penstock")
    if found is not None and Path(found).parent == mine.parent:
        return "penstock"
    return os.path.relpath(mine) if mine.exists() else f"{os.path.relpath(sys.executable)} -m penstock"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
