"""A fleet with Prometheus beside it, some calls so that there is something to see, and a picture of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.local.fleet import Fleet
from infra.local.prometheus import PrometheusServer
from penstock.client import Client
from protocol.errors import FleetError, Unavailable
from protocol.tensors import NUMPY_DTYPE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTLE = 8000
"""Milliseconds of the page's own time until the picture."""


@contextlib.contextmanager
def watched(running: Fleet, folder: Path, *, port: int = 0, every: float = 5.0) -> Iterator[PrometheusServer]:
    """Prometheus for the duration of a `with`, with the fleet's gateway and workers as targets."""
    gateway, *workers = [f"127.0.0.1:{process.metrics_port}" for process in running.processes]
    targets = {"penstock-gateway": [gateway], "penstock-worker": workers}
    with PrometheusServer(folder / "prometheus", targets, port=port, every=every) as server:
        yield server


def zeros(metadata: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Inputs for a model: zeros, or empty texts; 1 for each size that it leaves open, after the rows."""
    found = {}
    for given in metadata["inputs"]:
        shape = [rows if at == 0 and size == -1 else max(1, size) for at, size in enumerate(given["shape"])]
        text = given["datatype"] == "BYTES"
        found[given["name"]] = np.full(shape, b"", object) if text else np.zeros(shape, NUMPY_DTYPE[given["datatype"]])
    return found


@contextlib.contextmanager
def calls(url: str, a_second: float) -> Iterator[None]:
    """Call every ready model in turn, from a thread, for the duration of a `with`; errors are left to the dashboard."""
    ended = threading.Event()

    def call() -> None:
        number = 0
        with Client(url, retries=0) as client:
            while not ended.wait(1 / a_second):
                with contextlib.suppress(FleetError):
                    ready = [entry["name"] for entry in client.models() if entry.get("state") == "READY"]
                    if ready:
                        model = ready[number % len(ready)]
                        number += 1
                        client.infer(model, zeros(client.get(f"/v2/models/{model}"), 1 + number % 4), timeout=5.0)

    thread = threading.Thread(target=call, name="calls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10.0)


def picture(url: str, file: Path, size: tuple[int, int] = (1400, 2300)) -> None:
    """Take a picture of a page in a headless browser.

    Args:
        url: of the page.
        file: a PNG.
        size: width and height in pixels.

    Raises:
        Unavailable: there is no Chromium, or it made no picture.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Unavailable("there is no Chromium; on Debian: apt-get install --no-install-recommends chromium")
    file.unlink(missing_ok=True)
    width, height = size
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [
            browser, "--headless", "--disable-gpu", "--hide-scrollbars", *root, f"--screenshot={file.absolute()}",
            f"--window-size={width},{height}", f"--virtual-time-budget={SETTLE}", url,
        ],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    if not file.exists():
        raise Unavailable(f"{browser} made no picture of {url}: {done.stderr[-500:]}")


def picture_after(seconds: float, url: str, file: Path) -> None:
    """Take the picture once the curves are so many seconds long."""
    time.sleep(seconds)
    picture(url, file)
