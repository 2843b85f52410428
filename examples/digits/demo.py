"""The demo of `make demo`: starts a one-process fleet, classifies held-back handwritten digits over HTTP, and prints the
results.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from penstock.client import AsyncClient, Client

HERE = Path(__file__).parent
CALLERS = 48
ROUNDS = 30
SHADES = " .:-=+*#%@"


def main() -> None:
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # bars, on a terminal that knows only ASCII
    held_back = np.load(HERE / "held_back.npz")
    images, labels = (held_back["pixels"] / 16).astype(np.float32), held_back["labels"]
    with fleet() as url:
        digits, latencies, batches, seconds = asyncio.run(classify(url, images))
        show(images, labels, digits)
        right = (digits == np.tile(labels, ROUNDS)).mean()
        low, high, worst = np.percentile(latencies, [50, 95, 99]) * 1000
        print(f"\naccuracy   {right:.2%} on {len(labels)} digits that the model has never seen, {ROUNDS} times each")
        print(f"speed      {len(latencies) / seconds:,.0f} requests/s from {CALLERS} callers, one digit per request")
        print(
            f"latency    p50 {low:.1f} ms   p95 {high:.1f} ms   p99 {worst:.1f} ms   (callers and fleet share this machine)"
        )
        print("batches    how many of each size: requests that arrive together are run together\n" + histogram(batches))
        if right < 0.95:
            sys.exit("the answers are wrong: the accuracy should be above 95 %")


@contextlib.contextmanager
def fleet() -> Iterator[str]:
    """The URL of a one-process fleet that serves the demo's model, stopped as an operator would stop it."""
    port, metrics = free_port(), free_port()
    repository = str(HERE / "models")
    line = [sys.executable, "-m", "penstock", "serve", "--model-repository", repository, "--log-level", "warning"]
    begin = time.perf_counter()
    with subprocess.Popen(
        [*line, "--http-port", str(port), "--grpc-port", "off", "--metrics-port", str(metrics)],
        stdout=subprocess.DEVNULL,
    ) as process:
        url = f"http://127.0.0.1:{port}"
        with Client(url) as client:
            while not client.ready():
                if process.poll() is not None or time.perf_counter() - begin > 60:
                    sys.exit("the fleet did not start; try: penstock serve --model-repository examples/digits/models")
                time.sleep(0.02)
        print(f"one-process fleet ready after {time.perf_counter() - begin:.2f} s: {url}/v2/models/digits\n")
        try:
            yield url
        finally:
            process.terminate()
            code = process.wait(30)
            print("\nstopped cleanly" if code == 0 else f"\nthe fleet ended with exit code {code}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def classify(url: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, collections.Counter[int], float]:
    """(digit of each image, latency in seconds of each, rows of a request's batch counted per request, seconds in all)."""
    jobs = list(range(len(images) * ROUNDS))
    digits, latencies = np.zeros(len(jobs), int), np.zeros(len(jobs))
    rows: collections.Counter[int] = collections.Counter()
    waiting = iter(jobs)
    begin = time.perf_counter()
    with click.progressbar(length=len(jobs), label="classifying", file=sys.stdout, update_min_steps=CALLERS) as bar:

        async def caller(client: AsyncClient) -> None:
            for job in waiting:
                sent = time.perf_counter()
                answer = await client.infer("digits", {"image": images[[job % len(images)]]})
                latencies[job] = time.perf_counter() - sent
                digits[job] = answer.outputs["digit"][0, 0]
                rows[int(re.search(r"rows=(\d+)", answer.timing)[1])] += 1  # type: ignore[index]  # the header is always there
                bar.update(1)

        async with AsyncClient(url, connections=CALLERS) as client:
            await asyncio.gather(*(caller(client) for _ in range(CALLERS)))
    return digits, latencies, rows, time.perf_counter() - begin


def show(images: np.ndarray, labels: np.ndarray, digits: np.ndarray, count: int = 5) -> None:
    """A few different digits as pictures, each above the model's answer."""
    chosen = np.unique(labels, return_index=True)[1][:: 10 // count][:count]
    print()
    for row in range(8):
        print("   ".join("".join(SHADES[int(value * 9)] * 2 for value in images[index][0, row]) for index in chosen))
    print("   ".join(f"read {digits[index]}, is {labels[index]}".center(16) for index in chosen))


def histogram(rows: collections.Counter[int], width: int = 40) -> str:
    """One line per batch size; a batch of n rows was seen by n requests."""
    batches = {size: count / size for size, count in sorted(rows.items())}
    top = max(batches.values())
    return "\n".join(
        f"  {size:3} {'row ' if size == 1 else 'rows'} {'█' * max(1, round(width * n / top))} {n:.0f}"
        for size, n in batches.items()
    )


if __name__ == "__main__":
    main()
