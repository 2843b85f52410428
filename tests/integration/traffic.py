"""Callers of the model `plus` that call all gateways of a fleet while something is changed, and what they were answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.integration.fleet import Fleet, wait_for


class Traffic:
    """Callers that call until they are stopped.

    Attributes:
        answers: (when it was sent, seconds, status, value or text) of each call.
    """

    def __init__(self, running: Fleet, callers: int = 4) -> None:
        self.answers: list[tuple[float, float, int, Any]] = []
        self._urls = [gateway.url for gateway in running.gateways if gateway.process.poll() is None]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        wait_for("traffic", lambda: len(self.answers) > 100)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
        with httpx.Client(base_url=self._urls[number % len(self._urls)], timeout=60) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                found = client.post("/v2/models/plus/infer", json=body)
                value = found.json()["outputs"][0]["data"][0] if found.status_code == 200 else found.text
                self.answers.append((began, time.monotonic() - began, found.status_code, value))

    def while_(self, change: Callable[[], Any]) -> tuple[float, float]:
        """Make a change, and call on for a while; the moments between which it was made."""
        began = time.monotonic()
        change()
        end = time.monotonic()
        many = len(self.answers) + 200
        wait_for("more traffic", lambda: len(self.answers) > many)
        return began, end
