"""What is wrong with a fleet, one sentence each, and what to do about it. Pure.

Each anomaly has the name of an alert, so that both lead to the same section of docs/runbooks.md. An unknown number (None) is never
an anomaly.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Final

from penstock.status.view import FleetView, ModelView, WorkerView

INTERACTIVE: Final = "interactive"
WANTED_GONE: Final = ("unloaded", "evicted")
"""Begins the reason of a version that somebody, its lease or its disuse has unloaded: no anomaly. Neither is a model that nobody
has loaded, which has no reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is an anomaly.

    Attributes:
        deadline: seconds; the gateways' `--default-timeout`.
        drain: seconds that an interactive queue may take.
        silence: seconds without a heartbeat.
        restarts: of one worker.
        fill: share of the largest batch below which batches count as empty, if more rows wait than two batches hold.
        store: shares of the store's memory from which the batch lane waits, asynchronous calls and all calls are refused.
    """

    deadline: float = 60.0
    drain: float = 30.0
    silence: float = 2.0
    restarts: int = 3
    fill: float = 0.5
    store: tuple[float, float, float] = (0.7, 0.8, 0.95)


@dataclasses.dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding.

    Attributes:
        severity: "critical" (callers get errors or lose work) or "warning".
        runbook: the section of docs/runbooks.md.
        text: what is wrong.
        advice: what to do.
    """

    severity: str
    runbook: str
    text: str
    advice: str

    @property
    def sentence(self) -> str:
        """Both."""
        return f"{self.text}: {self.advice}"


def find_anomalies(view: FleetView, limits: Limits | None = None) -> list[Anomaly]:
    """All anomalies, critical ones first."""
    limits = limits or Limits()
    found = [*_servers(view, limits)]
    for model in view.models:
        found += _model(model, limits)
    found += _dead(view)
    if not view.workers:
        severity, advice = (
            "critical" if _waiting(view) else "warning",
            "start one: penstock worker --model-repository DIR",
        )
        found.append(Anomaly(severity, "PenstockNoWorker", "no worker is alive", advice))
    for worker in view.workers:
        found += _worker(worker, limits)
    return sorted(found, key=lambda each: each.severity != "critical")


def _waiting(view: FleetView) -> bool:
    return any(lane.requests for model in view.models for lane in model.lanes)


def _servers(view: FleetView, limits: Limits) -> Iterator[Anomaly]:
    if view.gateway:
        yield Anomaly(
            "critical", "PenstockGatewayNotReady", f"the gateway is not ready ({view.gateway})",
            "penstock doctor says whether Kafka and Redis answer",
        )  # fmt: skip
    used = view.store_used
    if used is None:
        return
    lane, some, every = limits.store
    if used >= every:
        yield _store("critical", "PenstockStoreFull", used, "every call is refused")
    elif used >= some:
        yield _store("critical", "PenstockStoreFull", used, "asynchronous calls are refused")
    elif used >= lane:
        yield _store("warning", "PenstockStoreFilling", used, "the batch lane waits")


def _store(severity: str, runbook: str, used: float, effect: str) -> Anomaly:
    return Anomaly(
        severity, runbook, f"Redis is {used:.0%} full and {effect}",
        "raise its maxmemory, or lower --result-ttl so that answers expire sooner",
    )  # fmt: skip


def _model(model: ModelView, limits: Limits) -> Iterator[Anomaly]:
    name = f"{model.model} version {model.version}"
    if model.state == "UNAVAILABLE" and model.reason and not model.reason.startswith(WANTED_GONE):
        yield Anomaly(
            "warning", "PenstockNoWorker", f"{name} is not available ({model.reason})",
            f"penstock models status {shlex.quote(model.model)} shows which worker says so",
        )  # fmt: skip
    yield from _queue(name, model, limits)
    if model.unowned and model.ready_workers:
        yield Anomaly(
            "warning", "PenstockNoWorker", f"{model.unowned} of {model.partitions} partitions of {name} have no live owner",
            "a rebalance takes seconds; if it stays so, restart the worker that was last to join",
        )  # fmt: skip
    if model.digests > 1:
        yield Anomaly(
            "warning", "PenstockMixedFiles", f"workers serve {model.digests} different sets of files as {name}",
            "give all workers the same files, or the new ones a version of their own",
        )  # fmt: skip


