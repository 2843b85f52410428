"""A real fleet as processes, for tests: gateways and workers started by their commands, on a real broker and a real store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.local.process import free_port
from penstock.client import Client

START_WITHIN = 60.0


def wait_for(what: str, check: Callable[[], Any], within: float = START_WITHIN, pause: float = 0.05) -> Any:
    """The first true value of `check`; fails after `within` seconds, saying for `what`."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if value := check():
            return value
        time.sleep(pause)
    raise AssertionError(f"waited {within} s for {what}")


class Process:
    """One `penstock` command, its log in a file; of the source tree in this folder, if one is named."""

    def __init__(self, name: str, log: Path, *arguments: str, tree: Path | None = None, http_port: int = 0) -> None:
        self.name, self.log = name, log
        self.http_port = http_port or free_port()
        self.grpc_port, self.metrics_port = free_port(), free_port()
        ports = ["--metrics-port", str(self.metrics_port)]
        if arguments[0] in ("gateway", "serve"):
            ports += ["--http-port", str(self.http_port)]
        if arguments[0] != "worker":
            ports += ["--grpc-port", str(self.grpc_port)]
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments, *ports, "--log-level", "info"],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=tree,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | ({"PYTHONPATH": str(tree)} if tree else {}),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def working_pid(self) -> int:
        """The id of the process that holds the Kafka membership: a supervisor's child, or the process itself."""
        children = psutil.Process(self.process.pid).children()
        return children[0].pid if children else self.process.pid

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 while the process does not answer."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=2).text
        except httpx.HTTPError:
            return 0.0
        lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def kill_worker(self) -> None:
        """SIGKILL the process that runs models; a supervisor lives on."""
        os.kill(self.working_pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL everything, as when the machine fails."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait(10)
        self._file.close()

    def stop(self, within: float = 60.0) -> int:
        """SIGTERM and the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(within)
        finally:
            if self.process.poll() is None:
                self.kill()
            self._file.close()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


class Fleet:
    """Gateways and workers under one prefix."""

    def __init__(self, kafka: str, redis: str, prefix: str, folder: Path, repository: Path) -> None:
        self.kafka, self.redis, self.prefix, self.folder, self.repository = kafka, redis, prefix, folder, repository
        self._servers = ("--kafka", kafka, "--redis", redis, "--prefix", prefix)
        self.gateways: list[Process] = []
        self.workers: list[Process] = []
        self.scalers: list[Process] = []

    def add_gateway(self, *flags: str, tree: Path | None = None) -> Process:
        name = f"gateway-{len(self.gateways)}"
        self.gateways.append(Process(name, self.folder / f"{name}.log", "gateway", *self._servers, *flags, tree=tree))
        return self.gateways[-1]

    def add_worker(self, *flags: str, name: str = "", tree: Path | None = None) -> Process:
        name = name or f"worker-{len(self.workers)}"
        repository = ("--model-repository", str(self.repository))
        arguments = ("worker", *self._servers, *repository, "--worker", name, *flags)
        self.workers.append(Process(name, self.folder / f"{name}.log", *arguments, tree=tree))
        return self.workers[-1]

    def add_scaler(self, *flags: str) -> Process:
        name = f"scaler-{len(self.scalers)}"
        self.scalers.append(Process(name, self.folder / f"{name}.log", "scaler", *self._servers, *flags))
        return self.scalers[-1]

    def wait_ready(self, models: int, within: float = START_WITHIN) -> None:
        """Wait until every gateway knows `models` ready models and every worker has joined its groups."""

        def ready() -> bool:
            for process in (*self.gateways, *self.workers):
                if process.process.poll() is not None:
                    raise AssertionError(f"{process.name} ended:\n{process.tail()}")
            for gateway in self.gateways:
                with Client(gateway.url) as client, contextlib.suppress(Exception):
                    if client.ready() and sum(entry.get("state") == "READY" for entry in client.models()) >= models:
                        continue
                return False
            return all(b"partitions assigned" in worker.log.read_bytes() for worker in self.workers)

        wait_for(f"{models} ready models on {len(self.gateways)} gateways", ready, within)

    def stop(self) -> list[int]:
        """Exit codes of all, gateways first."""
        return [process.stop() for process in (*self.gateways, *self.workers, *self.scalers)]


@contextlib.contextmanager
def fleet(kafka: str, redis: str, prefix: str, folder: Path, repository: Path) -> Iterator[Fleet]:
    """A fleet without processes yet; added processes end with the test, and their logs are shown if it fails."""
    made = Fleet(kafka, redis, prefix, folder, repository)
    try:
        yield made
    except BaseException:
        for process in (*made.gateways, *made.workers, *made.scalers):
            print(f"--- {process.name}\n{process.tail()}")
        raise
    finally:
        for process in (*made.gateways, *made.workers, *made.scalers):
            with contextlib.suppress(Exception):
                process.stop(5.0)
