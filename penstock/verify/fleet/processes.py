"""Gateways and workers of a run as real processes, and the addresses of their servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psutil

from penstock.verify.fleet import watchdog
from penstock.verify.fleet.kafka_proxy import KafkaProxy
from penstock.verify.fleet.proxy import Proxy
from protocol.errors import ConfigError

KILL_WITHIN: Final = 10.0


def free_port() -> int:
    """A loopback TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Member:
    """One `penstock` process, which is started, broken and restarted under the same name and port.

    Args:
        name: "worker-0", "gateway-1", …
        arguments: after `penstock`.
        folder: holds its log.
        token: identifies it and its children to the watchdog.

    Attributes:
        proxy: between it and Redis, or None.
        kafka: between it and the brokers, or None.
        skew: error of its clock in seconds, from its next start on.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, token: str) -> None:
        self.name = name
        self.proxy: Proxy | None = None
        self.kafka: KafkaProxy | None = None
        self.skew = 0.0
        self.log = folder / f"{name}.log"
        self._token = token
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it is running."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-m", "penstock", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1", watchdog.VARIABLE: self._token} | skewed(self.skew),
            )

    def family(self) -> list[psutil.Process]:
        """It and all of its descendants, parents first; [] if it is not running."""
        if self._process is None or not self.running:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def working(self) -> psutil.Process | None:
        """The process that holds the Kafka membership: a supervisor's child, or a gateway itself."""
        family = self.family()
        if not family or self.name.startswith("gateway"):
            return family[0] if family else None
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(iter(family[0].children()), None)
        return None

    def kill(self) -> None:
        """SIGKILL it and its descendants, as when a machine fails."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait(KILL_WITHIN)
        psutil.wait_procs(family[1:], KILL_WITHIN)

    def terminate(self) -> None:
        """SIGTERM: it drains and ends on its own."""
        if self._process is not None and self.running:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, and kill it after `seconds`."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(0.05)
        self.kill()

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def send_signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def faketime() -> Path | None:
    """The path of libfaketime, from the system's folders or beside the program `faketime`; None if it is not installed."""
    if sys.platform != "linux":
        return None
    found = shutil.which("faketime")
    roots = [Path("/usr/lib"), Path("/usr/lib64"), *([Path(found).resolve().parents[1] / "lib"] if found else [])]
    for root in roots:
        for pattern in ("faketime/libfaketimeMT.so.1", "*/faketime/libfaketimeMT.so.1"):
            for library in sorted(root.glob(pattern)):
                return library
    return None


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong by `seconds`. Its monotonic clock stays right."""
    library = faketime()
    if not seconds or library is None:
        return {}
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+.1f}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclasses.dataclass(frozen=True, slots=True)
class ServerAddresses:
    """The addresses of Kafka and Redis, for every process of the fleet.

    Attributes:
        redis: URL.
        kafka: bootstrap servers.
        encrypted: the brokers speak TLS.
        arguments: all other flags about the servers.
    """

    redis: str
    kafka: str
    encrypted: bool
    arguments: tuple[str, ...]

    def through(self, port: int) -> str:
        """The Redis URL through a proxy on this machine."""
        url = urlsplit(self.redis)
        login, at, _ = url.netloc.rpartition("@")
        return urlunsplit(url._replace(netloc=f"{login}{at}127.0.0.1:{port}"))

    def target(self) -> tuple[str, int] | None:
        """Redis' host and port for a proxy; None for TLS (its certificate names the host), UNIX sockets and Sentinels.

        Raises:
            ConfigError: it is not a Redis URL.
        """
        url = urlsplit(self.redis)
        if url.scheme not in {"redis", "rediss", "unix", "redis+sentinel"}:
            raise ConfigError("--redis must be a URL like redis://HOST:6379/0")
        return (url.hostname or "127.0.0.1", url.port or 6379) if url.scheme == "redis" else None

    def brokers(self) -> list[tuple[str, int]] | None:
        """The brokers' hosts and ports for proxies; None for TLS.

        Raises:
            ConfigError: they are not HOST:PORT.
        """
        named = [address.strip().rpartition(":") for address in self.kafka.split(",")]
        if not all(host and port.isdecimal() for host, _, port in named):
            raise ConfigError(f"--kafka must be HOST:PORT[,HOST:PORT…], not {self.kafka!r}")
        return None if self.encrypted else [(host.strip("[]"), int(port)) for host, _, port in named]
