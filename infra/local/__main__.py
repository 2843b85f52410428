"""`python -m infra.local`: check what this machine has, fetch Kafka, run both servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from infra.local import jars, java, redis
from infra.local.installation import Installation
from infra.local.kafka import Jvm
from infra.local.places import cache_folder, this_system
from infra.local.prepare import prepare
from infra.local.process import LocalServer
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE, servers
from protocol.errors import FleetError, Unavailable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Real Kafka and real Redis on this machine, without a container engine."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of `check`."""

    what: str
    found: bool
    text: str


def findings() -> Iterator[Finding]:
    """What is there of the three things that the two servers need."""
    places = this_system()
    found_java = None
    try:
        found_java = java.find_java(places)
        yield Finding("java", found=True, text=f"{found_java.version} at {found_java.program}")
    except FleetError as error:
        yield Finding("java", found=False, text=error.message)
    folder = jars.folder(cache_folder())
    if jars.complete(cache_folder()):
        trained = found_java is not None and Installation(found_java, folder).archive.exists()
        text = f"Kafka {jars.kafka_version()} in {folder}" + ("" if trained else "; `fetch` makes it start faster")
        yield Finding("jars", found=True, text=text)
    else:
        text = f"Kafka {jars.kafka_version()} (43 MB) is not fetched yet: `{sys.executable} -m infra.local fetch`"
        yield Finding("jars", found=False, text=text)
    try:
        server = redis.find_redis(places)
        yield Finding("redis", found=True, text=f"{server.version} at {server.program}")
    except FleetError as error:
        yield Finding("redis", found=False, text=error.message)


@main.command()
def check() -> None:
    """Say what is there; exit with 1 if something is missing."""
    complete = True
    for finding in findings():
        complete &= finding.found
        print(f"{finding.what:6} {'ok     ' if finding.found else 'missing'}  {finding.text}")
    sys.exit(0 if complete else 1)


@main.command()
def fetch() -> None:
    """Fetch what Kafka needs, so that later starts need no network."""
    with _as_message():
        installed = prepare(say=print)
    print(f"Kafka {jars.kafka_version()} is in {installed.jars}")


@main.command()
def pin() -> None:
    """Write kafka-jars.txt anew after a change of pom.xml (needs Maven)."""
    with _as_message():
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
    """Run both until Ctrl-C, and print where they are."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack, _as_message():
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-")))
        unnamed = {k: v for k, v in os.environ.items() if k not in {KAFKA_VARIABLE, REDIS_VARIABLE}}
        running = stack.enter_context(
            servers(folder, environ=unnamed, jvm=Jvm(heap=heap), cores=cores or None, ports=(kafka_port, redis_port))
        )
        print(f"kafka  {running.kafka}\nredis  {running.redis}\nlogs   {folder}/*/server.log")
        print(f"\nexport {KAFKA_VARIABLE}={running.kafka} {REDIS_VARIABLE}={running.redis}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            _watch([server for server in (running.broker, running.store) if server is not None])


def _watch(started: Sequence[LocalServer]) -> None:
    """Returns never; raises when one of them ends by itself."""
    while True:
        for server in started:
            if not server.running:
                raise Unavailable(f"{server.name} ended; last lines of {server.log}:\n{server.log_tail()}")
        time.sleep(0.5)


@contextlib.contextmanager
def _as_message() -> Iterator[None]:
    """Ends the command with the error's message instead of its stack."""
    try:
        yield
    except FleetError as error:
        raise click.ClickException(error.message) from error


if __name__ == "__main__":
    main(prog_name="python -m infra.local")
