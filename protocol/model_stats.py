"""The statistics of a model version: what counts as what, and Triton's `model_stats` entry. Pure.

There are two counts of the same events. Each worker counts what it did since it loaded the version; heartbeats carry that document
(`encode_model_stats`). The result store keeps the fleet's totals (`protocol.totals`): what an answer adds to them is stored in one
step with the answer, so that they are exact whatever is killed, and only grow. `document` makes Triton's entry from totals.

| event | adds to the totals |
| --- | --- |
| an answer with outputs is stored | success 1, its times since intake, of queue and run, its rows, a bucket of `answer_times` |
| it answers a record of the batch lane | the same without the bucket, once; compute_infer is the sum over the record's parts |
| it goes to a topic of results | the same, when the store has it, even if the topic then takes only a failure |
| it comes from the response cache | success 1 and cache_hit 1, no rows; compute times have one count fewer |
| a failure of the model is stored, also that of a dead letter | fail 1, reason BACKEND |
| queue timeout, full queue, deadline passed before the run | fail 1, REJECTED; Triton does not count a full queue |
| cancelled before the run, by a worker or a gateway | fail 1, CANCELED |
| a record that is no request but names its sender; a gateway's own failure | fail 1, OTHER |
| the store has an answer already: redelivery, lost reply, race | nothing |
| a batch ran | execution_count 1 and its batch_stats row, with the next answer of its version |
| a batch was released | 1 for the reason of its release, with the next answer of its version, whatever became of it |
| it failed or its instance died, and its requests run again in parts | the same for each run; each request once, when answered |
| the answer that a run goes with is refused, or its worker killed before | nothing; only the worker's own count has the run |
| a call that is refused before it is in the log (400, 429, 503) | nothing; `penstock_gateway_rejections` counts it |
| a retriable failure is answered, and the same key runs again | both answers |
| a version is loaded again, or loses its last worker | nothing: totals stay, while Triton starts from zero |
| Redis loses its data | totals start from zero, or from what its replica has |

Counts are numbers of requests unless a field says otherwise; `ns` is nanoseconds, summed over `count`. A request counts 1 whatever
its rows, `inference_count` counts rows. Every request of a batch is charged the batch's full compute times.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NotRequired, TypedDict

from protocol.messages import Runs
from protocol.totals import LAST, Counts, Key

DURATIONS: Final = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
"""Keys of `inference_stats`, in Triton's order."""


class DurationStats(TypedDict):
    """How often, and how long in all."""

    count: int
    ns: int


class BatchStats(TypedDict):
    """Batches of one size: `count` counts batches."""

    batch_size: int
    compute_input: DurationStats
    compute_infer: DurationStats
    compute_output: DurationStats


class ModelStats(TypedDict):
    """The document.

    `last_inference` is milliseconds since the epoch, `inference_count` rows, `execution_count` batches, `inference_stats` by
    `DURATIONS`. `response_stats` (of decoupled models) and `memory_usage` (of backends that report it) are Triton's, and empty
    here; only gateways write `response_stats`.
    """

    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, DurationStats]
    response_stats: NotRequired[dict[str, Any]]
    batch_stats: list[BatchStats]
    memory_usage: list[dict[str, Any]]


class FailureReason(enum.StrEnum):
    """Why a request failed: the `reason` label of `nv_inference_request_failure`."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"


FIRST_RESPONSE_MS: Final = (100, 500, 2000, 5000)
"""Upper bounds of `nv_inference_first_response_histogram_ms`."""
_RELEASED: Final = "release."
"""Totals' names of batches by the reason of their release begin so."""
_USUAL: Final = FIRST_RESPONSE_MS[0] / 1000
"""Seconds below which an answer is in the first bucket."""
_LONGEST: Final = 2**52
"""Nanoseconds that one answer may add, 52 days: Lua's numbers are exact below 2^53."""


def encode_duration(count: int, seconds: float) -> DurationStats:
    """Triton's `{count, ns}`."""
    return {"count": count, "ns": round(seconds * 1e9)}


