"""The systems under test: the one-process fleet, and the fleet of gateway, Kafka, worker and Redis, as processes on one core.

Invariant: the servers run with their defaults; only addresses and the repository are given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import secrets
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from loadtest.connections import Address
from loadtest.interpreters import THIS_ONE, Interpreter
from loadtest.payloads import Pool
from loadtest.processes import MIB, Meter, ServerProcess
from loadtest.targets import get_json
from protocol.errors import FleetError, Unavailable

if TYPE_CHECKING:
    from infra.local.kafka import Jvm

START_WITHIN: Final = 120.0
"""Seconds for a server to give its first answer."""
HEARTBEATS: Final = 1.0
"""Seconds after which a gateway has its workers' counts; they come with heartbeats, every 0.5 s."""
_POLL: Final = 0.005


REDIS_MEMORY: Final = "4gb"


@dataclasses.dataclass(frozen=True, slots=True)
class System:
    """A running server or fleet.

    Attributes:
        name: "embedded", "fleet" or "rival".
        port: of its V2 API on loopback.
        meter: of all its processes.
        first_answer_s: from the start of its own processes to the first right answer.
        kafka: bootstrap servers, if it has any.
        redis: URL of its store, if it has one.
        prefix: of its topics and keys, if it has any.
        metrics: port of the gateway's metrics, if it has one.
        log: reads what its processes have written, if that is kept together.
    """

    name: str
    port: int
    meter: Meter
    first_answer_s: float
    kafka: str = ""
    redis: str = ""
    prefix: str = ""
    metrics: int = 0
    log: Callable[[], str] = str

    def address(self, model: str) -> Address:
        """The address of one of its models."""
        return Address("127.0.0.1", self.port, model)

    def executed(self, model: str) -> tuple[int, int]:
        """(rows, executions) so far, from the server's own statistics; differences of two readings give the mean batch."""
        time.sleep(HEARTBEATS)
        return self.counted(model)

    def counted(self, model: str) -> tuple[int, int]:
        """(rows, executions) that the server's statistics have now."""
        document = get_json(self.address(model), f"/v2/models/{model}/stats")
        stats = document["model_stats"]
        return sum(s["inference_count"] for s in stats), sum(s["execution_count"] for s in stats)

    def memory_mib(self) -> dict[str, float]:
        """Resident memory by process, and Redis' own figure."""
        memory = self.meter.memory_mib()
        if self.redis:
            memory["redis used_memory"] = redis_used_bytes(self.redis) / MIB
        return memory


@contextlib.contextmanager
def embedded(
    repository: Path,
    core: int | None,
    model: str,
    pool: Pool,
    *,
    gateway_options: Sequence[str] = (),
    interpreter: Interpreter = THIS_ONE,
) -> Iterator[System]:
    """`penstock serve`, once it has answered the pool's first request to `model` correctly."""
    port, metrics = free_port(), free_port()
    line = ["-m", "penstock", "serve", "--model-repository", str(repository)]
    begin = time.perf_counter()
    server = ServerProcess([*line, *_ports(port, metrics), *gateway_options], core, interpreter=interpreter)
    try:
        wait_for_answer(Address("127.0.0.1", port, model), pool, {"server": server})
        first_answer = time.perf_counter() - begin
        yield System("embedded", port, Meter({"server": server.pid}), first_answer, metrics=metrics)
    finally:
        server.stop()


