"""The settings of a scaler, in one frozen object. Units: seconds and bytes."""

from __future__ import annotations

import dataclasses

from protocol.limits import require_port, require_seconds, require_tls


@dataclasses.dataclass(frozen=True, slots=True)
class ScalerSettings:
    """Settings of one scaler process.

    Attributes:
        host: address of gRPC.
        grpc_port: of gRPC; 0 takes a free one.
        metrics_host: address of Prometheus' `/metrics`.
        metrics_port: of `/metrics` and the health routes; 0 takes a free one, None serves none.
        tls_certificate, tls_key: PEM files; both or neither.
        tls_client_ca: PEM file with the authorities whose client certificates are accepted; "" asks for none.
        worker_timeout: silence after which a worker counts as gone.
        heartbeats_every: pause between two readings of the heartbeats.
        logs_every: pause between two readings of the logs without a worker.
        stale_after: age of what is known from which calls fail.
        max_connections: open at once.
        max_calls: calls and streams at once.

    Raises:
        ConfigError: naming the setting.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 6000
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 8002
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    worker_timeout: float = 2.0
    heartbeats_every: float = 0.5
    logs_every: float = 1.0
    stale_after: float = 10.0
    max_connections: int = 256
    max_calls: int = 4096

    def __post_init__(self) -> None:
        require_tls(self.tls_certificate, self.tls_key, self.tls_client_ca)
        for name in ("grpc_port", "metrics_port"):
            require_port(name, getattr(self, name))
        for name in ("worker_timeout", "heartbeats_every", "logs_every", "stale_after"):
            require_seconds(name, getattr(self, name))