def encode_model_stats(
    last_inference: float,
    inference_count: int,
    execution_count: int,
    durations: Mapping[str, DurationStats],
    batches: Iterable[BatchStats],
) -> ModelStats:
    """A worker's document.

    Args:
        last_inference: seconds since the epoch.
        inference_count: rows.
        execution_count: batches.
        durations: by key of `DURATIONS`; a missing one is zero.
        batches: by ascending size.
    """
    return {
        "last_inference": round(last_inference * 1000),
        "inference_count": inference_count,
        "execution_count": execution_count,
        "inference_stats": {name: durations.get(name) or encode_duration(0, 0.0) for name in DURATIONS},
        "batch_stats": list(batches),
        "memory_usage": [],
    }


MAX_RUNS: Final = 4
"""Size classes of batches in a heartbeat: a line through their mean times is all that routing needs."""


def merge_runs(sizes: Sequence[tuple[int, int, int]]) -> Runs:
    """How long batches took, in at most `MAX_RUNS` classes of neighbouring sizes. No batch, row or nanosecond is lost.

    Args:
        sizes: rows of a batch, batches of that size, their nanoseconds in all; by ascending size.

    Returns:
        By class: batches, rows in all, nanoseconds in all.
    """
    if not sizes:
        return ()
    share = -(-len(sizes) // MAX_RUNS)
    classes = [sizes[at : at + share] for at in range(0, len(sizes), share)]
    return tuple(
        [
            (sum([n for _, n, _ in of]), sum([rows * n for rows, n, _ in of]), sum([ns for *_, ns in of]))
            for of in classes
        ]
    )


# --- totals ----------------------------------------------------------------------------------------------------------


def _ns(seconds: float) -> int:
    """Whole nanoseconds; a clock that was set back does not make time negative."""
    return int(min(seconds * 1e9, _LONGEST)) if seconds > 0.0 else 0


def count_success(
    key: Key, rows: int, times: tuple[float, float], compute: tuple[float, float, float], now: float, within: str = ""
) -> Counts:
    """What an answer with outputs adds.

    Args:
        rows: of the request.
        times: seconds from intake to the answer, and in the queue.
        compute: seconds of its batch: inputs, run, outputs.
        now: seconds since the epoch.
        within: the bucket of its time since it was accepted (`answer_times.bucket`); "" if that is not counted.
    """
    whole, queue = times
    inputs, run, outputs = compute
    if 0.0 <= queue <= whole < _USUAL and 0.0 <= inputs < _USUAL and 0.0 <= run < _USUAL and 0.0 <= outputs < _USUAL:
        numbers = {
            "ok": 1, "ok.ns": int(whole * 1e9), "queue.ns": int(queue * 1e9), "input.ns": int(inputs * 1e9),
            "infer.ns": int(run * 1e9), "output.ns": int(outputs * 1e9), "rows": rows, LAST: int(now * 1000),
        }  # fmt: skip
    else:
        numbers = {
            "ok": 1, "ok.ns": _ns(whole), "queue.ns": _ns(queue), "input.ns": _ns(inputs), "infer.ns": _ns(run),
            "output.ns": _ns(outputs), "rows": rows, LAST: int(now * 1000),
        }  # fmt: skip
        _observe(numbers, whole)
    if within:
        numbers[within] = 1
    return Counts(key, numbers)


def count_cached(key: Key, whole: float, lookup: float, within: str = "") -> Counts:
    """What an answer from the response cache adds.

    Args:
        whole: seconds from intake to the answer; they count as queue time, as in Triton, without the look-up.
        lookup: seconds of the look-up.
        within: as of `count_success`.
    """
    numbers = {"ok": 1, "ok.ns": _ns(whole), "queue.ns": _ns(whole - lookup), "hit": 1, "hit.ns": _ns(lookup)}
    _observe(numbers, whole)
    if within:
        numbers[within] = 1
    return Counts(key, numbers)


def count_failure(key: Key, reason: FailureReason, seconds: float) -> Counts:
    """What a failure adds, `seconds` after intake."""
    return Counts(key, {f"fail.{reason.value}": 1, "fail.ns": _ns(seconds)})


def add_run(numbers: dict[str, int], rows: int, inputs: float, run: float, outputs: float) -> None:
    """Add a batch that ran: its rows, and its seconds."""
    count, input_ns, infer_ns, output_ns = _run_names(rows)
    get = numbers.get
    numbers[count] = get(count, 0) + 1
    numbers[input_ns] = get(input_ns, 0) + _ns(inputs)
    numbers[infer_ns] = get(infer_ns, 0) + _ns(run)
    numbers[output_ns] = get(output_ns, 0) + _ns(outputs)


@functools.lru_cache(512)
def _run_names(rows: int) -> tuple[str, str, str, str]:
    size = f"b{rows}"
    return size, f"{size}.input.ns", f"{size}.infer.ns", f"{size}.output.ns"


def add_release(numbers: dict[str, int], reason: str) -> None:
    """Add a batch that was released for this reason."""
    name = _RELEASED + reason
    numbers[name] = numbers.get(name, 0) + 1


def releases(totals: Mapping[str, int]) -> dict[str, int]:
    """Batches by the reason of their release, the most frequent first; those that older workers ran are not in it."""
    found = [(name[len(_RELEASED) :], count) for name, count in totals.items() if name.startswith(_RELEASED)]
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))