@contextlib.contextmanager
def fleet(  # noqa: PLR0913  # each is another process's command line
    repository: Path,
    core: int | None,
    model: str,
    pool: Pool,
    worker_options: Sequence[str] = (),
    *,
    jvm: Jvm | None = None,
    gateway_options: Sequence[str] = (),
    interpreter: Interpreter = THIS_ONE,
) -> Iterator[System]:
    """A gateway and a worker on a real broker and a real Redis, once they have answered correctly; started in this order.

    `jvm` sets up the broker's JVM; by default as in tests. Redis gets the memory that its answers take while they are kept; with
    less, the store would be measured.
    """
    from infra.local.servers import servers

    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        backing = stack.enter_context(
            servers(
                data,
                jvm=jvm,
                cores=None if core is None else [core],
                redis_config={"maxmemory": REDIS_MEMORY},
            )
        )
        prefix = f"bench-{secrets.token_hex(4)}"  # the environment may name servers that others use too
        transport = ["--kafka", backing.kafka, "--redis", backing.redis, "--prefix", prefix]
        port, metrics = free_port(), free_port()
        begin = time.perf_counter()
        worker_line = ["-m", "penstock", "worker", "--model-repository", str(repository), *transport, *worker_options]
        worker = ServerProcess([*worker_line, "--metrics-port", str(free_port())], core, interpreter=interpreter)
        stack.callback(worker.stop)
        gateway_line = ["-m", "penstock", "gateway", *transport, *_ports(port, metrics), *gateway_options]
        gateway = ServerProcess(gateway_line, core, interpreter=interpreter)
        stack.callback(gateway.stop)
        wait_for_answer(Address("127.0.0.1", port, model), pool, {"gateway": gateway, "worker": worker})
        first_answer = time.perf_counter() - begin
        roots = {"gateway": gateway.pid, "worker": worker.pid}
        roots |= {"kafka": backing.broker.pid} if backing.broker else {}
        roots |= {"redis": backing.store.pid} if backing.store else {}
        yield System("fleet", port, Meter(roots), first_answer, backing.kafka, backing.redis, prefix, metrics)


@contextlib.contextmanager
def rival(
    command: str, repository: Path, core: int | None, first: tuple[str, Pool], *, python: str = ""
) -> Iterator[System]:
    """Another V2 server, by a command with `{repository}`, `{port}`, `{free}` (any other port that it needs) and `{python}`."""
    model, pool = first
    port = free_port()
    words = [
        word.format(repository=repository, port=port, free=free_port(), python=python) for word in shlex.split(command)
    ]
    begin = time.perf_counter()
    server = ServerProcess(words, core, interpreter=None)
    try:
        wait_for_answer(Address("127.0.0.1", port, model), pool, {"server": server})
        yield System("rival", port, Meter({"server": server.pid}), time.perf_counter() - begin, log=server.log)
    finally:
        server.stop()


def _ports(http_port: int, metrics_port: int) -> list[str]:
    return ["--http-port", str(http_port), "--grpc-port", "off", "--metrics-port", str(metrics_port)]


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_answer(address: Address, pool: Pool, processes: Mapping[str, ServerProcess]) -> None:
    """Ask until the answer is right.

    Raises:
        Unavailable: not within `START_WITHIN` seconds, or one of the processes ended; the message has their output.
        FleetError: the answer is wrong.
    """
    said, deadline = "nothing", time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        for process in processes.values():
            process.check()
        try:
            status, body = ask(address, "POST", address.path, pool.bodies[0], pool.headers)
        except (OSError, http.client.HTTPException) as exc:
            said = str(exc)
        else:
            if status == 200:
                if not pool.is_right(0, body):
                    raise FleetError(f"{address.model} answered wrongly: {body[:300]!r}")
                return
            said = f"{status} {body[:300].decode(errors='replace')}"
        time.sleep(_POLL)
    logs = "\n".join(f"--- {name}\n{process.log()[-2000:]}" for name, process in processes.items())
    raise Unavailable(f"no answer from {address.model} in {START_WITHIN:g} s, last: {said}\n{logs}")


def wait_until_ready(address: Address) -> None:
    """Ask until the model is ready.

    Raises:
        Unavailable: not within `START_WITHIN` seconds.
    """
    deadline = time.monotonic() + START_WITHIN
    while not _is_ready(address):
        if time.monotonic() > deadline:
            raise Unavailable(f"{address.model} is not ready after {START_WITHIN:g} s")
        time.sleep(0.1)


def _is_ready(address: Address) -> bool:
    try:
        return ask(address, "GET", f"{address.model_path}/ready")[0] == 200
    except OSError:  # it does not listen yet
        return False


def ask(
    address: Address, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """(status, body) of one call.

    Raises:
        OSError, http.client.HTTPException: there was no answer.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30.0)
    try:
        content = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, {**content, **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def redis_used_bytes(url: str) -> int:
    """Redis' own count of its memory, read without a client library.

    Raises:
        Unavailable: it does not report it.
    """
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 10.0) as connection:
        connection.sendall(b"INFO memory\r\n")
        with connection.makefile("rb") as answer:
            for line in answer:
                if line.startswith(b"used_memory:"):
                    return int(line[len(b"used_memory:") :])
                if line.startswith(b"-"):
                    break
    raise Unavailable(f"Redis at {parts.hostname}:{parts.port} does not say how much memory it uses")
