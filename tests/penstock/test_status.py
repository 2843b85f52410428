"""`penstock status`: what counts as an anomaly, what a screen shows, what strangers' documents may do."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.scaling.fleet import FleetScaling
from gateway.scaling.wanted import Policy
from gateway.scaling.worker import Shape
from gateway.settings import GatewaySettings
from penstock.cli import group
from penstock.cli.status import as_document
from penstock.status.anomalies import Limits, find_anomalies
from penstock.status.beats import lane_views, model_views, worker_views
from penstock.status.documents import gateway_view
from penstock.status.screen import MAX_ROWS, screen
from penstock.status.view import FleetView, LaneView, ModelView, WorkerView, with_gateway, with_pace
from protocol.answer_times import BOUNDS
from protocol.errors import CodecError, FleetError, Unavailable
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from protocol.naming import Names
from workers.serving.batch_topic import FULL

ROOT = Path(__file__).parents[2]
SECTIONS = set(re.findall(r"^## (Penstock\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE))
WORKER = WorkerView("w0", "host", 7, 0.2, models=1, partitions={("m", "1"): 4})
LANE = LaneView("interactive", 3, 12, 0.5, 1.5)
MODEL = ModelView(
    "m", "1", "READY", lanes=(LANE,), ready_workers=1, wanted_workers=1, max_batch=16, partitions=4, unowned=0, digests=1,
    rows_run=100, batches_run=10,
)  # fmt: skip
FINE = FleetView("somewhere", 1e9, "", 0.1, {"m": {}}, models=(MODEL,), workers=(WORKER,))


def changed(**lane: Any) -> FleetView:
    return model(lanes=(dataclasses.replace(LANE, **lane),))


def model(**changes: Any) -> FleetView:
    return dataclasses.replace(FINE, models=(dataclasses.replace(MODEL, **changes),))


def worker(**changes: Any) -> FleetView:
    return dataclasses.replace(FINE, workers=(dataclasses.replace(WORKER, **changes),))


@pytest.mark.parametrize(
    "view",
    [
        FINE,
        changed(requests=0, rows=0, oldest_age=0.0, time_to_drain=0.0),
        changed(oldest_age=60.0, time_to_drain=30.0),
        model(state="UNAVAILABLE", reason="unloaded", ready_workers=0, lanes=()),
        model(rows_per_batch=1.0),  # little waits: small batches are right
        model(rows_per_batch=1.0, max_batch=1, lanes=(dataclasses.replace(LANE, rows=500),)),
        worker(age=2.0, restarts=2),
        worker(draining=True, partitions={("m", "1"): 0}),
        dataclasses.replace(FINE, store_used=0.69, dead={"m": {"poison": 0}}),
        dataclasses.replace(FINE, gateway=None, store_used=None, dead=None),
    ],
)
def test_a_fleet_that_works_has_no_anomaly(view: FleetView) -> None:
    assert find_anomalies(view) == []


@pytest.mark.parametrize(
    ("view", "severity", "runbook", "says"),
    [
        (dataclasses.replace(FINE, gateway="503"), "critical", "PenstockGatewayNotReady", "not ready (503)"),
        (dataclasses.replace(FINE, store_used=0.7), "warning", "PenstockStoreFilling", "70% full and the batch lane waits"),
        (dataclasses.replace(FINE, store_used=0.8), "critical", "PenstockStoreFull", "asynchronous calls are refused"),
        (dataclasses.replace(FINE, store_used=0.95), "critical", "PenstockStoreFull", "every call is refused"),
        (dataclasses.replace(FINE, workers=()), "critical", "PenstockNoWorker", "no worker is alive"),
        (model(ready_workers=0), "critical", "PenstockNoWorker", "3 requests wait for m version 1, and no worker serves it"),
        (model(state="UNAVAILABLE", reason="no file"), "warning", "PenstockNoWorker", "not available (no file)"),
        (changed(oldest_age=61.0), "critical", "PenstockOldestRequestPastDeadline", "is 61 s old"),
        (changed(time_to_drain=31.0), "warning", "PenstockBacklogGrows", "run more workers; it has 1, and its topic's 4 part"),
        (
            model(wanted_workers=3, lanes=(dataclasses.replace(LANE, time_to_drain=99.0),)),
            "warning", "PenstockBacklogGrows", "run 3 workers; it has 1",
        ),
        (
            model(rows_per_batch=7.9, lanes=(dataclasses.replace(LANE, rows=33),)),
            "warning", "PenstockBatchFillCollapsed", "hold 7.9 of 16 rows although 33 rows wait",
        ),
        (model(wanted_workers=6, ready_workers=4), "warning", "PenstockBacklogGrows", "needs 6 workers, and its topic has 4 part"),
        (model(unowned=1), "warning", "PenstockNoWorker", "1 of 4 partitions of m version 1 have no live owner"),
        (model(digests=2), "warning", "PenstockMixedFiles", "2 different sets of files as m version 1"),
        (
            dataclasses.replace(FINE, dead={"m": {"poison": 2, "hung": 1}}, dead_cut=frozenset({"m"})),
            "warning", "PenstockDeadLetters", "m has at least 3 dead letter(s), 1 hung, 2 poison: penstock dead list --model m",
        ),
        (worker(age=3.0), "warning", "PenstockTargetDown", "worker w0 has been silent for 3 s: look at process 7 on host"),
        (worker(restarts=3), "warning", "PenstockWorkerFlapping", "started again 3 times"),
        (worker(problems=("m version 1 is not ready (x)",)), "warning", "PenstockNoWorker", "w0 says that m version 1"),
        (worker(partitions={("m", "1"): 0}), "warning", "PenstockBacklogGrows", "w0 owns no partition of m/1"),
    ],
)  # fmt: skip
def test_each_anomaly_is_one_sentence_with_its_severity_and_its_runbook(
    view: FleetView, severity: str, runbook: str, says: str
) -> None:
    (found,) = find_anomalies(view)

    assert (found.severity, found.runbook) == (severity, runbook)
    assert says in found.sentence
    assert runbook in SECTIONS
    assert found.advice


def test_the_limits_are_those_of_the_fleet() -> None:
    settings, limits = GatewaySettings(), Limits()

    assert (limits.deadline, limits.silence) == (settings.default_timeout, settings.worker_timeout)
    assert limits.store == (FULL, settings.fill_limit, settings.full_limit)


# --- any view ----------------------------------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=8)
counts = st.none() | st.integers(0, 10**9)
times = st.none() | st.floats(0, 1e9)
lanes = st.builds(LaneView, st.sampled_from(["interactive", "batch"]), counts, counts, times, times)
models = st.builds(
    ModelView,
    names, names, st.sampled_from([*ModelState, "UNKNOWN"]), names, st.lists(lanes, max_size=2).map(tuple), st.integers(0, 50),
    counts, st.integers(0, 99), counts, counts, st.integers(0, 3), st.integers(0, 10**12), st.integers(0, 10**12), times, times,
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 10**9)), max_size=3).map(tuple), times, times,
)  # fmt: skip
workers = st.builds(
    WorkerView,
    names, names, st.integers(0, 10**6), st.floats(0, 1e6), st.booleans(), st.integers(0, 9), st.integers(0, 9),
    st.none() | st.dictionaries(st.tuples(names, names), st.integers(0, 9), max_size=3), st.integers(0, 9),
    st.lists(names, max_size=2).map(tuple),
)  # fmt: skip
views = st.builds(
    FleetView,
    names, st.floats(0, 4e9), st.none() | st.just("") | names, st.none() | st.floats(0, 1),
    st.none() | st.dictionaries(names, st.dictionaries(names, st.integers(0, 9), max_size=2), max_size=2),
    st.frozensets(names, max_size=2), st.lists(models, max_size=4).map(tuple), st.lists(workers, max_size=4).map(tuple),
    st.lists(names, max_size=2).map(tuple),
)  # fmt: skip


@given(views)
def test_any_view_has_a_screen_of_printable_lines_and_colours_add_nothing_else(view: FleetView) -> None:
    found = find_anomalies(view)
    plain, coloured = screen(view, found), screen(view, found, colours=True)

    assert all(line.isprintable() for line in plain)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain
    assert {each.runbook for each in found} <= SECTIONS
    assert [each.severity for each in found] == sorted(
        (each.severity for each in found), key=["critical", "warning"].index
    )
    json.dumps(as_document(view, found))


@given(views)
def test_what_is_not_known_is_never_an_anomaly(view: FleetView) -> None:
    blind = dataclasses.replace(
        view,
        gateway=None,
        store_used=None,
        dead=None,
        models=tuple(
            dataclasses.replace(each, lanes=(LaneView("interactive"),), unowned=None, rows_per_batch=None)
            for each in view.models
        ),
        workers=tuple(dataclasses.replace(each, partitions=None) for each in view.workers),
    )
    known = {each.text for each in find_anomalies(view)}
    assert {each.text for each in find_anomalies(blind)} <= known


@given(views, views)
def test_a_pace_is_never_negative(before: FleetView, now: FleetView) -> None:
    for each in with_pace(now, before).models:
        former = next((other for other in before.models if other.key == each.key), None)
        if former is not None and each.rows_run < former.rows_run and now.models.count(each) == 1:
            assert each.rows_per_second is None or each.rows_per_second >= 0


def test_the_pace_is_of_the_time_between_two_readings() -> None:
    later = dataclasses.replace(model(rows_run=160, batches_run=14), at=FINE.at + 2)
    (paced,) = with_pace(later, FINE).models
    (restarted,) = with_pace(dataclasses.replace(model(rows_run=5, batches_run=1), at=FINE.at + 2), FINE).models
    (idle,) = with_pace(dataclasses.replace(FINE, at=FINE.at + 2), FINE).models

    assert (paced.rows_per_second, paced.rows_per_batch) == (30.0, 15.0)
    assert (restarted.rows_per_second, restarted.rows_per_batch) == (None, None)
    assert (idle.rows_per_second, idle.rows_per_batch) == (0.0, None)
    assert (idle.p50, idle.p99) == (None, None)


def test_the_times_of_answers_are_of_the_time_between_two_readings() -> None:
    old, new = ((2, 500), (40, 1)), ((2, 500), (40, 3), (60, 98))
    before, later = model(answers=old), dataclasses.replace(model(answers=new), at=FINE.at + 2)
    (paced,) = with_pace(later, before).models
    assert paced.p50 == pytest.approx(3.3, rel=0.2)  # bucket 60: 98 of these 100
    assert paced.p99 == pytest.approx(BOUNDS[60], rel=0.02)
    lines = screen(with_pace(later, before), [])
    head, row = next((head, row) for head, row in itertools.pairwise(lines) if head.startswith("MODEL"))
    assert row[head.index("P99") :].split("  ")[0] == "3.3 s"
    unknown = dataclasses.replace(before, models=())
    assert with_pace(later, unknown).models[0].p99 is None


def test_many_models_are_cut_to_the_busiest() -> None:
    many = tuple(
        dataclasses.replace(MODEL, model=f"m{n:03}", lanes=(dataclasses.replace(LANE, requests=n),)) for n in range(500)
    )
    lines = screen(dataclasses.replace(FINE, models=many), [])

    assert len(lines) < MAX_ROWS + 12
    assert lines[3].startswith("m499")
    assert "… and 440 more model versions; --json shows all" in lines


def test_a_gateway_adds_backlog_and_wanted_workers_to_what_the_servers_say() -> None:
    told = LaneView("interactive", 9, 90, 4.0, 6.0)
    gateway = FleetView("g", 1.0, "draining", models=(dataclasses.replace(MODEL, lanes=(told,), wanted_workers=5),))
    both = with_gateway(dataclasses.replace(FINE, gateway=None, unseen=("add --gateway URL", "something")), gateway)

    assert (both.gateway, both.unseen, both.store_used) == ("draining", ("something",), 0.1)
    assert (both.models[0].lanes, both.models[0].wanted_workers, both.models[0].partitions) == ((told,), 5, 4)
    old = dataclasses.replace(gateway, models=(dataclasses.replace(MODEL, wanted_workers=None),))
    assert with_gateway(dataclasses.replace(FINE, unseen=("something",)), old).unseen == ("something",)


# --- documents of a gateway ----------------------------------------------------------------------------------------------

BEAT = {
    "worker": "w0",
    "host": "h",
    "pid": 3,
    "age_s": 0.1,
    "state": "READY",
    "restarts": 2,
    "queued_requests": 1,
    "lag": 4,
}
INDEX = [{"name": "m", "version": "1", "state": "READY", "reason": ""}, {"name": "asleep"}]
STATISTICS = {
    "model_stats": [{"name": "m", "version": "1", "inference_count": 8, "execution_count": 2, "workers": [BEAT]}]
}
SCALING = {
    "models": [
        {
            "model": "m", "version": "1", "lane": "interactive", "backlog_requests": 5, "backlog_rows": 20, "oldest_age_ms": 1500,
            "rows_per_second": 10.0, "time_to_drain_ms": 2000, "ready_workers": 1, "wanted_workers": 2,
        }
    ]
}  # fmt: skip
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "version", "state", "workers", "worker", "models", "model", "model_stats", "lane", "lag"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def test_what_a_gateway_says_becomes_a_view() -> None:
    view = gateway_view("url", 5.0, "", (INDEX, STATISTICS, SCALING), {("m", "1"): 16})

    (only,) = view.models
    assert only.lanes == (LaneView("interactive", 5, 20, 1.5, 2.0),)
    assert (only.ready_workers, only.wanted_workers, only.max_batch, only.rows_run, only.batches_run) == (
        1,
        2,
        16,
        8,
        2,
    )
    assert view.workers == (WorkerView("w0", "h", 3, 0.1, restarts=2, models=1, queued=1),)
    assert len(view.unseen) == 1


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        ([[2, 5], [40, 1]], ((2, 5), (40, 1))), (None, ()), ("x", ()),
        ([[2], [1, 2, 3], "ab", [None, 1], [1, -1], [90, 1], [89, 2]], ((89, 2),)),
        ([[True, 1], [1, float("nan")]], ()),
    ],
)  # fmt: skip
def test_whatever_a_gateway_says_of_times_is_checked(answers: object, known: object) -> None:
    told = {"models": [{"name": "m", "version": "1", "counts": {"answers": answers}}, {"name": "m"}, 7]}
    (only,) = gateway_view("url", 5.0, "", (INDEX, STATISTICS, SCALING), {}, told).models
    assert only.answers == known
    for odd in (None, [], {"models": 3}, {"models": [{"name": "m", "version": "1", "counts": answers}]}):
        assert gateway_view("url", 5.0, "", (INDEX, STATISTICS, SCALING), {}, odd).models[0].answers == ()


def test_a_gateway_without_a_scaling_document_says_what_is_missing() -> None:
    view = gateway_view("url", 5.0, "", (INDEX, STATISTICS, None), {})

    assert view.models[0].lanes == (LaneView("interactive", 4),)
    assert "/v2/fleet/scaling" in view.unseen[1]
    assert (view.store_used, view.dead) == (None, None)


@given(anything, anything, st.none() | anything)
def test_any_documents_are_a_view_or_our_error(index: Any, statistics: Any, scaling: Any) -> None:
    for documents in (
        (index, statistics, scaling),
        (INDEX, statistics, scaling),
        (INDEX, {"model_stats": [statistics]}, {"models": [scaling]}),
        ([INDEX[0] | {"state": index}], STATISTICS, {"models": [SCALING["models"][0] | {"lane": scaling}]}),
        (INDEX, {"model_stats": [{"name": "m", "version": "1", "workers": [BEAT | {"lag": index, "age_s": statistics}]}]}, None),
    ):  # fmt: skip
        try:
            view = gateway_view("url", 0.0, "", documents, {})
        except CodecError:
            continue
        assert all(line.isprintable() for line in screen(view, find_anomalies(view)))


# --- heartbeats ----------------------------------------------------------------------------------------------------------


def beat(name: str, partitions: tuple[int, ...], **load: Any) -> Heartbeat:
    given_load = {"lag": 2, "queued_requests": 1, "queued_rows": 5, "oldest_age": 3.0, "digest": "a"} | load
    return Heartbeat(
        name, "i", "h", 1, 99.5, (ModelLoad("m", "1", ModelState.READY, partitions, **given_load),), restarts=1
    )


def lanes_of(beats: list[Heartbeat]) -> dict[tuple[str, str], tuple[LaneView, ...]]:
    """As gateways and scalers count."""
    scaling = FleetScaling(Names("penstock"), lambda key: Shape(8, 2, 4), lambda model: ("1",), Policy(), 2.0)
    scaling.observe(beats)
    scaling.update(100.0)
    return lane_views(scaling.lanes([("m", "1")]))


def test_heartbeats_become_models_and_workers() -> None:
    config = {"name": "m", "max_batch_size": 8, "instance_group": [{"count": 2, "kind": "KIND_CPU"}]}
    announced = {("m", "1"): Announcement("m", "1", ModelState.READY, config, "a", partitions=4)}
    batches = [{"batch_size": 8, "compute_infer": {"count": 4, "ns": 400_000_000}}]
    beats = [beat("w1", (0, 1), statistics={"batch_stats": batches}), beat("w0", (2,), digest="b")]
    totals = {("m", "1"): {"inference_count": 7, "execution_count": 3}}
    (only,) = model_views(announced, totals, beats, lanes_of(beats))
    first, second = worker_views(beats, 100.0)

    assert only.lanes == (LaneView("interactive", 2, 10, 3.0, 10 / 320), LaneView("batch", 0, 0, 0.0, 0.0))
    assert (only.partitions, only.unowned, only.digests, only.ready_workers, only.max_batch) == (4, 1, 2, 2, 8)
    assert (only.rows_run, only.batches_run) == (7, 3)
    assert (first.worker, first.age, first.restarts, first.partitions) == ("w0", 0.5, 1, {("m", "1"): 1})
    assert second.queued == 1


@given(st.lists(st.tuples(names, anything, anything, anything), max_size=3))
def test_any_heartbeat_that_the_codec_lets_through_becomes_a_view(said: list[tuple[str, Any, Any, Any]]) -> None:
    announced = {("m", "1"): Announcement("m", "1", ModelState.READY, {"name": "m"}, "a", partitions=4)}
    beats = [
        beat(name, (0, one, two), lag=one, queued_requests=two, queued_rows=three, oldest_age=one, statistics=two)
        for name, one, two, three in said
    ]
    beats = [
        each for each in beats if all(type(p) is not dict and type(p) is not list for p in each.models[0].partitions)
    ]
    view = dataclasses.replace(
        FINE, models=model_views(announced, {}, beats, lanes_of(beats)), workers=worker_views(beats, 100.0)
    )
    assert all(line.isprintable() for line in screen(view, find_anomalies(view)))


# --- the command -----------------------------------------------------------------------------------------------------------


def test_without_a_gateway_the_command_says_where_it_looked() -> None:
    done = CliRunner().invoke(group, ["status", "--gateway", "http://127.0.0.1:9"], env={"PENSTOCK_KAFKA": ""})

    assert isinstance(done.exception, Unavailable)
    assert "http://127.0.0.1:9" in done.exception.message


def test_kafka_without_redis_is_refused_before_anything_is_opened() -> None:
    done = CliRunner().invoke(group, ["status", "--kafka", "127.0.0.1:9"])

    assert isinstance(done.exception, FleetError)
    assert "--redis" in done.exception.message
