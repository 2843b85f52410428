"""The faults that `make verify` can cause in the broker and the store that it started, requested by name over a UNIX socket.

`penstock verify` breaks its own processes, but knows servers only by address. It gets a command for each of these faults, which
asks the process that started the servers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from infra.local import probes
from infra.local.process import HOST, LocalServer, wait_until
from infra.local.redis import RedisServer
from infra.local.servers import Servers
from protocol.errors import FleetError, Unavailable

PAUSE = 3.0
"""Seconds for which a server is stopped."""
ANSWER_WITHIN = 110.0

Faults = dict[str, Callable[[], None]]
"""Possible faults by name; the word before the first `-` names the servers, which get one fault at a time."""

NAMES = tuple(f"{server}-{how}" for server in ("kafka", "redis") for how in ("full", "kill", "restart", "stop"))
USUAL = ("kafka-full", "redis-full", "redis-stop")
"""The default faults of a run on one broker and one store."""


def faults(running: Servers) -> Faults:
    """The faults of the servers that were started here, by name."""
    possible: Faults = {}
    for name, server in (("kafka", running.broker), ("redis", running.store)):
        if server is not None:
            possible |= _of(name, server)
    if running.broker is not None:
        possible["kafka-full"] = functools.partial(_no_room_on_disk, running.broker)
    if running.store is not None:
        possible["redis-full"] = functools.partial(_no_room_in_memory, running.store)
    return possible


def _no_room_on_disk(broker: LocalServer) -> None:
    """Every write of the broker to a file fails, as on a full disk, until it gives up its log folder; then it is started again.

    A limit on its files' size causes the same `IOException`, without creating and filling a file system.
    """
    if sys.platform != "linux":
        raise Unavailable("only Linux can limit the file size of a running process")
    _, hard = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1, hard))
    wait_until(lambda: not broker.running, time.monotonic() + PAUSE)
    broker.kill()  # if it had nothing to write, it still runs with the limit
    broker.start()


def _no_room_in_memory(store: RedisServer) -> None:
    """Redis refuses every write for a while."""
    (_, before) = probes.redis_words(HOST, store.port, "CONFIG", "GET", "maxmemory")
    probes.redis_words(HOST, store.port, "CONFIG", "SET", "maxmemory", "1")
    time.sleep(PAUSE)
    probes.redis_words(HOST, store.port, "CONFIG", "SET", "maxmemory", before)


def _of(name: str, server: LocalServer) -> Faults:
    def killed() -> None:
        server.kill()
        server.start()

    def restarted() -> None:
        server.restart()

    def stopped() -> None:
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(PAUSE)
        os.kill(server.pid, signal.SIGCONT)

    return {f"{name}-kill": killed, f"{name}-restart": restarted, f"{name}-stop": stopped}


def command(address: Path, name: str) -> str:
    """The command line that causes a fault, and returns once it is undone."""
    return shlex.join([sys.executable, "-m", "infra.local", "fault", str(address), name])


@contextlib.contextmanager
def offered(possible: Faults, address: Path) -> Iterator[None]:
    """Serve requests for faults at this socket for the duration of a `with`."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        threading.Thread(target=_serve, args=(listening, possible), daemon=True).start()
        yield


def _serve(listening: socket.socket, possible: Faults) -> None:
    busy = {name.partition("-")[0]: threading.Lock() for name in possible}
    while True:
        try:
            asking, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(asking, possible, busy), daemon=True).start()


def _answer(asking: socket.socket, possible: Faults, busy: Mapping[str, threading.Lock]) -> None:
    with asking:
        name = asking.recv(100).decode()
        try:
            with busy[name.partition("-")[0]]:
                possible[name]()
            said = "done"
        except (FleetError, KeyError, OSError) as error:
            said = f"{name}: {error}"
        with contextlib.suppress(OSError):
            asking.sendall(said.encode()[:1000])


def ask(address: Path, name: str) -> None:
    """Request a fault and wait until it is undone.

    Raises:
        Unavailable: the fault is not possible, or no fault server listens.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ANSWER_WITHIN)
        try:
            asking.connect(str(address))
            asking.sendall(name.encode())
            said = asking.recv(1000).decode()
        except OSError as error:
            raise Unavailable(f"no fault server answers at {address}: {error}") from error
    if said != "done":
        raise Unavailable(f"the fault failed: {said}")
