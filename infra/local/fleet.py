"""A whole fleet on this machine: broker, store, one gateway and some workers, each a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from infra.local.process import HOST, LocalServer, OnePortServer, free_port
from infra.local.servers import Servers, servers

ROOT = Path(__file__).parents[2]
"""The folder from which `python -m penstock` works even if it is not installed."""


class FleetProcess(OnePortServer):
    """One `penstock` process, ready once it answers GET `path` with 200 on its port."""

    def __init__(self, data: Path, name: str, arguments: Sequence[str], *, port: int, path: str) -> None:
        super().__init__(data.absolute())
        self.cwd = ROOT
        self.name = name
        self.arguments = arguments
        self.port = port
        self.path = path

    @property
    def metrics_port(self) -> int:
        """Where it shows its metrics."""
        return int(self.arguments[self.arguments.index("--metrics-port") + 1])

    def command(self) -> list[str]:
        """The command line, under the Python that runs us."""
        return [sys.executable, "-m", "penstock", *self.arguments]

    def answers(self) -> bool:
        """Whether `path` answers 200."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", self.path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclasses.dataclass(frozen=True)
class Fleet:
    """A running fleet.

    Attributes:
        url: of the gateway.
        backing: the broker and the store.
        processes: the gateway, then the workers.
    """

    url: str
    backing: Servers
    processes: tuple[FleetProcess, ...]

    @property
    def started(self) -> list[LocalServer]:
        """Everything that was started here."""
        return [s for s in (self.backing.broker, self.backing.store) if s is not None] + list(self.processes)


def gateway(data: Path, backing: Servers, http_port: int, options: Sequence[str] = ()) -> FleetProcess:
    """A gateway that listens on loopback; `options` are added to its command line."""
    ports = ["--http-port", str(http_port), "--grpc-port", "off", "--metrics-port", str(free_port())]
    arguments = ["gateway", *_transport(backing), *ports, *options]
    return FleetProcess(data / "gateway", "gateway", arguments, port=http_port, path="/v2/health/ready")


def worker(
    data: Path,
    name: str,
    backing: Servers,
    repositories: Sequence[Path],
    options: Sequence[str] = (),
    *,
    path: str = "/metrics",
) -> FleetProcess:
    """A worker that serves these repositories; `options` are added to its command line.

    It counts as ready once `path` answers 200: `/metrics` while models may still load, `/v2/health/ready` once they have.
    """
    port = free_port()
    models = [part for folder in repositories for part in ("--model-repository", str(folder.absolute()))]
    arguments = ["worker", *models, *_transport(backing), "--metrics-port", str(port), *options]
    return FleetProcess(data / name, name, arguments, port=port, path=path)


def scaler(data: Path, backing: Servers, grpc_port: int, options: Sequence[str] = ()) -> FleetProcess:
    """A scaler that listens on loopback, ready once it knows enough to answer; `options` are added to its command line."""
    port = free_port()
    arguments = ["scaler", *_transport(backing), "--grpc-port", str(grpc_port), "--metrics-port", str(port), *options]
    return FleetProcess(data / "scaler", "scaler", arguments, port=port, path="/v2/health/ready")


@contextlib.contextmanager
def fleet(
    data: Path,
    repositories: Sequence[Path],
    *,
    workers: int = 2,
    http_port: int = 8000,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Fleet]:
    """A fleet for the duration of a `with`, with its logs in `data`; workers may still be loading models when it begins.

    Broker and store are those that the environment names, or started here on free ports. At the end the gateway is
    drained first, then the workers; broker and store stop last.

    Raises:
        Unavailable: a process cannot be started; names it and the last lines of its log.
    """
    with contextlib.ExitStack() as stack:
        backing = stack.enter_context(servers(data, environ=environ))
        crew = [worker(data, f"worker-{number}", backing, repositories) for number in range(1, workers + 1)]
        processes = [*crew, gateway(data, backing, http_port)]
        for process in processes:
            stack.callback(process.stop, timeout=45.0)
            process.launch()
        for process in processes:
            process.wait_ready()
        yield Fleet(f"http://{HOST}:{http_port}", backing, (processes[-1], *crew))


def _transport(backing: Servers) -> list[str]:
    return ["--kafka", backing.kafka, "--redis", backing.redis]
