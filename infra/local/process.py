"""A server as a child process: started, waited for, pinned, measured, stopped, killed, restarted.

Invariants:
- a child never outlives the process that started it: a guard holds a pipe from us and ends the child when it closes;
- CPU cores are set before the child exists, so that every thread it ever has inherits them;
- a child that ends before it answers is an error that shows the last lines of its log.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import psutil

from protocol.errors import ConfigError, Unavailable

POLL = 0.02
"""Seconds between two readiness probes of a starting server."""

HOST = "127.0.0.1"
"""The address on which everything here listens."""

PORTS = range(20_000, 32_000)
"""Below Linux's and macOS's ephemeral ports: an outgoing connection never takes one while its server restarts."""


_DECK = collections.deque(random.SystemRandom().sample(PORTS, len(PORTS)))


def free_port(host: str = HOST) -> int:
    """A free TCP port that this process has not yet been given, until all have been.

    The caller starts a server there only later, so independent choices would sometimes give two processes the same port.
    """
    for _ in range(200):
        _DECK.rotate()
        if is_free(port := _DECK[0], host):
            return port
    raise Unavailable(f"no free TCP port on {host} between {PORTS.start} and {PORTS.stop}")


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen there; lingering closed connections do not prevent it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def wait_until(answers: Callable[[], bool], deadline: float) -> bool:
    """Whether `answers()` came true before `deadline` on the monotonic clock."""
    while not answers():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


@contextlib.contextmanager
def _on_cores(cores: Collection[int] | None) -> Iterator[None]:
    """Pins this thread to cores while it starts a child, which inherits them."""
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("servers can be pinned to cores on Linux only; start them without cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class LocalServer(abc.ABC):
    """One server on this machine with a data folder of its own; its address stays the same over restarts.

    Use as a context manager, or `start()` and `stop()`. `launch()` and `wait_ready()` are the halves of `start()`,
    so that several servers can come up side by side.

    Attributes:
        status: exit status of the last child that was stopped or killed; negative for a signal, None before.
    """

    name: str
    ready_timeout = 45.0

    def __init__(self, data: Path, *, cores: Collection[int] | None = None) -> None:
        self.data = data
        self.log = data / "server.log"
        self.cwd = data
        self.cores = cores
        self.status: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line; first writes the files that it names."""

    @abc.abstractmethod
    def answers(self) -> bool:
        """Whether the server answers its own protocol, ready for work."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """Its address, for messages."""

    def ports(self) -> tuple[int, ...]:
        """The TCP ports that it will listen on."""
        return ()

    def choose_ports(self) -> bool:
        """Takes other ports, unless the caller named them. Returns whether it did."""
        return False

    @property
    def pid(self) -> int:
        """The running child's process id."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> Self:
        """Starts and waits until it answers; chooses another port if its free one was taken meanwhile."""
        for _ in range(2):
            try:
                return self._start_once()
            except Unavailable as error:
                if "in use" not in error.message or not self.choose_ports():
                    raise
        return self._start_once()

    def launch(self) -> None:
        """Starts the child without waiting for it."""
        if self.running:
            raise ConfigError(f"{self.name} already runs at {self.address}")
        if taken := [port for port in self.ports() if not is_free(port)]:
            # Checked first: otherwise another listener could answer in its place.
            raise Unavailable(
                f"{self.name} cannot listen on port {taken[0]}, which is in use by another program; stop that, or name another port"
            )
        self.data.mkdir(parents=True, exist_ok=True)
        command = self.command()
        # A session of its own: Ctrl-C in the terminal reaches us, and we stop servers in order.
        with self.log.open("ab") as log, _on_cores(self.cores):
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.cwd
            )
        # CONT, because a stopped process handles TERM only once it continues.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"; kill -CONT "$0"', str(self._child.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Returns when the server answers.

        Raises:
            Unavailable: it ended, or stayed silent for `ready_timeout`; names the last lines of its log.
        """
        deadline = time.monotonic() + self.ready_timeout
        if wait_until(lambda: not self.running or self.answers(), deadline) and self.running:
            return
        ended = None if self._child is None else self._child.poll()
        what = (
            f"ended with status {ended}" if ended is not None else f"did not answer within {self.ready_timeout:.0f} s"
        )
        self.kill()
        raise Unavailable(f"{self.name} at {self.address} {what}; last lines of {self.log}:\n{self.log_tail()}")

    def stop(self, timeout: float = 20.0) -> None:
        """Ends it in order (SIGTERM); kills it after `timeout` seconds. Does nothing if it is not running."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Ends it like a crash (SIGKILL). Does nothing if it is not running."""
        self._end(signal.SIGKILL, 20.0)

    def restart(self) -> Self:
        """Stops it if it runs and starts it on the same ports and data; after `kill()`, this is the recovery."""
        self.stop()
        return self._start_once()

    def cpu_seconds(self) -> float:
        """User and system time that the running child has used, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """Resident memory of the running child."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def pin(self, cores: Collection[int]) -> None:
        """Moves every thread of the running child, and those of later restarts, to these cores (Linux)."""
        if not hasattr(os, "sched_setaffinity"):
            raise ConfigError("servers can be pinned to cores on Linux only")
        self.cores = cores
        # Affinity belongs to threads. A thread started meanwhile inherits from one already moved, or is seen next.
        done: set[int] = set()
        while todo := {thread.id for thread in psutil.Process(self.pid).threads()} - done:
            for thread in todo:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, cores)
            done |= todo

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log, without the frames of Java stack traces."""
        try:
            written = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join([line for line in written if not line.startswith("\tat ")][-lines:])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_once(self) -> Self:
        try:
            self.launch()
            self.wait_ready()
        except BaseException:  # also an interrupt: a `with` that was not entered has no exit
            self.kill()
            raise
        return self

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or not self.running:
            raise Unavailable(f"{self.name} at {self.address} does not run; start() or restart() it first")
        return self._child

    def _end(self, with_signal: signal.Signals, timeout: float) -> None:
        child, self._child = self._child, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()
        if child is None:
            return
        child.send_signal(with_signal)
        try:
            self.status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            self.status = child.wait()


class OnePortServer(LocalServer):
    """A server with one listener, on `port`."""

    port: int

    @property
    def address(self) -> str:
        """`HOST:PORT`, without a password."""
        return f"{HOST}:{self.port}"

    def ports(self) -> tuple[int, ...]:
        """The port of its one listener."""
        return (self.port,)