def _queue(name: str, model: ModelView, limits: Limits) -> Iterator[Anomaly]:
    lane = model.lane(INTERACTIVE)
    waiting = sum(each.requests or 0 for each in model.lanes)
    if waiting and not model.ready_workers:
        yield Anomaly(
            "critical", "PenstockNoWorker", f"{waiting} requests wait for {name}, and no worker serves it",
            "start a worker whose repository has it, or wait if one is loading it",
        )  # fmt: skip
        return
    if lane.oldest_age is not None and lane.oldest_age > limits.deadline:
        yield Anomaly(
            "critical", "PenstockOldestRequestPastDeadline",
            f"the oldest interactive request for {name} is {lane.oldest_age:.0f} s old, its caller has given up",
            "look at the worker that owns its partition; one that hangs is restarted by its supervisor",
        )  # fmt: skip
    drain = lane.time_to_drain
    if drain is not None and drain > limits.drain:
        want = (
            f"{model.wanted_workers} workers" if (model.wanted_workers or 0) > model.ready_workers else "more workers"
        )
        yield Anomaly(
            "warning", "PenstockBacklogGrows", f"the interactive queue of {name} takes {drain:.0f} s at the present speed",
            f"run {want}; it has {model.ready_workers}, and {_cap(model)}",
        )  # fmt: skip
    wanted, most = model.wanted_workers or 0, model.partitions
    if most is not None and wanted > most and model.ready_workers >= most:
        yield Anomaly(
            "warning", "PenstockBacklogGrows", f"{name} needs {wanted} workers, and its topic has {most} partitions",
            "raise them (docs/operations.md); a worker without a partition idles",
        )  # fmt: skip
    if _is_empty(model, limits):
        yield Anomaly(
            "warning", "PenstockBatchFillCollapsed",
            f"batches of {name} hold {model.rows_per_batch:.1f} of {model.max_batch} rows although {lane.rows} rows wait",
            "look at the reasons of release (penstock_worker_batches_total) and at how many shapes its requests have",
        )  # fmt: skip


def _cap(model: ModelView) -> str:
    if model.partitions is None:
        return "each needs a partition of its topic"
    return f"its topic's {model.partitions} partitions allow as many workers"


def _is_empty(model: ModelView, limits: Limits) -> bool:
    rows = model.lane(INTERACTIVE).rows or 0
    if model.rows_per_batch is None or model.max_batch < 2 or rows <= 2 * model.max_batch:
        return False
    return model.rows_per_batch < limits.fill * model.max_batch


def _dead(view: FleetView) -> Iterator[Anomaly]:
    for model, counts in sorted((view.dead or {}).items()):
        some = {reason: count for reason, count in counts.items() if count}
        if some:
            kinds = ", ".join(f"{count} {reason}" for reason, count in sorted(some.items()))
            least = "at least " if model in view.dead_cut else ""
            yield Anomaly(
                "warning", "PenstockDeadLetters", f"{model} has {least}{sum(some.values())} dead letter(s), {kinds}",
                f"penstock dead list --model {shlex.quote(model)}, then penstock dead show ID",
            )  # fmt: skip


def _worker(worker: WorkerView, limits: Limits) -> Iterator[Anomaly]:
    if worker.age > limits.silence:
        yield Anomaly(
            "warning", "PenstockTargetDown", f"worker {worker.worker} has been silent for {worker.age:.0f} s",
            f"look at process {worker.pid} on {worker.host or 'its host'}; its peers take over its partitions",
        )  # fmt: skip
    if worker.restarts >= limits.restarts:
        yield Anomaly(
            "warning", "PenstockWorkerFlapping", f"worker {worker.worker} was started again {worker.restarts} times",
            "its log says how it died (exit_code); -9 is mostly the kernel's answer to a lack of memory",
        )  # fmt: skip
    for problem in worker.problems:
        yield Anomaly(
            "warning", "PenstockNoWorker", f"worker {worker.worker} says that {problem}",
            "its log has the cause; it takes requests all the same",
        )  # fmt: skip
    if worker.partitions is not None and worker.models and not worker.draining and worker.age <= limits.silence:
        idle = sorted(f"{model}/{version}" for (model, version), count in worker.partitions.items() if not count)
        if idle:
            yield Anomaly(
                "warning", "PenstockBacklogGrows", f"worker {worker.worker} owns no partition of {', '.join(idle[:3])}",
                "the topic has fewer partitions than workers: raise them, or run fewer workers (docs/operations.md)",
            )  # fmt: skip
