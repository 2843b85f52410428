"""`python -m infra.local`: check what this machine has, fetch Kafka, run both servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from infra.local import cluster_faults, dashboards, faults, jars, java, redis
from infra.local.cluster import Cluster, cluster
from infra.local.fleet import fleet
from infra.local.kafka import Jvm
from infra.local.places import cache_folder, this_system
from infra.local.prepare import prepare
from infra.local.running import as_message, folder_until_interrupted, watch
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE, Servers, named_kafka, named_redis, servers
from protocol.errors import FleetError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Real Kafka and real Redis on this machine, without a container engine."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of `check`."""

    what: str
    found: bool
    text: str


def looked_for(what: str, look: Callable[[], str]) -> Finding:
    """What `look` found, or why not."""
    try:
        return Finding(what, found=True, text=look())
    except FleetError as error:
        return Finding(what, found=False, text=error.message)


def findings(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether a broker and a store are running or can be started."""
    places = this_system(environ)

    def named(address: str | None) -> str:
        return f"a running one, {address and address.rpartition('@')[2]}"

    def found_java() -> str:
        found = java.find_java(places)
        return f"{found.version} at {found.program}"

    def found_jars() -> str:
        cache = cache_folder(environ)
        where = f"{jars.folder(cache)}"
        if jars.complete(cache):
            return f"Kafka {jars.kafka_version()} in {where}"
        return f"Kafka {jars.kafka_version()} (43 MB) comes to {where} when it is first needed, or now by `fetch`"

    def found_redis() -> str:
        found = redis.find_redis(places)
        return f"{found.version} at {found.program}"

    if environ.get(KAFKA_VARIABLE):
        kafka = [looked_for("kafka", lambda: named(named_kafka(environ)))]
    else:
        kafka = [looked_for("java", found_java), looked_for("kafka", found_jars)]
    if environ.get(REDIS_VARIABLE):
        return [*kafka, looked_for("redis", lambda: named(named_redis(environ)))]
    return [*kafka, looked_for("redis", found_redis)]


@main.command()
def check() -> None:
    """Print what is installed; exit with 1 if something is missing."""
    found = findings()
    for finding in found:
        print(f"{finding.what:6} {'ok     ' if finding.found else 'missing'}  {finding.text}")
    sys.exit(0 if all(finding.found for finding in found) else 1)


@main.command()
def fetch() -> None:
    """Download Kafka, so that later starts need no network."""
    with as_message():
        installed = prepare(say=print)
    print(f"Kafka {jars.kafka_version()} is in {installed.jars}")


@main.command()
def pin() -> None:
    """Rewrite kafka-jars.txt after a change of pom.xml (needs Maven)."""
    with as_message():
        pinned = jars.pin()
    print(f"{len(pinned)} jars pinned in {jars.PINS}")


@main.command()
@click.option("--kafka-port", default=9092, show_default=True, help="Kafka's port on loopback.")
@click.option("--redis-port", default=6379, show_default=True, help="Redis's port on loopback.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep topics here. [a temporary folder]"
)
@click.option("--heap", default=Jvm.heap, show_default=True, help="Kafka's largest heap.")
@click.option("--core", "cores", type=int, multiple=True, help="Pin both to this CPU core; may be repeated.")
def up(kafka_port: int, redis_port: int, data_dir: Path | None, heap: str, cores: tuple[int, ...]) -> None:
    """Run both until Ctrl-C, and print their addresses."""
    unnamed = {k: v for k, v in os.environ.items() if k not in {KAFKA_VARIABLE, REDIS_VARIABLE}}
    with folder_until_interrupted(data_dir) as folder:
        ports, jvm = (kafka_port, redis_port), Jvm(heap=heap)
        with servers(folder, environ=unnamed, jvm=jvm, cores=cores or None, ports=ports) as running:
            print(f"kafka  {running.kafka}\nredis  {running.redis}\nlogs   {folder}/*/server.log")
            print(f"\nexport {KAFKA_VARIABLE}={running.kafka} {REDIS_VARIABLE}={running.redis}", flush=True)
            watch([server for server in (running.broker, running.store) if server is not None])


@main.command("fleet")
@click.option(
    "--model-repository",
    "repositories",
    multiple=True,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Models that the workers serve; may be repeated.",
)
@click.option("--workers", default=2, show_default=True, help="How many workers.")
@click.option("--http-port", default=8000, show_default=True, help="The gateway's port on loopback.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep topics here. [a temporary folder]"
)
def run_fleet(repositories: tuple[Path, ...], workers: int, http_port: int, data_dir: Path | None) -> None:
    """Run a broker, a store, a gateway and workers until Ctrl-C, and print their addresses."""
    with folder_until_interrupted(data_dir) as folder:
        print(
            f"starting Kafka, Redis, a gateway and {workers} workers; their logs are {folder}/*/server.log", flush=True
        )
        with fleet(folder, repositories, workers=workers, http_port=http_port) as running:
            print(f"kafka    {running.backing.kafka}\nredis    {running.backing.redis}\ngateway  {running.url}")
            print(f"\n  penstock models --url {running.url}\n\nCtrl-C drains and stops everything.", flush=True)
            watch(running.started)


@main.command("dashboards")
@click.option(
    "--model-repository",
    "repositories",
    multiple=True,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Models that the workers serve; may be repeated.",
)
@click.option("--workers", default=2, show_default=True, help="How many workers.")
@click.option("--http-port", default=8000, show_default=True, help="The gateway's port on loopback.")
@click.option("--port", default=9090, show_default=True, help="Prometheus' port on loopback.")
@click.option(
    "--calls", "a_second", default=20.0, show_default=True, help="Calls a second, so that there is something to see."
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Take this picture (PNG) and end; needs Chromium.",
)
@click.option("--after", default=120.0, show_default=True, help="Seconds until the picture.")
def run_dashboards(  # noqa: PLR0913  # options of a command
    repositories: tuple[Path, ...], workers: int, http_port: int, port: int, a_second: float, picture: Path | None, after: float
) -> None:  # fmt: skip
    """Run a fleet with Prometheus and its dashboard beside it until Ctrl-C."""
    with folder_until_interrupted(None) as folder, contextlib.ExitStack() as stack:
        print(f"starting a fleet and Prometheus; their logs are {folder}/*/server.log", flush=True)
        running = stack.enter_context(fleet(folder, repositories, workers=workers, http_port=http_port))
        shown = stack.enter_context(dashboards.watched(running, folder, port=port))
        if a_second > 0:
            stack.enter_context(dashboards.calls(running.url, a_second))
        print(f"gateway     {running.url}\nprometheus  {shown.url}\ndashboard   {shown.page_url}", flush=True)
        if picture is not None:
            dashboards.picture_after(after, f"{shown.page_url}?minutes={max(1, round(after / 60))}", picture)
            return
        print("\nCtrl-C drains and stops everything.", flush=True)
        watch([*running.started, shown])


@main.command("verify", context_settings={"ignore_unknown_options": True})
@click.option(
    "--cluster", "clustered", is_flag=True, help="On three brokers, and a Redis with a replica and three Sentinels."
)
@click.option(
    "--break-server",
    "broken",
    multiple=True,
    type=click.Choice(sorted({*faults.NAMES, *cluster_faults.NAMES, "none"})),
    help=f"Do this to the servers, too, in the middle of the run; may be repeated. [{', '.join(faults.USUAL)}; with --cluster "
    f"{', '.join(cluster_faults.USUAL)}]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_verify(clustered: bool, broken: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run a broker and a store, and `penstock verify` with these ARGUMENTS on them; exits with its exit code.

    Kafka considers members dead after 6 s here, unless ARGUMENTS set another --session-timeout.
    """
    known, usual = (cluster_faults.NAMES, cluster_faults.USUAL) if clustered else (faults.NAMES, faults.USUAL)
    wanted = [name for name in broken or usual if name != "none"]
    if wrong := [name for name in wanted if name not in known]:
        raise click.ClickException(
            f"--break-server {wrong[0]} is for a run {'without' if clustered else 'with'} --cluster"
        )
    with folder_until_interrupted(None) as folder, contextlib.ExitStack() as stack:
        running: Servers | Cluster
        if clustered:
            running = stack.enter_context(cluster(folder))
            possible = cluster_faults.cluster_faults(running)
        else:
            unnamed = {k: v for k, v in os.environ.items() if k not in {KAFKA_VARIABLE, REDIS_VARIABLE}}
            running = stack.enter_context(servers(folder, environ=unnamed))
            possible = faults.faults(running)
        asked = folder / "faults"
        hooks = [f"--fault-command={name}={faults.command(asked, name)}" for name in wanted]
        command = [sys.executable, "-m", "penstock", "verify", "--kafka", running.kafka, "--redis", running.redis]
        with faults.offered(possible, asked):
            ended = subprocess.run([*command, "--session-timeout", "6", *hooks, *arguments], check=False)
        sys.exit(ended.returncode)


@main.command("fault", hidden=True)
@click.argument("address", type=click.Path(path_type=Path))
@click.argument("name")
def ask_for_fault(address: Path, name: str) -> None:
    """Ask a running `verify` to break its server NAME."""
    with as_message():
        faults.ask(address, name)


if __name__ == "__main__":
    main(prog_name="python -m infra.local")
