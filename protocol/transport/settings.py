"""Typed options of all transports. Units: seconds and bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from protocol.errors import ConfigError, quoted
from protocol.limits import require_seconds
from protocol.naming import Names


@dataclasses.dataclass(frozen=True, slots=True)
class TransportSettings:
    """Where records and results are stored, and how to connect.

    Attributes:
        kafka: bootstrap servers `HOST:PORT[,…]`; empty for one process.
        redis: `redis://`, `rediss://` or `unix://` URL; needed with `kafka`, except for `open_bus`.
        prefix: of all topics, keys and channels.
        data_dir: folder of the durable one-process log; None keeps it in memory.
        fsync: make every acknowledged publish survive a power loss, not only a kill.
        session_timeout: seconds after which Kafka declares a silent member dead.
        heartbeat_interval: seconds between a member's heartbeats to Kafka.
        fetch_max_wait: seconds that a fetch waits at the broker for data.
        result_ttl: seconds the result of a keyed or asynchronous call is kept.
        connect_timeout: seconds of retries before start-up gives up.
        kafka_security: passed through to aiokafka: `security_protocol`, `sasl_mechanism`, `sasl_plain_username`,
            `sasl_plain_password`, `ssl_cafile`, `ssl_certfile`, `ssl_keyfile`. Never logged.
        bus_only: for a process that only publishes and reads records (`open_bus`), and needs no `redis`.
    """

    kafka: str = ""
    redis: str = ""
    prefix: str = "penstock"
    data_dir: Path | None = None
    fsync: bool = False
    session_timeout: float = 10.0
    heartbeat_interval: float = 0.5
    fetch_max_wait: float = 0.5
    result_ttl: float = 3600.0
    connect_timeout: float = 30.0
    kafka_security: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    bus_only: bool = False

    def __post_init__(self) -> None:
        if bool(self.kafka) != bool(self.redis) and not (self.kafka and self.bus_only):
            raise ConfigError("a fleet needs both --kafka and --redis; leave both out for one process")
        if self.kafka and self.data_dir is not None:
            raise ConfigError("--data-dir is the log of one process; with --kafka the log is Kafka's")
        if self.fsync and self.data_dir is None:
            raise ConfigError("--fsync applies to the files of --data-dir, which is not given")
        for server in self.kafka.split(",") if self.kafka else ():
            host, colon, port = server.strip().rpartition(":")
            if (
                colon
                and "]" not in port
                and not (host and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536)
            ):
                raise ConfigError(
                    f"--kafka has {quoted(server.strip())}; a bootstrap server is HOST:PORT; separate several by commas"
                )
        for name in ("session_timeout", "heartbeat_interval", "fetch_max_wait", "result_ttl", "connect_timeout"):
            require_seconds(name, getattr(self, name))
        Names(self.prefix)

    @property
    def names(self) -> Names:
        """All names under the prefix."""
        return Names(self.prefix)

    @property
    def fence_ttl(self) -> float:
        """Seconds that a plain call's fence outlives its answer: longer than any late duplicate."""
        return max(2 * self.session_timeout, 300.0)

    @property
    def topic_fence_ttl(self) -> float:
        """The same for an answer that goes to a topic. Short: a fence takes 350 bytes of the store, and batches have millions."""
        return max(2 * self.session_timeout, 60.0)
