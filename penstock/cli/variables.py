"""Environment variables that begin like ours and mean nothing: mistyped ones, which would be ignored in silence. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from protocol.suggestions import nearest

FLAGS: Final = frozenset(
    """
    ALLOWED_DIGESTS ALLOWED_HOSTS ALLOW_SHARED_MEMORY API_KEY AUTO_COMPLETE_CONFIG BATCH_LANE_MAX_MS BATCH_LANE_SHARE
    CACHE_BYTES CHECK_BATCHING CONNECT_TIMEOUT CORES CORS_ORIGIN DATA_DIR DEFAULT_MAX_BATCH_SIZE DEFAULT_TIMEOUT DRAIN_GRACE
    EXIT_ON_ERROR FAULTS FAULT_COMMAND FSYNC GATEWAY GRPC_HEADER_FORWARD_PATTERN GRPC_PORT GRPC_RESTRICTED_PROTOCOL HISTORY
    HOST HTTP_HEADER_FORWARD_PATTERN HTTP_PORT HTTP_RESTRICTED_API INPUT INSECURE JSON_PROCESSES KAFKA KAFKA_SASL_MECHANISM
    KAFKA_SASL_PASSWORD KAFKA_SASL_USERNAME KAFKA_SECURITY_PROTOCOL KAFKA_SSL_CAFILE KAFKA_SSL_CERTFILE KAFKA_SSL_KEYFILE
    KEEP LOAD_MODEL LOG_FORMAT LOG_LEVEL MAX_ATTEMPTS MAX_LONG_POLLS MAX_PARTITIONS MAX_QUEUED_BYTES MAX_QUEUED_CALLS
    MAX_QUEUED_CALLS_PER_MODEL METRICS_HOST METRICS_PORT MODEL_CACHE_BYTES MODEL_CACHE_DIR MODEL_CONFIG_NAME
    MODEL_CONTROL_MODE MODEL_LOAD_TIMEOUT MODEL_MEMORY_LIMIT MODEL_REPOSITORY MODEL_WAIT NO_WORKER_POLICY PAGE PARTITIONS
    PREFIX PROCESSES RATE_LIMIT RATE_LIMIT_RESOURCE REDIS REPORT REPOSITORY_POLL_SECS REQUESTS RESULT_TTL ROUTING
    SCALER_GRPC_PORT SEED SEEDS SESSION_TIMEOUT SETTLE SIGNING_SECRET STATE_DIR SUPERVISED TLS_CERTIFICATE TLS_CLIENT_CA
    TLS_KEY TRIM_BYTES TRY_EXAMPLES UNLOAD_GRACE URL WORKER
    """.split()  # noqa: SIM905 - as a list it would have a hundred lines
)
"""The variables of all flags, without `PENSTOCK_`; a test compares them with `reference.variables`."""
_OTHERS: Final = re.compile(
    r"(CACHE|CHILD_HOME|HEARTBEAT_FD|JOURNAL_FD|RESTARTS|VERIFY_RUN|KUBECTL|HELM|KUBERNETES_BUILT_ONLY|MAVEN_REPOSITORY|"
    r"(TEST|BENCH|SIMULATION)_[A-Z_]+)\Z"
)
"""Between our own processes, and for those who work on Penstock."""
_SERVICE: Final = re.compile(r"(.+_)?SERVICE_(HOST|PORT)(_.*)?\Z|(.+_)?PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?\Z")
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes and Docker describe a service called penstock in such variables."""
_PREFIX: Final = "PENSTOCK_"


def service_links(environment: Mapping[str, str]) -> list[str]:
    """The variables of ports that Kubernetes has set: for a service called penstock-grpc, PENSTOCK_GRPC_PORT is its URL."""
    return sorted(name for name, value in environment.items() if name.endswith("_PORT") and _SERVICE_URL.match(value))


def problems(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that has no effect.

    Args:
        environment: the variables that begin with `PENSTOCK_`.
    """
    for name, value in sorted(environment.items()):
        rest = name.removeprefix(_PREFIX)
        if rest in FLAGS or _OTHERS.match(rest) or _SERVICE.match(rest) or _SERVICE_URL.match(value):
            continue
        meant = nearest(rest, sorted(FLAGS))
        advice = f"; did you mean {_PREFIX}{meant}?" if meant else ""
        yield f"the environment variable {name} is not known and has no effect{advice}"
