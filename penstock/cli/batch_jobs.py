"""What `penstock batch list` and `status` say of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from penstock.batch.state import JobState

_HEAD: Final = ("JOB", "STATE", "MODEL", "ANSWERED", "FAILED", "RATE/S", "AGE", "INPUT", "OUTPUT")


def facts_of(job: JobState, now: float) -> dict[str, Any]:
    """What is known of a job, by the names that `--json` prints."""
    saved, begin = job.saved, job.saved.begin
    created = begin.get("created")
    return {
        "job": job.name, "state": job.state, "model": begin.get("model"), "version": begin.get("version"),
        "input": begin.get("source"), "output": begin.get("target"), "errors": begin.get("errors") or None,
        "sent": saved.known.sent.count() or saved.read, "answered": saved.answered, "failed": saved.failed,
        "rate": saved.rate if job.pid else 0.0, "age_s": round(now - created) if created else None, "pid": job.pid or None,
        "fleet": begin.get("fleet"),
    }  # fmt: skip


def table(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a table of jobs; none without jobs.

    Args:
        jobs: their facts.
    """
    if not jobs:
        return []
    rows = [_HEAD, *map(_row, jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def lines(facts: dict[str, Any]) -> list[str]:
    """One job, a line for each fact."""
    return [f"{name:<10} {_text(value)}" for name, value in facts.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items() if text)
    return "-" if value is None else str(value)


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    return (
        facts["job"], facts["state"], facts["model"] or "", f"{facts['answered']:,}", f"{facts['failed']:,}",
        f"{facts['rate']:,.0f}", _age(facts["age_s"]), facts["input"] or "", facts["output"] or "",
    )  # fmt: skip


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