def batch_sizes(totals: Mapping[str, int]) -> dict[int, int]:
    """Batches by their rows, ascending."""
    sizes = sorted(int(name[1:]) for name in totals if name[:1] == "b" and name[1:].isdecimal())
    return {size: totals[f"b{size}"] for size in sizes}


def add_miss(numbers: dict[str, int], seconds: float) -> None:
    """Add a request that the response cache did not have: the time of the look-up and the insertion."""
    numbers["miss"] = numbers.get("miss", 0) + 1
    numbers["miss.ns"] = numbers.get("miss.ns", 0) + _ns(seconds)


def _observe(numbers: dict[str, int], seconds: float) -> None:
    """Note the bucket of the first response. Most answers are in the lowest, whose count is the rest of all successes."""
    if seconds * 1000 > FIRST_RESPONSE_MS[0]:
        above = max(bound for bound in FIRST_RESPONSE_MS if seconds * 1000 > bound)
        numbers[f"over{above}"] = 1


def first_responses(totals: Mapping[str, int]) -> tuple[list[tuple[str, float]], float]:
    """Successes by time to the answer: (upper bound in ms, count up to it), and the sum in ms, as Prometheus expects them."""
    rows, left = [], totals.get("ok", 0)
    over = [totals.get(f"over{bound}", 0) for bound in FIRST_RESPONSE_MS]
    for place, bound in enumerate(FIRST_RESPONSE_MS):
        rows.append((str(float(bound)), float(left - sum(over[place:]))))
    return [*rows, ("+Inf", float(left))], totals.get("ok.ns", 0) / 1e6


def failures(totals: Mapping[str, int]) -> dict[FailureReason, int]:
    """Failed requests by reason."""
    return {reason: totals.get(f"fail.{reason.value}", 0) for reason in FailureReason}


def document(totals: Mapping[str, int]) -> ModelStats:
    """Triton's entry, without name and version."""

    def duration(count: int, name: str) -> DurationStats:
        return {"count": count, "ns": totals.get(f"{name}.ns", 0)}

    succeeded, hits = totals.get("ok", 0), totals.get("hit", 0)
    sizes = batch_sizes(totals)
    computed = succeeded - hits
    return {
        "last_inference": totals.get(LAST, 0),
        "inference_count": totals.get("rows", 0),
        "execution_count": sum(sizes.values()),
        "inference_stats": {
            "success": duration(succeeded, "ok"),
            "fail": duration(sum(failures(totals).values()), "fail"),
            "queue": duration(succeeded, "queue"),
            "compute_input": duration(computed, "input"),
            "compute_infer": duration(computed, "infer"),
            "compute_output": duration(computed, "output"),
            "cache_hit": duration(hits, "hit"),
            "cache_miss": duration(totals.get("miss", 0), "miss"),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": duration(count, f"b{size}.input"),
                "compute_infer": duration(count, f"b{size}.infer"),
                "compute_output": duration(count, f"b{size}.output"),
            }
            for size, count in sizes.items()
        ],
        "memory_usage": [],
    }
