"""Everything that is known of the models and workers, as one document: what `penstock`'s page reads every two seconds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.catalogue import statistics
from gateway.catalogue.catalogue import Served
from protocol.answer_times import BOUNDS, histogram, quantile
from protocol.heartbeat_parts import facts_of
from protocol.messages import SHOWN_DIGEST, Heartbeat, ModelState
from protocol.model_stats import batch_sizes, failures, releases
from protocol.totals import LAST, Key

_COMPUTE: Final = ("input.ns", "infer.ns", "output.ns")
"""Totals of the time that a request's batch takes: gathering inputs, the run, and splitting outputs."""
_BOUNDS_MS: Final = [float(f"{bound * 1000:.4g}") for bound in BOUNDS]
_SHARES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def document(
    index: Iterable[Mapping[str, Any]],
    served: Mapping[Key, Served],
    totals: Mapping[Key, Mapping[str, int]],
    beats: Iterable[Heartbeat],
    now: float,
) -> dict[str, Any]:
    """The body of `/v2/fleet/models`, without the address of the metrics.

    `answers` of a version are pairs of a bucket and the answers in it; bucket 0 goes up to the first of `answer_bounds_ms`, and the
    one behind the last bound has what took longer. `answer_ms` are quantiles since the counting began, null without answers.

    Args:
        index: of the repository, as Triton writes it.
        served: the announced versions.
        totals: of versions; a missing one has counted nothing.
        beats: the newest heartbeats of the workers, silent and draining ones too.
        now: seconds since the epoch.
    """
    entries = [(entry, (entry["name"], entry.get("version", ""))) for entry in index]
    return {
        "now_ms": round(now * 1000),
        "answer_bounds_ms": _BOUNDS_MS,
        "models": [_model(entry, served.get(key), totals.get(key, {})) for entry, key in entries],
        "workers": [_worker(beat, now) for beat in sorted(beats, key=lambda beat: beat.worker)],
    }


def _model(entry: Mapping[str, Any], served: Served | None, totals: Mapping[str, int]) -> dict[str, Any]:
    digests: Sequence[str] = sorted(served.digests) if served else ()
    return {
        "name": entry["name"],
        "version": entry.get("version", ""),
        "state": entry.get("state", "UNAVAILABLE"),
        "reason": entry.get("reason", "") or (served.unready if served else ""),
        "workers": served.workers if served else 0,
        "digests": [digest[:SHOWN_DIGEST] for digest in digests],
        **_signature(served),
        "counts": _counts(totals),
    }


def _signature(served: Served | None) -> dict[str, Any]:
    """What a version takes and gives, shapes with the batch's dimension."""
    if served is None:
        return {"platform": "", "max_batch_size": 0, "inputs": [], "outputs": []}
    config = served.config
    described = statistics.metadata(config, ())
    optional = {spec.name: spec.optional for spec in config.inputs}
    return {
        "platform": described["platform"],
        "max_batch_size": config.max_batch_size,
        "inputs": [{**tensor, "optional": optional[tensor["name"]]} for tensor in described["inputs"]],
        "outputs": described["outputs"],
    }


def _counts(totals: Mapping[str, int]) -> dict[str, Any]:
    """What the fleet has counted of a version since its totals began."""
    answers = histogram(totals)
    return {
        "last_inference_ms": totals.get(LAST, 0),
        "success": totals.get("ok", 0),
        "failed": sum(failures(totals).values()),
        "cache_hits": totals.get("hit", 0),
        "rows": totals.get("rows", 0),
        "queue_ns": totals.get("queue.ns", 0),
        "compute_ns": sum([totals.get(name, 0) for name in _COMPUTE]),
        "answers": answers,
        "answer_ms": {name: _ms(quantile(answers, share)) for name, share in _SHARES},
        "batches": [{"rows": rows, "count": count} for rows, count in batch_sizes(totals).items()],
        "releases": releases(totals),
    }


def _ms(seconds: float | None) -> float | None:
    """Milliseconds to four digits."""
    return None if seconds is None else float(f"{seconds * 1000:.4g}")


def _worker(beat: Heartbeat, now: float) -> dict[str, Any]:
    ready = sum([load.state is ModelState.READY for load in facts_of(beat.models)])
    return {
        "worker": beat.worker,
        "host": beat.host,
        "pid": beat.pid,
        "age_ms": round(max(0.0, now - beat.at) * 1000),
        "draining": beat.draining,
        "restarts": beat.restarts,
        "ready_models": ready,
    }
