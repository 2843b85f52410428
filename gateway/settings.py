"""The settings of a gateway, in one frozen object. Units: seconds and bytes."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from protocol.errors import ConfigError, quoted
from protocol.frames import MAX_RECORD
from protocol.limits import require_count, require_port, require_seconds, require_tls
from protocol.naming import PREFIX
from protocol.urls import is_loopback, origin_of

MAX_TIMEOUT: Final = 24 * 3600.0
"""Longest deadline that may be configured: a day."""


@dataclasses.dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of one gateway process.

    Attributes:
        host: address to listen on; without an `api_key` it must be loopback.
        http_port: of the V2 API; 0 takes a free one.
        grpc_port: of gRPC; 0 takes a free one, None serves none.
        shared_ports: other processes of this gateway listen on the same ports (SO_REUSEPORT).
        metrics_host: address of Prometheus' `/metrics`.
        metrics_port: of `/metrics` and the health routes; 0 takes a free one, None serves none.
        metrics_at: HOST:PORT where another process of this gateway serves `/metrics`; "" for none.
        page: whether browsers get a page at `/`.
        api_key: sent by callers as `Authorization: Bearer` or `X-API-Key`; "" admits everyone.
        signing_secret: signs the handles of asynchronous requests; the same on all gateways of a fleet. Without one, the gateways
            agree on a random one and keep it in the catalogue's topic.
        gateway: this gateway's id, part of its wake-up channel; "" generates one at start.
        tls_certificate, tls_key: PEM files; both or neither.
        allow_shared_memory: whether clients on this machine may register system shared memory, and requests read and write it.
        tls_client_ca: PEM file with the authorities whose client certificates are accepted; "" asks for none.
        max_body_bytes: of a request, before and after decompression; more is 413.
        max_header_bytes: of request line and headers; more is 431.
        max_connections: open at once; one more is answered 503.
        http_restricted_api, grpc_restricted_protocol: rules of `restrictions.Restrictions` for either door.
        http_header_forward_pattern, grpc_header_forward_pattern: headers whose names match become request parameters; "" for none.
        allowed_hosts: names allowed in `Host` and `Origin` besides localhost, loopback addresses and `host`; checked only without
            an `api_key`, so that a web page cannot call a gateway on its visitor's machine.
        cors_origin: origins whose pages may call and read answers; "*" for every page's.
        max_queued_calls: accepted and not yet answered, in all; more is 429.
        max_queued_bytes: held of requests and answers of all kinds (`gateway/admission/budget.py`); more is 413, 429, 431 or 503.
        max_long_polls: waiting at once; more is 429.
        max_queued_calls_per_model: the same for one model version; 0 allows three times as many as are still free, so at most
            three quarters of all. Bytes are shared in the same way.
        default_timeout: deadline of a synchronous call without one of its own; then 504.
        max_timeout: longest deadline a caller may ask for.
        max_wait: longest long-poll; a caller that asks for more gets this.
        result_ttl: how long the result of a keyed or asynchronous call is kept.
        claim_lease: how long this gateway owns the claim of such a call before the broker acknowledges its record.
        fill_limit: used share of the result store's memory from which asynchronous calls are refused.
        full_limit: the same for all other calls, because their answers would find no room.
        no_worker_policy: whether a call for a known model without a live worker is queued ("queue") or answered 503 ("reject").
        routing: whether requests go to the workers with the least predicted wait ("queue") or to the partitions in turn ("spread").
        model_wait: seconds, from when this gateway is first ready, for which calls wait for a model that is not announced yet;
            after that such a call is 404.
        model_load_timeout: seconds that a load call waits for the workers; after that they go on, and the call is answered 504.
        worker_timeout: silence after which a worker counts as gone.
        json_offload_bytes: JSON above this size is parsed and written by a child process instead of the event loop.
        json_processes: largest number of such processes; each starts when there is work for it.
        trim_bytes: delivered answers of plain calls larger than this are trimmed in the result store; 0 for all.
        keep_alive: how long an idle connection is kept, or up to a fifth longer.
        read_timeout: how long a client may take to send one request, or to read its answer.
        drain_grace: how long calls in flight may take after SIGTERM.
        sweep_after: age at which a waiting call is looked up for the first time; wake-ups are hints.
        sweep_batch: streams that a sweep reads in one round trip.
        trim_batch: delivered answers that are trimmed in one round trip.
        recover_after: age at which a request without an answer is checked for a lost one.
        offsets_max_age: how long committed offsets are reused before the broker is asked again.

    Raises:
        ConfigError: naming the setting.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = None
    shared_ports: bool = False
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 8002
    metrics_at: str = ""
    page: bool = True
    api_key: str = dataclasses.field(default="", repr=False)
    signing_secret: str = dataclasses.field(default="", repr=False)
    gateway: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    http_restricted_api: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    grpc_restricted_protocol: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    http_header_forward_pattern: str = ""
    grpc_header_forward_pattern: str = ""
    allowed_hosts: tuple[str, ...] = ()
    cors_origin: tuple[str, ...] = ()
    allow_shared_memory: bool = False
    max_body_bytes: int = MAX_RECORD
    max_header_bytes: int = 32 * 1024
    max_connections: int = 8192
    max_queued_calls: int = 4096
    max_queued_bytes: int = 512 * 1024 * 1024
    max_long_polls: int = 1024
    max_queued_calls_per_model: int = 0
    default_timeout: float = 60.0
    max_timeout: float = 3600.0
    max_wait: float = 60.0
    result_ttl: float = 3600.0
    claim_lease: float = 10.0
    fill_limit: float = 0.8
    full_limit: float = 0.95
    no_worker_policy: Literal["queue", "reject"] = "queue"
    routing: Literal["queue", "spread"] = "queue"
    model_wait: float = 10.0
    model_load_timeout: float = 600.0
    worker_timeout: float = 2.0
    json_offload_bytes: int = 1024 * 1024
    json_processes: int = 2
    trim_bytes: int = 1024
    keep_alive: float = 75.0
    read_timeout: float = 60.0
    drain_grace: float = 30.0
    sweep_after: float = 1.0
    sweep_batch: int = 512
    trim_batch: int = 1024
    recover_after: float = 2.0
    offsets_max_age: float = 1.0

    def __post_init__(self) -> None:
        if not self.api_key and not is_loopback(self.host):
            raise ConfigError(
                f"host {quoted(self.host)} can be reached from outside, and no API key is set: set --api-key "
                "(or PENSTOCK_API_KEY), or listen on 127.0.0.1"
            )
        if not self.api_key.isascii() or not self.api_key.isprintable() or self.api_key != self.api_key.strip():
            raise ConfigError(
                "the API key must be printable ASCII without surrounding blanks, as it is sent in a header"
            )
        if self.gateway and not PREFIX.match(self.gateway):
            raise ConfigError(f"gateway id {quoted(self.gateway)} must match {PREFIX.pattern}")
        require_tls(self.tls_certificate, self.tls_key, self.tls_client_ca)
        if self.no_worker_policy not in ("queue", "reject"):
            raise ConfigError(f"no-worker policy {quoted(self.no_worker_policy)} must be 'queue' or 'reject'")
        if self.routing not in ("queue", "spread"):
            raise ConfigError(f"routing {quoted(self.routing)} must be 'queue' or 'spread'")
        self._check_origins()
        self._check_numbers()

    def _check_origins(self) -> None:
        for text in self.cors_origin:
            try:
                if text != "*":
                    origin_of(text)
            except ValueError:
                raise ConfigError(
                    f"cors_origin {quoted(text)} is no origin: write SCHEME://HOST or SCHEME://HOST:PORT, without a path "
                    "(https://app.example, http://localhost:3000; names beyond ASCII as xn--…), or * for every page"
                ) from None

    def _check_numbers(self) -> None:
        for name in ("http_port", "grpc_port", "metrics_port"):
            require_port(name, getattr(self, name))
        for name in (
            "default_timeout",
            "max_timeout",
            "result_ttl",
            "claim_lease",
            "keep_alive",
            "read_timeout",
            "model_load_timeout",
            "worker_timeout",
        ):
            require_seconds(name, getattr(self, name))
        for name in (
            "max_connections",
            "max_queued_calls",
            "max_long_polls",
            "json_processes",
            "sweep_batch",
            "trim_batch",
        ):
            require_count(name, getattr(self, name))
        for name in ("max_body_bytes", "max_header_bytes", "max_queued_bytes", "json_offload_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        require_count("max_queued_calls_per_model", self.max_queued_calls_per_model, zero=True)
        require_count("trim_bytes", self.trim_bytes, zero=True)
        for name in ("model_wait", "sweep_after", "recover_after", "offsets_max_age"):
            require_seconds(name, getattr(self, name), zero=True)
        if self.max_body_bytes > MAX_RECORD:
            raise ConfigError(f"max_body_bytes is {self.max_body_bytes}; a record has at most {MAX_RECORD}")
        if not self.default_timeout <= self.max_timeout <= MAX_TIMEOUT:
            raise ConfigError(
                f"default_timeout {self.default_timeout} and max_timeout {self.max_timeout} must be ordered and <= {MAX_TIMEOUT}"
            )
