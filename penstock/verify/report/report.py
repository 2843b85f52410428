"""The report of a run: JSON, exit code, and lines for people. Pure."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

from penstock.verify.judge.gaps import gaps, longest_gap
from penstock.verify.judge.judge import Verdict, judge, redelivered
from penstock.verify.observe.history import History
from penstock.verify.plan.plan import Plan

HELD: Final = 0
BROKEN: Final = 1
PROVES_NOTHING: Final = 12
ALWAYS: Final = frozenset({"I1", "I2", "I3", "I5", "I11"})

NOT_JUDGED: Final = {
    "I4": "this version does not stream",
    "I10": "it holds only for batch producers, one instance with preserve_ordering, and no faults",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A judged run.

    Attributes:
        verdicts: one for each promise.
        redelivered: numbers of requests that were delivered twice.
    """

    plan: Plan
    history: History
    verdicts: Sequence[Verdict]
    redelivered: Sequence[int]

    @property
    def exit_code(self) -> int:
        """0 when all promises held, 1 when one broke, 12 when nothing was delivered twice, so that the run proves nothing."""
        if not all(verdict.held for verdict in self.verdicts):
            return BROKEN
        return HELD if self.redelivered and not self.unseen else PROVES_NOTHING

    @property
    def unseen(self) -> list[str]:
        """Promises that every run should judge, but this one had no case for."""
        return [verdict.promise for verdict in self.verdicts if verdict.promise in ALWAYS and not verdict.checked]

    def plain(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {
            "seed": self.plan.seed,
            "exit_code": self.exit_code,
            "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts],
            "not_judged": NOT_JUDGED,
            "redelivered": list(self.redelivered),
            "measures": measures(self.history),
            "gaps": [dataclasses.asdict(gap) for gap in gaps(self.plan, self.history)],
            "faults": [dataclasses.asdict(fault) for fault in self.history.faults],
            "history_sha256": self.history.digest(),
            "plan": dataclasses.asdict(self.plan),
        }

    def lines(self) -> Iterator[str]:
        """The report for people."""
        for verdict in self.verdicts:
            mark = "held  " if verdict.held else "BROKEN"
            excused = f", {verdict.excused} excused" if verdict.excused else ""
            yield f"{mark} {verdict.promise:4} {verdict.says} ({verdict.checked} checked{excused})"
            yield from (f"         {text}" for text in verdict.evidence[:5])
        for fault in self.history.faults:
            if fault.note:
                yield f"left out: {fault.kind} of {fault.target}: {fault.note}"
        for gap in gaps(self.plan, self.history):
            alone = "" if gap.alone else ", with other faults"
            yield (
                f"{gap.kind} of {gap.target}: of {gap.waiting} callers of {gap.model} one waited {gap.wait:.2f} s; "
                f"no caller was answered for {gap.silence:.2f} s{alone}"
            )
        facts = measures(self.history)
        yield f"{facts['answered']} answers, {len(self.redelivered)} redelivered, longest gap {facts['longest_gap_s']} s"
        if self.unseen:
            yield f"there was no case of {', '.join(self.unseen)}, so this run proves nothing"
        if not self.redelivered:
            yield "nothing was delivered twice, so this run proves nothing; use more requests or more faults"


def judged_report(plan: Plan, history: History) -> Report:
    """Judge a run."""
    return Report(plan, history, judge(plan, history), redelivered(plan, history))


def measures(history: History) -> dict[str, Any]:
    """Figures beside the verdicts."""
    ends = collections.Counter(f"{seen.kind} {seen.end} {seen.status or ''}".strip() for seen in history.seen)
    zero = next((sample.at for sample in history.samples if sample.at >= history.quiet_at and sample.lag == 0), None)
    return {
        "answered": sum(seen.run is not None for seen in history.seen),
        "ends": dict(sorted(ends.items())),
        "executions": len(history.runs),
        "records": len(history.logged),
        "dead_letters": len(history.dead),
        "samples": len(history.samples),
        "largest_process_mb": round(max((held.rss for held in history.memory), default=0) / 1e6, 1),
        "store_bytes": history.store_bytes,
        "store_version": history.store_version,
        "longest_gap_s": round(longest_gap(history.seen), 2),
        "lag_zero_after_s": None if zero is None else round(zero - history.quiet_at, 2),
    }
