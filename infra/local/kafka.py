"""A Kafka broker (KRaft, both roles in one process) on this machine, alone or one of several (`cluster`).

Invariant: the settings are infra/kafka.properties, then this machine's (addresses, folders), then the caller's.
"""

from __future__ import annotations

import base64
import dataclasses
import subprocess
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from infra.local import installation, jars, probes
from infra.local.installation import Installation
from infra.local.process import HOST, LocalServer, free_port
from protocol.errors import Unavailable

PROFILE = Path(__file__).parents[1] / "kafka.properties"

LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils.AppInfoParser=info",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)


@dataclasses.dataclass(frozen=True)
class Jvm:
    """The settings of the JVM.

    Attributes:
        heap: the largest heap, as `-Xmx` takes it. 512m carries the benchmarks; the page cache does the rest.
        options: further options. On one core the second compiler took two thirds of it in the first seconds of load, and 18 % even
            after a minute; code of the first compiler alone is a third slower, and settles at once.
    """

    heap: str = "512m"
    options: tuple[str, ...] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


LONG_RUNNING: Final = Jvm(options=("-XX:+UseSerialGC",))
"""With both compilers, for a broker that is warmed for a minute or two before measuring."""

UNPAUSED: Final = Jvm(heap="1g", options=(*Jvm.options, "-Xms1g", "-Xmn800m"))
"""Enough heap for the garbage of a broker's first minutes, so that its collector, which stops it for 15 to 40 ms, does not run."""


def parse_properties(text: str) -> dict[str, str]:
    """The settings of a Java properties file; plain `key=value` lines and `#` comments only."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def single_node(port: int, controller_port: int, log_folder: Path) -> dict[str, str]:
    """Settings of a single broker beyond the profile: roles, plain-text addresses on loopback, the folder."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(log_folder),
    }


def new_cluster_id() -> str:
    """A new cluster id in Kafka's format."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


class Broker(LocalServer):
    """A broker whose topics are in `data`; on free ports unless `port` names one.

    `properties` overrides and adds; a listener for TLS or SASL is added beside the plain one, which the readiness probe uses.

    Attributes:
        cluster_id: brokers of one cluster are given the same before they start.
        controller_port: where the controllers of a cluster find each other.
    """

    name = "Kafka"

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        properties: Mapping[str, str] | None = None,
        jvm: Jvm | None = None,
        cores: Collection[int] | None = None,
        installed: Installation | None = None,
    ) -> None:
        super().__init__(data.absolute(), cores=cores)
        self.properties = dict(properties or {})
        self.jvm = jvm or Jvm()
        self.port = port or free_port(HOST)
        self._port_named = port is not None
        self.controller_port = free_port(HOST)
        self.cluster_id = new_cluster_id()
        self._installed = installed

    @property
    def bootstrap(self) -> str:
        """The address for clients, `HOST:PORT`."""
        return f"{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """The same, for messages."""
        return self.bootstrap

    @property
    def version(self) -> str:
        """The version of the pinned broker."""
        return jars.kafka_version()

    def ports(self) -> tuple[int, ...]:
        """The ports of both listeners."""
        return (self.port, self.controller_port)

    def choose_ports(self) -> bool:
        """Other free ports, unless the caller named one."""
        if not self._port_named:
            self.port, self.controller_port = free_port(HOST), free_port(HOST)
        return not self._port_named

    def command(self) -> list[str]:
        """Writes server.properties and, for a new folder, formats its storage."""
        log_folder = self.data / "log"
        settings = parse_properties(PROFILE.read_text())
        settings |= single_node(self.port, self.controller_port, log_folder) | self.properties
        file = self.data / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        if not (log_folder / "meta.properties").exists():
            self._format(file)
        return [*self._java(), "kafka.Kafka", str(file)]

    def answers(self) -> bool:
        """Whether the broker lists itself as alive."""
        return probes.kafka_answers(HOST, self.port)

    def launch(self) -> None:
        """Starts the broker; first finds Java and fetches the jars if necessary."""
        self._installed = self._installed or installation.find()
        super().launch()

    def _java(self) -> list[str]:
        assert self._installed is not None
        archive = self._installed.archive
        shared = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        options = [f"-Xmx{self.jvm.heap}", *self.jvm.options, *shared, *LOGGING]
        return [str(self._installed.java.program), *options, "-cp", self._installed.class_path]

    def _format(self, properties: Path) -> None:
        identity = f"--cluster-id={self.cluster_id}"
        command = [*self._java(), "kafka.tools.StorageTool", "format", identity, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.ready_timeout, check=False)
        if done.returncode != 0:
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            raise Unavailable(f"Kafka cannot format {self.data}:\n{last}")
