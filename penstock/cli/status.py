"""`penstock status`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import click
import orjson

from penstock.cli import interrupts
from penstock.cli.options import api_key_option, fleet_options, option, seconds
from penstock.cli.settings import transport_settings
from penstock.status.anomalies import Anomaly, find_anomalies
from penstock.status.from_fleet import reading
from penstock.status.from_gateway import GatewayReader
from penstock.status.screen import screen
from penstock.status.view import FleetView, with_gateway, with_pace
from protocol.errors import FleetError

LOCAL: Final = "http://localhost:8000"
_CLEAR: Final = "\x1b[2J\x1b[H"
Read = Callable[[], Awaitable[FleetView]]


@click.command()
@fleet_options
@option(
    "--gateway",
    default="",
    metavar="URL",
    show_default=False,
    help=f"Ask this gateway. [{LOCAL} without --kafka and --redis]",
)
@api_key_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=float,
    callback=seconds,
    default=1.0,
    show_default=True,
    help="Seconds between two readings: rows a second and rows per batch are of this time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, a line per reading.")
def command(gateway: str, api_key: str, watch: bool, interval: float, as_json: bool, **flags: Any) -> None:  # fmt: skip
    """Show the fleet on one screen: models, queues, workers, and one sentence for each anomaly with what to do.

    A gateway does not know everything: partitions, dead letters and Redis' memory need --kafka and --redis. What was not seen is
    shown as ? and named at the end. Exits with 0 also if there are anomalies.

    \b
        penstock status
        penstock status --gateway http://gateway:8000 --watch
        penstock status --kafka localhost:9092 --redis redis://localhost:6379 --json
    """
    interrupts.run(_run(gateway, api_key, watch, interval, as_json, flags))


async def _run(gateway: str, api_key: str, watch: bool, interval: float, as_json: bool, flags: dict[str, Any]) -> None:
    async with _source(gateway, api_key, flags) as read:
        before = await read()
        while True:
            await asyncio.sleep(interval)
            now = await read()
            view = with_pace(now, before)
            _show(view, find_anomalies(view), watch, as_json)
            if not watch:
                return
            before = now


@contextlib.asynccontextmanager
async def _source(gateway: str, api_key: str, flags: dict[str, Any]) -> AsyncIterator[Read]:
    """How to read: the fleet's own servers, a gateway, or both."""
    async with contextlib.AsyncExitStack() as stack:
        asked: GatewayReader | None = None
        if gateway or not (flags["kafka"] or flags["redis"]):
            asked = stack.enter_context(contextlib.closing(GatewayReader(gateway or LOCAL, api_key)))
        if not (flags["kafka"] or flags["redis"]):
            assert asked is not None
            yield _alone(asked)
            return
        fleet = await stack.enter_async_context(reading(transport_settings(**flags)))
        yield fleet.read if asked is None else _both(fleet.read, asked)


def _alone(gateway: GatewayReader) -> Read:
    return lambda: asyncio.to_thread(gateway.read)


def _both(fleet: Read, gateway: GatewayReader) -> Read:
    """The fleet's servers can be read while a gateway is down."""

    async def read() -> FleetView:
        view = await fleet()
        try:
            told = await asyncio.to_thread(gateway.read)
        except FleetError as error:
            return dataclasses.replace(view, gateway=error.message)
        return with_gateway(view, told)

    return read


def _show(view: FleetView, anomalies: list[Anomaly], watch: bool, as_json: bool) -> None:
    if as_json:
        whole = as_document(view, anomalies)
        print(orjson.dumps(whole, option=0 if watch else orjson.OPT_INDENT_2).decode(), flush=True)
        return
    terminal = sys.stdout.isatty()
    colours = terminal and "NO_COLOR" not in os.environ
    text = "\n".join(screen(view, anomalies, colours=colours))
    print((_CLEAR if watch and terminal else "") + text + ("\n" if watch and not terminal else ""), flush=True)


def as_document(view: FleetView, anomalies: list[Anomaly]) -> dict[str, Any]:
    """The view as JSON: names of fields as in `penstock.status.view`, times in seconds, null for what was not seen."""
    document = dataclasses.asdict(view)
    document["dead_cut"] = sorted(view.dead_cut)
    for worker, shown in zip(view.workers, document["workers"], strict=True):
        if worker.partitions is not None:
            shown["partitions"] = {f"{model}/{version}": count for (model, version), count in worker.partitions.items()}
    document["anomalies"] = [dataclasses.asdict(each) for each in anomalies]
    return document
