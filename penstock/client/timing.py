"""What an answer says about its times: `Penstock-Timing` as numbers, and as a sentence. Pure.

Invariants: any text gives `Times`, and a sentence; what the gateway left out is None; the parts are never negative and never add up
to more than the total, in the sentence to exactly the total that it names.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Final

_STAGES: Final = ("publish", "fetch", "enqueue", "release", "compute_start", "compute_end", "emit", "wake")
"""In the order in which they happen."""
_MOST_DIGITS: Final = 15
_MOST_TEXT: Final = 4096
"""Characters of a header that are read."""
_CACHED: Final = "cache_hit"
_IN_VAIN: Final = frozenset({"delay", "age"})
"""Reasons of a batch that was released after `max_queue_delay`."""
_UNITS: Final = ((60.0, "s", 1), (2.0, "s", 2), (0.001, "ms", 1), (0.0, "µs", 0))
"""From how many seconds on, which unit, and with how many decimals."""
_SECONDS: Final = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """The times of an answer in seconds, and the batch in which it ran. None: not known, or it did not happen.

    Attributes:
        total: from when the gateway had read the request until it had the answer; if it was read later (an asynchronous call, a
            repeated idempotency key), until the answer was in the store.
        queued: in the log, until a worker took it.
        waiting: at the worker, until its batch ran; of an answer of several batches, also between them.
        model: the run of its batch; of several batches, the time in which at least one of them ran.
        way: the rest of the total: on the way between caller, gateway, log, worker and store.
        delivered: the total is a caller's that waited for the answer.
        rows, requests: of its batch.
        attempt: 1 for the first delivery to a worker, more if an earlier one gave no answer.
        reason: why its batch was released; `cache_hit`: it came from the response cache, and did not run.
        digest: of the model's files that ran: its first twelve characters.
    """

    total: float | None = None
    queued: float | None = None
    waiting: float | None = None
    model: float | None = None
    way: float | None = None
    delivered: bool = False
    rows: int | None = None
    requests: int | None = None
    attempt: int | None = None
    reason: str = ""
    digest: str = ""


def parse_timing(text: str) -> Times:
    """The times in a value of `Penstock-Timing`, in HTTP or in gRPC's trailing metadata; unknown or odd parts are ignored."""
    fields = dict(_pairs(text[:_MOST_TEXT]))
    stages = _in_order({name: _number(fields.get(name)) for name in _STAGES})
    last = max(stages.values(), default=None)

    def between(first: str, second: str) -> int | None:
        return stages[second] - stages[first] if first in stages and second in stages else None

    ran, gaps = _run_and_gaps(between("compute_start", "compute_end"), _number(fields.get("compute")))
    waited = between("enqueue", "compute_start")
    if gaps:
        waited = gaps + (waited or 0)
    spans = [between("publish", "fetch"), waited, ran]
    ended = last is not None and ("wake" in stages or "emit" in stages)
    total = last if ended else None
    way = None if total is None else total - sum(span for span in spans if span is not None)
    queued, waiting, model = (None if span is None else span / 1e6 for span in spans)
    return Times(
        None if total is None else total / 1e6, queued, waiting, model, None if way is None else way / 1e6, "wake" in stages,
        _number(fields.get("rows")), _number(fields.get("requests")), _number(fields.get("attempt")), fields.get("reason", ""),
        fields.get("digest", "").strip('"'),
    )  # fmt: skip


def _run_and_gaps(span: int | None, computed: int | None) -> tuple[int | None, int]:
    """The time in the model, and the time between its batches."""
    if span is None or computed is None or computed > span:
        return span, 0
    return computed, span - computed


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = [part.strip().partition("=") for part in text.split(",")]
    return [(name, value) for name, equals, value in parts if equals]


def _number(text: str | None) -> int | None:
    return int(text) if text and len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit() else None


def _in_order(stages: dict[str, int | None]) -> dict[str, int]:
    """The stages that are known and not before an earlier one."""
    kept: dict[str, int] = {}
    last = 0
    for name, at in stages.items():
        if at is not None and at >= last:
            kept[name] = last = at
    return kept


def sentence(times: Times) -> str:
    """The times for a person; "" if no total is known.

    For example: "answered in 8.3 ms: 5.1 waiting for a batch of 4 rows, 2.2 in the model, 1.0 on the way".
    """
    if times.total is None:
        return ""
    unit, decimals = next((unit, decimals) for least, unit, decimals in _UNITS if times.total >= least)
    step = _SECONDS[unit] / 10**decimals
    total = round(times.total / step)
    begin = "answered in" if times.delivered else "the answer was ready after"
    begin = f"{begin} {total / 10**decimals:.{decimals}f} {unit}"
    if times.reason == _CACHED:
        return f"{begin}, from the response cache{_again(times)}"
    words = [
        (times.queued, "until a worker took it"),
        (times.waiting, _waited_for(times)),
        (times.model, "in the model"),
    ]
    known = [(seconds, text) for seconds, text in [*words, (times.way, "on the way")] if seconds is not None]
    if times.model is None:
        return begin + _again(times)
    counts = _apportioned([seconds / step for seconds, _ in known], total)
    parts = [
        f"{count / 10**decimals:.{decimals}f} {text}"
        for count, (_, text) in zip(counts, known, strict=True)
        if count or text == "in the model"
    ]
    return f"{begin}: {', '.join(parts)}{_again(times)}"


def _waited_for(times: Times) -> str:
    if times.rows is not None and times.requests is not None and times.requests > 1:
        return f"waiting for a batch of {times.rows} rows"
    return "waiting for others to share its batch" if times.reason in _IN_VAIN else "waiting for its turn"


def _again(times: Times) -> str:
    if times.attempt is None or times.attempt < 2:
        return ""
    return f" (attempt {times.attempt}: an earlier one gave no answer)"


def _apportioned(shares: list[float], total: int) -> list[int]:
    """Whole numbers that add up to the total, each the share rounded down or up; the largest remainders are rounded up."""
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda at: counts[at] - shares[at])
    for at in itertools.islice(itertools.cycle(order), max(0, total - sum(counts))):
        counts[at] += 1
    return counts
