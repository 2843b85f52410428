"""Flags that several commands share. Every flag is also an environment variable, `PENSTOCK_` and its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.files import FILE, FILE_NAME
from penstock.cli.grpc_port import GrpcPortType
from penstock.cli.repositories import RepositoryType
from protocol.errors import InvalidArgument
from protocol.limits import MAX_SECONDS

if TYPE_CHECKING:
    import ssl

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option(name: str, **settings: Any) -> Decorator:
    """A click option whose environment variable and default are shown in its help."""
    settings.setdefault("show_envvar", True)
    settings.setdefault("envvar", "PENSTOCK_" + name.lstrip("-").upper().replace("-", "_"))
    if settings.get("default") is not None and "show_default" not in settings:
        settings["show_default"] = True
    return click.option(name, **settings)


def seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A callback that checks a duration, if one is given."""
    if value is not None and not 0 < value <= MAX_SECONDS:
        raise click.BadParameter(f"{value} is not a number of seconds between 0 and {MAX_SECONDS:.0f}", ctx, param)
    return value


def options(*decorators: Decorator) -> Decorator:
    """Several options as one decorator, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


url_option = option("--url", default="http://localhost:8000", help="The gateway.")
api_key_option = option("--api-key", default="", show_default=False, help="The gateway's key, if it has one.")
insecure_option = option("--insecure", is_flag=True, help="Do not verify the gateway's TLS certificate.")


def unverified(url: str, *, insecure: bool) -> ssl.SSLContext | None:
    """For a `Client`: a context that trusts every certificate if `insecure`; else None.

    Raises:
        InvalidArgument: it is asked for gRPC, which verifies always.
    """
    if not insecure:
        return None
    if url.startswith("grpc"):
        raise InvalidArgument("--insecure works with https:// URLs: gRPC always verifies the certificate")
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


log_options = options(
    option(
        "--log-format",
        type=click.Choice(["human", "json"]),
        default="human",
        help="Log format, for people or for machines.",
    ),
    option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        help="The lowest level that is logged.",
    ),
)

address_options = options(
    option("--kafka", default="", metavar="HOST:PORT[,…]", help="Bootstrap servers of the broker."),
    option("--redis", default="", metavar="URL", help="The result store: redis://, rediss:// or unix://; redis+sentinel://HOST:26379,HOST:26379/NAME/0 with Sentinels."),  # noqa: E501
)  # fmt: skip

connection_options = options(
    option("--session-timeout", type=float, default=10.0, help="Seconds after which Kafka considers a silent worker dead."),
    option("--result-ttl", type=float, default=3600.0, help="Seconds to keep the results of keyed and asynchronous calls."),
    option("--connect-timeout", type=float, default=30.0, help="Seconds to keep trying to reach broker and store at start."),
    option("--kafka-security-protocol", type=click.Choice(["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]), default="PLAINTEXT", help="As in Kafka's clients."),  # noqa: E501
    option("--kafka-sasl-mechanism", type=click.Choice(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), help="With SASL."),
    option("--kafka-sasl-username", help="With SASL."),
    option("--kafka-sasl-password", help="With SASL; prefer the environment variable."),
    option("--kafka-ssl-cafile", type=FILE_NAME, help="PEM file of the broker's CA."),
    option("--kafka-ssl-certfile", type=FILE_NAME, help="PEM file of our certificate."),
    option("--kafka-ssl-keyfile", type=FILE_NAME, help="PEM file of our key."),
)  # fmt: skip

fleet_options = options(
    address_options,
    option(
        "--prefix",
        default="penstock",
        help="Prefix of all topics, keys and channels: several fleets can share one broker.",
    ),
    connection_options,
)

gateway_options = options(
    option("--host", default="127.0.0.1", help="Address to listen on; anything but loopback needs --api-key."),
    option("--http-port", type=int, default=8000, help="Port of the V2 API; 0 takes a free one."),
    option("--grpc-port", type=GrpcPortType(), help="Port of gRPC; 0 takes a free one, off serves none. [8001, if it is free]"),
    option("--api-key", default="", show_default=False, help="The key that callers must send as bearer token or X-API-Key."),
    option("--tls-certificate", default="", help="PEM file; with --tls-key the API speaks HTTPS, and gRPC TLS."),
    option("--tls-key", default="", help="PEM file."),
    option("--tls-client-ca", default="", help="PEM file of the authorities that sign client certificates; callers must then have one."),  # noqa: E501
    option("--allowed-hosts", multiple=True, help="Without --api-key: a name allowed in Host and Origin besides localhost; may be repeated."),  # noqa: E501
    option("--cors-origin", multiple=True, metavar="ORIGIN", help="Pages of this origin (https://app.example) may call and read answers, from browsers; * for all pages; may be repeated."),  # noqa: E501
    option("--http-restricted-api", multiple=True, metavar="GROUPS:KEY=VALUE", help="Calls to these groups of routes need the header KEY with this value, as in Triton; groups are health, metadata, inference, shared-memory, model-config, model-repository, statistics, trace and logging; may be repeated."),  # noqa: E501
    option("--grpc-restricted-protocol", multiple=True, metavar="GROUPS:KEY=VALUE", help="The same for gRPC, with the metadata triton-grpc-protocol-KEY."),  # noqa: E501
    option("--http-header-forward-pattern", default="", show_default=False, help="Regular expression; headers of these names become parameters of the request."),  # noqa: E501
    option("--grpc-header-forward-pattern", default="", show_default=False, help="The same for gRPC's metadata."),
    option("--page/--no-page", default=True, envvar="PENSTOCK_PAGE", help="Show browsers a page at / with the models, their figures, and a form that sends a request."),  # noqa: E501
    option("--allow-shared-memory", is_flag=True, default=False, help="Clients on this machine may pass tensors in system shared memory: requests then read and write /dev/shm as the gateway's user."),  # noqa: E501
    option("--max-queued-calls", type=int, default=4096, help="Maximum number of accepted, unanswered calls; then 429."),
    option("--max-queued-calls-per-model", type=int, default=0, help="The same for one model version; 0: three times as many as are still free, so that a stuck model leaves room for others."),  # noqa: E501
    option("--trim-bytes", type=click.IntRange(0), default=1024, help="Answers of plain calls that are larger are deleted from the result store once they are delivered; others stay for five minutes. 0: all, which costs the store a command each."),  # noqa: E501
    option("--default-timeout", type=float, default=60.0, help="Deadline in seconds of calls that state none; then 504."),
    option("--model-load-timeout", type=float, default=600.0, help="Seconds that a load call waits for the workers; then 504, and they go on."),  # noqa: E501
    option("--no-worker-policy", type=click.Choice(["queue", "reject"]), default="queue", help="What happens to calls for a model without workers."),  # noqa: E501
    option("--routing", type=click.Choice(["queue", "spread"]), default="queue", help="Send requests to the workers with the least predicted wait, and few requests to few workers; or to all partitions in turn."),  # noqa: E501
)  # fmt: skip

processes_option = options(
    option("--processes", type=click.IntRange(1, 64), default=1, help="Processes that share the ports and are restarted when they die, for more than one core. Limits such as --max-queued-calls are for all together and are divided among them; /metrics tells the sum."),  # noqa: E501
)  # fmt: skip

cache_options = options(
    option("--model-cache-dir", type=click.Path(file_okay=False, path_type=Path), help="Files of s3:// repositories and of load calls are kept here, for all workers of this machine. [penstock/models in the user's cache folder]"),  # noqa: E501
    option("--model-cache-bytes", type=int, default=64 * 1024**3, help="Bytes that they may have; the longest unused are removed first. 0: no limit."),  # noqa: E501
)  # fmt: skip

model_options = options(
    option("--model-repository", multiple=True, type=RepositoryType(), help="Folder of model folders, in Triton's layout; or s3://BUCKET/PREFIX, s3://https://HOST:PORT/BUCKET/PREFIX; may be repeated."),  # noqa: E501
    cache_options,
    option("--allowed-digests", type=FILE, help="File with the digests of the only versions that may be served, a SHA-256 per line; penstock check prints them."),  # noqa: E501
    option("--model-control-mode", type=click.Choice(["none", "poll", "explicit"]), default="none", help="Load all models at start; follow changes; or load only --load-model."),  # noqa: E501
    option("--load-model", multiple=True, help="With explicit control: load this model; may be repeated; * for all."),
    option("--model-memory-limit", type=int, default=0, help="With explicit control: bytes that the models may need together, by the size of their files; 0: no limit."),  # noqa: E501
    option("--repository-poll-secs", type=float, default=15.0, help="With polling: seconds between polls."),
    option("--exit-on-error/--no-exit-on-error", default=True, envvar="PENSTOCK_EXIT_ON_ERROR", help="Exit if a model cannot be loaded at start."),  # noqa: E501
    option("--default-max-batch-size", type=int, default=32, help="Maximum batch size of models that can batch and state none."),
    option("--auto-complete-config/--disable-auto-complete-config", default=True, envvar="PENSTOCK_AUTO_COMPLETE_CONFIG", help="Take what a configuration leaves out from the model's file, or refuse the model."),  # noqa: E501
    option("--check-batching/--no-check-batching", default=True, envvar="PENSTOCK_CHECK_BATCHING", help="At load, try whether rows of a model that can batch, and states no size, influence each other; if they do, it does not batch."),  # noqa: E501
    option("--model-config-name", default="", show_default=False, help="Read a model's configs/NAME.pbtxt instead of its config.pbtxt, where it has one."),  # noqa: E501
    option("--rate-limit", type=click.Choice(["off", "execution_count"]), default="off", help="With execution_count, instances wait for the resources of their rate_limiter, and get runs by its priority."),  # noqa: E501
    option("--rate-limit-resource", multiple=True, metavar="NAME:COUNT[:DEVICE]", help="With --rate-limit execution_count: how much of a resource each device (or this one) of a worker has; may be repeated. Without it: the most that an instance takes."),  # noqa: E501
    option("--cache-bytes", type=int, default=64 * 1024 * 1024, help="Bytes of a worker's response cache, for models with response_cache { enable: true }; 0 for no cache."),  # noqa: E501
    option("--partitions", type=int, default=4, help="Partitions of a new topic, and so the maximum number of workers that share one model version. Four are cheap (each is an entry in every fetch and a log segment) and let a model grow without repartitioning."),  # noqa: E501
    option("--max-partitions", type=int, default=64, help="When more workers serve a version than its topic has partitions, the topic gets two for each worker, up to so many; with at most --partitions it stays as it is. Records with one key may then go to another partition."),  # noqa: E501
    option("--cores", type=int, default=0, help="CPU cores to divide among model instances; 0 for all of the container."),
    option("--max-attempts", type=int, default=3, help="Runs of a request that may die before it becomes a dead letter."),
    option("--batch-lane-max-ms", type=float, default=20.0, help="Milliseconds that one batch of the batch lane may run: an interactive request waits for it no longer."),  # noqa: E501
    option("--batch-lane-share", type=float, default=0.05, help="Share of the instances' time that the batch lane gets while interactive requests always wait; it grows with the age of its oldest record. 0: only time and rows that these leave."),  # noqa: E501
    option("--unload-grace", type=float, default=30.0, help="Seconds that an unloaded version's queue gets before the rest is refused."),  # noqa: E501
    option("--drain-grace", type=float, default=30.0, help="Seconds that work in flight gets after SIGTERM."),
)  # fmt: skip

metrics_option = options(
    option("--metrics-port", type=int, default=8002, help="Port of Prometheus' /metrics; 0 takes a free one."),
    option("--metrics-host", default="127.0.0.1", help="Address of metrics and health routes; 0.0.0.0 if Prometheus is on another host."),  # noqa: E501
)  # fmt: skip
