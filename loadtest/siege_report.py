"""A siege's results as a page. No I/O."""

from __future__ import annotations

from typing import Final

from loadtest.siege import Siege
from loadtest.tables import table

_HEAD: Final = """\
# Under siege

Written by `python -m loadtest siege`; the raw figures are in the JSON file beside this page. A gateway gets all of these attacks at
once, each at its own rate and from separate processes, while an honest caller is timed. Its calls come at the same offsets as in
the quiet time before. The memory is that of the gateway's process and its children{what}.
"""
_SHOWN: Final = 20


def markdown(siege: Siege) -> str:
    """The page."""
    plan = siege.plan
    what = "; with `penstock serve` the worker is one of them" if plan.system == "embedded" else ""
    verdicts = table(("promise", "held"), [(name, "yes" if held else "NO") for name, held in siege.verdicts.items()])
    return "\n".join(
        [
            _HEAD.format(what=what),
            verdicts,
            f"## An honest caller, {plan.rate:g} calls per second\n",
            _callers(siege),
            "## Memory\n",
            _memory(siege),
            "## Attacks\n",
            _attacks(siege),
            "## Machine\n",
            table(("", ""), siege.about.items()),
        ]
    )


def _callers(siege: Siege) -> str:
    def row(name: str, summary: dict[str, dict[str, float]], seconds: float) -> tuple[object, ...]:
        latency, outcomes = summary["latency_ms"], summary["outcomes"]
        numbers = [latency.get(key) for key in ("p50", "p95", "p99", "p99.9", "max")]
        return name, seconds, *numbers, *[outcomes[key] for key in ("ok", "rejected", "failed", "wrong")]

    columns = ("", "seconds", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms", "right", "refused", "failed", "wrong")
    rows = [row("alone", siege.quiet, siege.plan.before), row("under attack", siege.attacked, siege.plan.seconds)]
    said = "".join([f"- {count} x {complaint}\n" for complaint, count in siege.complaints.items()])
    return f"{table(columns, rows)}\np99 under attack / alone: {siege.slower:.2f}\n{said}"


def _memory(siege: Siege) -> str:
    step = max(1, len(siege.memory) // _SHOWN)
    shown = siege.memory[::step]
    facts = (
        ("limit", siege.plan.limit_mib), ("before, all its processes", siege.before_mib),
        ("maximum of all its processes", siege.peak_mib), ("maximum of its own process", siege.highest_mib or None),
    )  # fmt: skip
    series = table(
        ("second", *[f"{seconds:.0f}" for seconds, _ in shown]), [("MiB", *[round(mib) for _, mib in shown])]
    )
    return f"{table(('', 'MiB'), facts)}\n{series}"


def _attacks(siege: Siege) -> str:
    rows = [
        (
            each.name, each.what, f"{each.per_second:.3g}", each.begun,
            ", ".join([f"{status}: {count}" for status, count in each.statuses.items()]), each.no_connection, each.wrong_count,
        )
        for each in siege.attacks
    ]  # fmt: skip
    columns = ("attack", "what", "per second", "times", "answers by status", "not connected", "wrong")
    wrong = "".join([f"- {each.name}: {text}\n" for each in siege.attacks for text in each.wrong])
    return f"{table(columns, rows)}\n`-` is a connection that ended, or was closed by the attacker, without an answer.\n{wrong}"
