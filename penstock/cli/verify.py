"""`penstock verify`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from penstock.cli.options import address_options, connection_options, option, options
from penstock.cli.settings import transport_settings
from protocol.errors import ConfigError


@click.command()
@options(
    address_options,
    connection_options,
    option("--seed", type=int, help="Of requests and faults: the same seed makes the same plan. [made up, and said]"),
    option("--requests", type=click.IntRange(1), default=2000, help="How many."),
    option("--faults", default="all", metavar="KIND[,…]", help="Which: all, none, or some of worker-kill, child-kill, machine-kill, worker-stop, zombie, gateway-kill, gateway-stop, redis-delay, redis-drop, cut-kill, rebalance."),  # noqa: E501
    option("--fault-command", multiple=True, metavar="NAME=COMMAND", help="A fault of your own, for example restarting a broker: COMMAND breaks and mends it; may be repeated."),  # noqa: E501
    option("--settle", type=float, default=60.0, help="Seconds after the last fault in which the lag has to reach zero."),
    option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write verdicts, evidence and plan here, as JSON."),
    option("--history", type=click.Path(dir_okay=False, path_type=Path), help="Write everything that was seen here, as JSON."),
    option("--keep/--no-keep", default=False, envvar="PENSTOCK_KEEP", help="Leave topics, keys and logs of the run."),
)  # fmt: skip
def command(
    seed: int | None,
    requests: int,
    faults: str,
    fault_command: tuple[str, ...],
    settle: float,
    report: Path | None,
    history: Path | None,
    keep: bool,
    **flags: Any,
) -> None:
    """Break a fleet on these servers on purpose, and judge what it promises from what callers saw.

    It starts two gateways and two workers of its own under a prefix of its own. Exits with 0 when all promises held, with 1 when
    one broke, and with 12 when nothing was delivered twice, so that the run proves nothing.

    \b
        penstock verify --kafka localhost:9092 --redis redis://localhost:6379 --seed 7 --report verify.json
    """
    from penstock.verify import plan, run
    from penstock.verify.report import report as judged_by

    if not flags["kafka"]:
        raise ConfigError("verify needs --kafka HOST:PORT and --redis URL; `make verify` starts both on this machine")
    commands = _commands(fault_command)
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    made = plan.make(
        seed, requests, [*_kinds(faults), *(plan.COMMAND + name for name in commands)], flags["session_timeout"]
    )
    # A prefix of its own, always: the run deletes what it has made.
    settings = transport_settings(**(flags | {"prefix": run.fresh_prefix()}))
    site = run.Site(settings, _arguments(flags, settings.prefix), commands, settle, keep)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what is broken on purpose is no news
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the fleet of the run ends with it
    seen = asyncio.run(run.run(made, site, lambda text: print(text, flush=True)))
    judged = judged_by(made, seen)
    if report is not None:
        report.write_bytes(orjson.dumps(judged.plain(), option=orjson.OPT_INDENT_2))
    if history is not None:
        history.write_bytes(orjson.dumps(seen.plain()))
    for line in judged.lines():
        print(line)
    sys.exit(judged.exit_code)


def _kinds(text: str) -> list[str]:
    from penstock.verify.plan import ALL_FAULTS

    if text in {"all", "none", ""}:
        return list(ALL_FAULTS) if text == "all" else []
    kinds = [kind.strip() for kind in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in ALL_FAULTS]:
        raise ConfigError(f"--faults has no {', '.join(unknown)}; there are {', '.join(ALL_FAULTS)}")
    return kinds


def _commands(texts: tuple[str, ...]) -> dict[str, str]:
    commands = {}
    for text in texts:
        name, equals, words = text.partition("=")
        if not name or not equals or not words.strip():
            raise ConfigError(
                f"--fault-command {text!r} must be NAME=COMMAND, for example redis='systemctl restart redis'"
            )
        commands[name] = words
    return commands


def _arguments(flags: dict[str, Any], prefix: str) -> tuple[str, ...]:
    """The servers, as flags of the gateways and workers that the run starts."""
    given = {f"--{name.replace('_', '-')}": value for name, value in flags.items() if value not in (None, "")}
    given["--prefix"] = prefix
    return tuple(str(part) for name, value in given.items() if name != "--redis" for part in (name, value))
