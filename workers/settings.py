"""Every setting of a worker, in one frozen object, and its conversion to and from environment variables.

Units: seconds and bytes. A field's environment variable is `PENSTOCK_` and its flag's name; a supervisor passes its settings to the
worker this way, so that no secret is on a command line.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from protocol.dead_letter import MAX_ATTEMPTS
from protocol.errors import ConfigError, quoted
from protocol.limits import require_count, require_port, require_seconds, require_share
from protocol.transport.settings import TransportSettings
from workers.repository import model_files
from workers.repository.completion import DEFAULT_MAX_BATCH_SIZE
from workers.repository.model_files import ModelFile
from workers.repository.remote import address

Mode = Literal["none", "poll", "explicit"]
Limit = Literal["off", "execution_count"]

MAX_SHARE: Final = 0.9
"""The largest `batch_lane_share`: interactive requests always get some of the time."""
_PREFIX: Final = "PENSTOCK_"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_SECURITY: Final = {
    "security_protocol": "PENSTOCK_KAFKA_SECURITY_PROTOCOL",
    "sasl_mechanism": "PENSTOCK_KAFKA_SASL_MECHANISM",
    "sasl_plain_username": "PENSTOCK_KAFKA_SASL_USERNAME",
    "sasl_plain_password": "PENSTOCK_KAFKA_SASL_PASSWORD",
    "ssl_cafile": "PENSTOCK_KAFKA_SSL_CAFILE",
    "ssl_certfile": "PENSTOCK_KAFKA_SSL_CERTFILE",
    "ssl_keyfile": "PENSTOCK_KAFKA_SSL_KEYFILE",
}
"""As on the command line."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of one worker process.

    Attributes:
        model_repository: folders of model folders, in Triton's layout.
        remote_repository: URLs of further repositories, `s3://bucket/prefix` or `s3://https://host:port/bucket/prefix`.
        model_cache_dir: where their files and those of load calls are kept, for all workers of this machine; None for the user's
            cache folder.
        model_cache_bytes: that they may have there; the longest unused are removed first. 0 for no limit.
        allowed_digests: file with the digests of the only versions that may be served, one SHA-256 per line; None for any.
        model_file: single model files that are served as well, each under a name of its own.
        model_control_mode: load all at start, also follow changes, or only `load_model`.
        load_model: with explicit control: these at start; `*` for all.
        model_memory_limit: bytes that the models may need together, with explicit control; 0 for no limit. The need of a model is
            estimated by the size of its files.
        repository_poll_secs: with polling, seconds between checks.
        exit_on_error: a model that cannot be loaded at start stops the worker.
        worker: this worker's id and static membership; unique in the fleet, the same over restarts. "" generates one.
        partitions: of a topic that has to be created. With four, four workers can share a version without repartitioning; each
            costs only an entry in every fetch and a log segment.
        max_partitions: up to which a topic of this worker's models is raised when more workers serve it than it has partitions; one
            that has as many or more is left alone.
        metrics_port: of `/metrics` and the health routes; 0 for a free one, None for no server.
        metrics_host: address to listen on for those.
        drain_grace: time to answer requests that are here at SIGTERM.
        unload_grace: time to serve the rest of an unloaded version's topic before it is refused.
        heartbeat_interval: between heartbeats.
        heartbeat_fd: write them to this pipe of a supervisor instead of the directory.
        restarts: how often the supervisor has started this worker again.
        journal_fd: the supervisor's file for the crash journal.
        resync_interval: between measurements of the offset to the store's clock.
        max_queued_bytes: of requests that wait or run in this process, over all its models. Half of it is guaranteed to them, in
            equal shares; batch lanes leave a quarter to interactive requests.
        batch_lane_max_ms: milliseconds that one batch of the batch lane may run: the longest wait of an interactive request.
        batch_lane_share: of the instances' time that the batch lane gets while interactive requests always wait; 0 for none.
        rate_limit: `execution_count` makes instances wait for the resources that their groups name.
        rate_limit_resource: with that, how much there is: `name:count` or `name:count:device`; else the largest need.
        auto_complete_config: whether what a configuration leaves out comes from the model's file.
        check_batching: whether a model that can batch and states no size is tried at load, with rows alone and together; if they
            influence each other, it does not batch.
        model_config_name: a model's `configs/<name>.pbtxt` replaces its config.pbtxt where it has one; "" for none.
        cache_bytes: of the response cache, for models that ask for one; 0 for no cache.
        default_max_batch_size: of models that can batch and state no size; 0 to batch only where a configuration asks for it.
        gpus: the numbers of the GPUs to use; None for all.
        cores: CPU cores to share out between instances; 0 for all this process may use.
        load_threads: model versions that are loaded at the same time.
        fence_ttl: seconds that a plain call's fence outlives its answer; see `TransportSettings.fence_ttl`.
        topic_fence_ttl: the same for an answer that goes to a topic; see `TransportSettings.topic_fence_ttl`.
        max_attempts: runs that may die with a request in them before it goes to the dead letters.

    Raises:
        ConfigError: naming the setting.
    """

    model_repository: tuple[Path, ...] = ()
    remote_repository: tuple[str, ...] = ()
    model_cache_dir: Path | None = None
    model_cache_bytes: int = 64 * 1024**3
    allowed_digests: Path | None = None
    model_file: tuple[ModelFile, ...] = ()
    model_control_mode: Mode = "none"
    load_model: tuple[str, ...] = ()
    model_memory_limit: int = 0
    repository_poll_secs: float = 15.0
    exit_on_error: bool = True
    worker: str = ""
    partitions: int = 4
    max_partitions: int = 64
    metrics_port: int | None = 8002
    metrics_host: str = "127.0.0.1"
    drain_grace: float = 30.0
    unload_grace: float = 30.0
    heartbeat_interval: float = 0.5
    heartbeat_fd: int | None = None
    restarts: int = 0
    journal_fd: int | None = None
    resync_interval: float = 10.0
    max_queued_bytes: int = 256 * 1024 * 1024
    batch_lane_max_ms: float = 20.0
    batch_lane_share: float = 0.05
    rate_limit: Limit = "off"
    rate_limit_resource: tuple[str, ...] = ()
    auto_complete_config: bool = True
    check_batching: bool = True
    model_config_name: str = ""
    cache_bytes: int = 64 * 1024 * 1024
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    gpus: tuple[int, ...] | None = None
    cores: int = 0
    load_threads: int = 2
    fence_ttl: float = 300.0
    topic_fence_ttl: float = 60.0
    max_attempts: int = MAX_ATTEMPTS

    def __post_init__(self) -> None:
        if self.model_control_mode not in get_args(Mode):
            raise ConfigError(
                f"model_control_mode is {quoted(self.model_control_mode)}; it must be none, poll or explicit"
            )
        if self.load_model and self.model_control_mode != "explicit":
            raise ConfigError("load_model is valid only with model_control_mode explicit")
        if self.worker and (
            len(self.worker) > 128 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in self.worker)
        ):
            raise ConfigError(
                f"worker id {quoted(self.worker)} must be at most 128 letters, digits, dots, dashes and underscores"
            )
        self._check_model_settings()
        self._check_numbers()

    def _check_model_settings(self) -> None:
        if "/" in self.model_config_name or "\0" in self.model_config_name:
            raise ConfigError(
                f"model_config_name is {quoted(self.model_config_name)}; it is a file's name without .pbtxt"
            )
        if self.rate_limit not in get_args(Limit):
            raise ConfigError(f"rate_limit is {quoted(self.rate_limit)}; it must be off or execution_count")
        if self.rate_limit_resource and self.rate_limit == "off":
            raise ConfigError("rate_limit_resource is valid only with rate_limit execution_count")

    def _check_numbers(self) -> None:
        require_port("metrics_port", self.metrics_port)
        self._check_repositories()
        for name in ("repository_poll_secs", "heartbeat_interval", "resync_interval", "fence_ttl", "topic_fence_ttl"):
            require_seconds(name, getattr(self, name))
        for name in ("drain_grace", "unload_grace"):
            require_seconds(name, getattr(self, name), zero=True)
        for name in ("partitions", "max_partitions", "load_threads", "max_attempts"):
            require_count(name, getattr(self, name))
        for name in ("default_max_batch_size", "cores"):
            require_count(name, getattr(self, name), zero=True)
        if self.max_queued_bytes <= 0 or self.model_memory_limit < 0:
            name = "max_queued_bytes" if self.max_queued_bytes <= 0 else "model_memory_limit"
            raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if self.cache_bytes < 0:
            raise ConfigError(f"cache_bytes is {self.cache_bytes}; it must be at least 0")
        require_seconds("batch_lane_max_ms", self.batch_lane_max_ms)
        require_share("batch_lane_share", self.batch_lane_share, MAX_SHARE)

    def _check_repositories(self) -> None:
        model_files.require_distinct(self.model_file)
        for url in self.remote_repository:
            address.parse(url)  # raises
        if self.model_cache_bytes < 0:
            raise ConfigError(f"model_cache_bytes is {self.model_cache_bytes}; it must be 0 or more")


def to_environment(worker: WorkerSettings, transport: TransportSettings) -> dict[str, str]:
    """The variables from which `from_environment` makes these settings; some hold secrets.

    Raises:
        ConfigError: a value has its list's separator in it.
    """
    environment: dict[str, str] = {}
    for settings in (worker, transport):
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if isinstance(value, dict):
                environment.update({_SECURITY[key]: text for key, text in value.items()})
            elif value is not None:
                environment[_PREFIX + field.name.upper()] = _write(field.name, value)
            elif field.default is not None:
                environment[_PREFIX + field.name.upper()] = ""
    return environment


def from_environment(environment: Mapping[str, str]) -> tuple[WorkerSettings, TransportSettings]:
    """The settings that `PENSTOCK_*` variables describe; unset ones have their defaults.

    Raises:
        ConfigError: a variable cannot be read, or the settings contradict each other; names it.
    """
    security = {key: environment[name] for key, name in _SECURITY.items() if environment.get(name)}
    transport = TransportSettings(kafka_security=security, **_read(TransportSettings, environment))
    fences = {"fence_ttl": transport.fence_ttl, "topic_fence_ttl": transport.topic_fence_ttl}
    return WorkerSettings(**fences | _read(WorkerSettings, environment)), transport


def _write(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, tuple):
        return str(value)
    separator = os.pathsep if value and isinstance(value[0], Path | ModelFile) else " "
    parts = [str(part) for part in value]
    if any(separator in part for part in parts):
        raise ConfigError(f"{name} has an entry with {quoted(separator)} in it, which separates entries")
    return separator.join(parts)


def _read(kind: type[WorkerSettings] | type[TransportSettings], environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = _PREFIX + field.name.upper()
        text = environment.get(name)
        if text is None or field.name == "kafka_security":
            continue
        try:
            values[field.name] = _READERS[str(field.type)](text)
        except ValueError:
            raise ConfigError(
                f"{name} is {quoted(text)}; it must be {str(field.type).removesuffix(' | None')}"
            ) from None
    return values


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError(text)
    return lowered in _TRUE


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "Mode": str,
    "Limit": str,
    "int": int,
    "float": float,
    "bool": _flag,
    "int | None": lambda text: int(text) if text else None,
    "Path | None": lambda text: Path(text) if text else None,
    "tuple[Path, ...]": lambda text: tuple(Path(part) for part in text.split(os.pathsep) if part),
    "tuple[ModelFile, ...]": lambda text: tuple(model_files.parse(part) for part in text.split(os.pathsep) if part),
    "tuple[str, ...]": lambda text: tuple(text.split()),
    "tuple[int, ...] | None": lambda text: tuple(int(part) for part in text.split()),
}
"""By the declared type of a field; a field of another type fails the tests."""


def made_up_id() -> str:
    """The id of a worker that was given none. A restart generates another, which must wait for the old one's session to end."""
    host = "".join(c for c in socket.gethostname() if c.isascii() and (c.isalnum() or c == "-"))[:40] or "host"
    return f"{host}-{secrets.token_hex(4)}"
