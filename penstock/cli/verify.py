"""`penstock verify`."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import os
import platform
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

import penstock
from penstock.cli import interrupts
from penstock.cli.options import address_options, connection_options, option, options, seconds
from penstock.cli.settings import transport_settings
from protocol.errors import ConfigError, FleetError

if TYPE_CHECKING:
    from penstock.verify.report.report import Report


@click.command()
@options(
    address_options,
    connection_options,
    option("--seed", default="", metavar="N|FIRST-LAST", show_default=False, help="Seed of requests and faults: the same seed makes the same plan. A range runs one fleet after another. [random, and printed]"),  # noqa: E501
    option("--seeds", type=click.IntRange(1), help="Number of seeds, counted up from --seed or 1."),
    option("--requests", type=click.IntRange(1), default=2000, help="Number of requests."),
    option("--faults", default="all", metavar="KIND[,…]", help="Which: all, none, or some of worker-kill, child-kill, machine-kill, worker-stop, zombie, gateway-kill, gateway-stop, redis-delay, redis-drop, cut-kill, rebalance, kafka-delay, kafka-drop, clock-skew."),  # noqa: E501
    option("--fault-command", multiple=True, metavar="NAME=COMMAND", help="Your own fault, for example restarting a broker: COMMAND breaks and restores it; may be repeated."),  # noqa: E501
    option("--settle", type=float, callback=seconds, default=60.0, help="Seconds after the last fault within which the lag must reach zero."),  # noqa: E501
    option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write verdicts, evidence and plan here, as JSON; one file for several seeds."),  # noqa: E501
    option("--history", type=click.Path(dir_okay=False, path_type=Path), help="Write all observations here, as JSON (one seed)."),
    option("--keep/--no-keep", default=False, envvar="PENSTOCK_KEEP", help="Do not delete topics, keys and logs of the run."),
)  # fmt: skip
def command(
    seed: str,
    seeds: int | None,
    requests: int,
    faults: str,
    fault_command: tuple[str, ...],
    settle: float,
    report: Path | None,
    history: Path | None,
    keep: bool,
    **flags: Any,
) -> None:
    """Break a fleet on these servers on purpose, and judge its promises from what callers saw.

    It starts its own two gateways and two workers under its own prefix. Exits with 0 if all promises held, with 1 if one
    broke, and with 12 if nothing was delivered twice, so that the run proves nothing.

    \b
        penstock verify --kafka localhost:9092 --redis redis://localhost:6379 --seed 7 --report verify.json
    """
    if not flags["kafka"]:
        raise ConfigError("verify needs --kafka HOST:PORT and --redis URL; `make verify` starts both on this machine")
    for path in (report, history):
        if path is not None:
            path.open("ab").close()  # fail now, not after the run
    chosen = _seeds(seed, seeds)
    commands = _commands(fault_command)
    kinds = _kinds(faults)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its servers are broken on purpose
    interrupts.also(signal.SIGTERM)  # so that the run's fleet is stopped
    one = functools.partial(
        _one, requests=requests, kinds=kinds, commands=commands, settle=settle, keep=keep, flags=flags
    )
    if len(chosen) == 1:
        judged = one(chosen[0], history=history)
        if report is not None:
            report.write_bytes(orjson.dumps(judged.plain(), option=orjson.OPT_INDENT_2))
        sys.exit(judged.exit_code)
    about = _about({"requests": requests, "faults": [*kinds, *commands], "session_timeout": flags["session_timeout"]})
    sys.exit(_series(chosen, one, about, report))


def _series(chosen: Sequence[int], one: Callable[[int], Report], about: dict[str, Any], report: Path | None) -> int:
    """Run seed after seed, and print what all show together; returns the exit code."""
    from penstock.verify.report import series

    runs: list[dict[str, Any]] = []
    for number in chosen:
        try:
            runs.append(series.brief(one(number).plain()))
        except FleetError as error:
            runs.append(series.failed(number, error.message))
        print(series.line(runs[-1]), flush=True)
        if report is not None:  # after each seed, so that an interrupted series keeps its results
            report.write_bytes(orjson.dumps(series.merged(runs, about), option=orjson.OPT_INDENT_2))
    for run in runs:
        print(series.line(run))
    print("\n".join(series.table(series.merged(runs, about))))
    return series.exit_code(runs)


def _one(
    seed: int,
    *,
    requests: int,
    kinds: list[str],
    commands: dict[str, str],
    settle: float,
    keep: bool,
    flags: dict[str, Any],
    history: Path | None = None,
) -> Report:
    """Run one seed on its own fleet, and print its verdicts."""
    from penstock.verify import run
    from penstock.verify.plan import planner
    from penstock.verify.plan.plan import COMMAND
    from penstock.verify.report.report import judged_report

    print(f"seed {seed}", flush=True)
    made = planner.make_plan(seed, requests, [*kinds, *(COMMAND + name for name in commands)], flags["session_timeout"])
    # Always its own prefix: the run deletes what it created.
    settings = transport_settings(**(flags | {"prefix": run.fresh_prefix()}))
    site = run.Site(settings, _arguments(flags, settings.prefix), commands, settle, keep)
    seen = interrupts.run(run.run(made, site, lambda text: print(text, flush=True)))
    judged = judged_report(made, seen)
    if history is not None:
        history.write_bytes(orjson.dumps(seen.plain()))
    for line in judged.lines():
        print(line, flush=True)
    return judged


def _about(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "penstock": penstock.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        "settings": settings,
    }


def _seeds(text: str, count: int | None) -> list[int]:
    first, dash, last = text.partition("-") if not text.startswith("-") else (text, "", "")
    try:
        begin = int(first) if first else (1 if count else secrets.randbelow(10**6))
        end = int(last) if dash else begin + (count or 1) - 1
    except ValueError:
        raise ConfigError(f"--seed {text!r} must be a number, or a range like 1-20") from None
    if end < begin or (dash and count):
        raise ConfigError("--seed FIRST-LAST names all seeds; --seeds counts up from a single --seed")
    return list(range(begin, end + 1))


def _kinds(text: str) -> list[str]:
    from penstock.verify.plan.plan import ALL_FAULTS

    if text in {"all", "none", ""}:
        return list(ALL_FAULTS) if text == "all" else []
    kinds = [kind.strip() for kind in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in ALL_FAULTS]:
        raise ConfigError(f"--faults has no {', '.join(unknown)}; known are {', '.join(ALL_FAULTS)}")
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
    """The connection flags of the gateways and workers that the run starts."""
    given = {f"--{name.replace('_', '-')}": value for name, value in flags.items() if value not in (None, "")}
    given["--prefix"] = prefix
    return tuple(
        str(part) for name, value in given.items() if name not in {"--redis", "--kafka"} for part in (name, value)
    )
