"""What is known of each model version, and how many workers each group of models is to have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.backlog import LogFacts
from gateway.scaling.fleet import FleetScaling, Key
from gateway.scaling.wanted import Policy
from gateway.scaling.worker import Shape
from protocol.messages import Heartbeat, Lane, ModelLoad, ModelState
from protocol.naming import Names

NAMES = Names()
POLICY = Policy(window=60.0)
TOPIC = NAMES.infer_topic("m", "1")
M = ("m", "1")


def statistics(rows: int, ms: float = 10.0, size: int = 8) -> dict[str, object]:
    """What a worker says that has run full batches of this many milliseconds."""
    batches = rows // size
    infer = {"count": batches, "ns": round(batches * ms * 1e6)}
    return {"inference_count": rows, "batch_stats": [{"batch_size": size, "compute_infer": infer}]}


def beat(
    worker: str = "w", at: float = 100.0, *, draining: bool = False, models: Sequence[str] = ("m",), **load: object
) -> Heartbeat:
    fields: dict[str, object] = {"partitions": (0, 1), "statistics": statistics(80), **load}
    loads = tuple(ModelLoad(model, "1", fields.pop("state", ModelState.READY), **fields) for model in models)  # type: ignore[arg-type]
    return Heartbeat(worker, "1", "host", 1, at, loads, draining=draining)


def scaling(*models: str, policy: Policy = POLICY, partitions: int = 2) -> FleetScaling:
    known: dict[Key, Shape] = {(model, "1"): Shape(8, 1, partitions) for model in models or ("m",)}
    return FleetScaling(NAMES, known.get, lambda model: ["1"] if (model, "1") in known else [], policy, silence=2.0)


def test_a_hint_is_one_request_until_the_log_was_read_after_it() -> None:
    fleet = scaling()
    fleet.update(100.0)
    assert not fleet.group(["m"], POLICY).active
    fleet.woken(TOPIC, 100.5)
    fleet.update(100.5)
    assert fleet.group(["m"], POLICY).wanted == 1
    assert fleet.lanes([M])[0].backlog.requests == 1
    fleet.read(TOPIC, LogFacts({}), began=100.4)
    fleet.update(101.0)
    assert fleet.hinted(TOPIC), "that reading may have been too early"
    fleet.read(TOPIC, LogFacts({}), began=101.0)
    fleet.update(101.0)
    assert fleet.lanes([M])[0].backlog.requests == 0
    assert fleet.group(["m"], POLICY).active, "for a window"
    fleet.update(161.1)
    assert not fleet.group(["m"], POLICY).active


def test_hints_about_nothing_that_is_announced_are_forgotten() -> None:
    fleet = scaling()
    for topic in (
        "",
        "penstock.infer.other.1",
        "penstock.infer.m.2",
        "other.infer.m.1",
        "penstock.models",
        "\x00" * 300,
    ):
        fleet.woken(topic, 100.0)
        assert not fleet.hinted(topic)
    fleet.update(100.0)
    assert not fleet.group(["m"], POLICY).active


def test_a_model_that_was_never_announced_wants_a_worker() -> None:
    fleet = scaling("m")
    assert fleet.group(["new"], POLICY).wanted == 1
    assert fleet.group(["m", "new"], POLICY).wanted == 1


def test_a_pinned_model_wants_a_worker_at_all_times() -> None:
    fleet = scaling("a", "b")
    fleet.kept = {"b"}.__contains__
    fleet.update(100.0)
    assert fleet.group(["a"], POLICY).wanted == 0
    assert fleet.group(["a", "b"], POLICY).wanted == 1
    fleet.update(1000.0)
    assert fleet.group(["a", "b"], POLICY).active


def test_the_log_counts_only_where_no_live_worker_is() -> None:
    fleet = scaling()
    fleet.read(TOPIC, LogFacts({0: 5, 1: 7}, 2.0, {0: 90.0}), began=100.0)
    fleet.observe([beat(partitions=(0,), lag=5)])
    fleet.update(100.0)
    lane, _ = fleet.lanes([M])
    assert (lane.backlog.requests, lane.backlog.rows, lane.ready) == (7, 14, 1)
    fleet.update(103.0)
    lane, _ = fleet.lanes([M])
    assert (lane.backlog.requests, lane.backlog.rows, lane.ready) == (12, 24, 0), (
        "its last heartbeat is three seconds old"
    )
    assert lane.backlog.oldest_age == 13.0


def test_time_to_drain_is_that_of_the_ready_workers_and_without_one_that_of_the_first() -> None:
    fleet = scaling(policy=Policy(cold_start=30.0))
    busy = {"queued_rows": 15, "queued_requests": 15, "running_rows": 1, "lag": 16}
    fleet.observe([beat("a", **busy), beat("b", partitions=(1,), state=ModelState.LOADING)])
    fleet.update(100.0)
    lane, batch = fleet.lanes([M])
    assert lane.rate == pytest.approx(800.0)
    assert lane.drain == pytest.approx(16 / 800)
    assert batch.drain == 0.0
    fleet.observe([])
    fleet.read(TOPIC, LogFacts({0: 80}), began=101.0)
    fleet.update(101.0)
    lane, _ = fleet.lanes([M])
    assert (lane.rate, lane.drain) == (0.0, pytest.approx(30 + 80 / 800))


def test_models_that_share_workers_share_what_they_need() -> None:
    fleet = scaling("a", "b")
    for model in "ab":
        fleet.predict((model, "1"), 100.0)
        fleet.read(NAMES.infer_topic(model, "1"), LogFacts({0: 400}), began=100.0)
    fleet.update(100.0)
    policy = Policy(cold_start=0.0)
    assert fleet.group(["a"], policy).wanted == 1
    assert fleet.group(["a", "b"], policy).wanted == 1, "0.4 and 0.4 workers"
    assert fleet.group(["a", "b"], Policy(target=2.0, cold_start=0.0)).wanted == 4
    assert fleet.group(["a", "b"], Policy(target=2.0, most=3, cold_start=0.0)).wanted == 3


def test_a_batch_job_wants_one_worker_soon_and_the_rest_within_its_own_target() -> None:
    fleet = scaling()
    fleet.predict(M, 100.0)
    fleet.read(NAMES.batch_topic("m", "1"), LogFacts({0: 10}, 10_000.0), began=100.0)
    fleet.update(100.0)
    assert fleet.group(["m"], Policy()).wanted == 2
    assert fleet.group(["m"], Policy(batch_target=10_000.0)).wanted == 1


def test_a_draining_worker_is_not_ready_but_what_it_holds_counts() -> None:
    fleet = scaling()
    fleet.observe([beat(draining=True, queued_rows=3, queued_requests=3, lag=9)])
    fleet.update(100.0)
    lane, _ = fleet.lanes([M])
    assert (lane.backlog.requests, lane.ready) == (9, 0)


def test_a_model_that_is_no_longer_announced_is_forgotten() -> None:
    known: dict[Key, Shape] = {M: Shape()}
    fleet = FleetScaling(NAMES, known.get, lambda model: ["1"] if known else [], POLICY, silence=2.0)
    fleet.observe([beat(queued_rows=3, queued_requests=3)])
    fleet.update(100.0)
    assert fleet.lanes([M])[0].backlog.requests == 3
    known.clear()
    fleet.update(100.5)
    assert fleet._versions == {}


class Life(RuleBasedStateMachine):
    """Workers come, go and speak, requests come, the log is read: in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.policy = Policy(least=0, most=5, window=30.0)
        self.fleet = scaling("m", "n")
        self.beats: dict[str, Heartbeat] = {}
        self.unread = {0: 0, 1: 0}
        self.busy_at = -1e9

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.update(self.now)

    @rule(partition=st.sampled_from([0, 1]), count=st.integers(1, 5000), hint=st.booleans())
    def publish(self, partition: int, count: int, hint: bool) -> None:
        self.unread[partition] += count
        if hint:
            self.fleet.woken(TOPIC, self.now)
        else:
            self.read()
        self.fleet.update(self.now)

    @rule()
    def read(self) -> None:
        self.fleet.read(TOPIC, LogFacts(dict(self.unread)), self.now)

    @rule(
        worker=st.sampled_from("abc"), queued=st.integers(0, 100), running=st.integers(0, 8),
        owns=st.sets(st.sampled_from([0, 1])), executed=st.integers(0, 10**6), state=st.sampled_from(ModelState),
        draining=st.booleans(),
    )  # fmt: skip
    def speak(
        self, worker: str, queued: int, running: int, owns: set[int], executed: int, state: ModelState, draining: bool
    ) -> None:
        for partition in owns:
            self.unread[partition] = 0
        self.beats[worker] = beat(
            worker, self.now, draining=draining, partitions=tuple(owns), queued_rows=queued, queued_requests=queued,
            running_rows=running, lag=queued + running, statistics=statistics(executed), state=state,
        )  # fmt: skip
        self.fleet.observe(list(self.beats.values()))
        self.read()
        self.fleet.update(self.now)

    @rule(worker=st.sampled_from("abc"))
    def die(self, worker: str) -> None:
        self.beats.pop(worker, None)
        self.fleet.observe(list(self.beats.values()))
        self.fleet.update(self.now)

    @invariant()
    def unanswered_requests_have_a_worker(self) -> None:
        group = self.fleet.group(["m"], self.policy)
        lane, batch = self.fleet.lanes([M])
        assert 0 <= group.wanted <= 5
        assert group.active == (group.wanted > 0)
        if lane.backlog.requests or batch.backlog.requests:
            assert group.wanted >= 1
        live = [b for b in self.beats.values() if b.at >= self.now - 2.0]
        owned = {p for b in live for p in b.models[0].partitions}
        hidden = sum(n for p, n in self.unread.items() if p not in owned)
        assert lane.backlog.requests >= min(1, hidden), "what nobody owns is never forgotten"
        assert group.ready == len({b.worker for b in live if b.models[0].state is ModelState.READY and not b.draining})
        assert lane.drain is None or lane.drain >= 0


TestLife = Life.TestCase


LOADS = (
    ModelLoad("m", "1", ModelState.READY, (0,), lag=90, batch_lag=9, executed=9),
    ModelLoad("m", "1", ModelState.READY, (0, 1), 5, 4, 3, 20, unanswered=4, unread=7, runs=((4, 32, 40_000_000),)),
    ModelLoad("m", "1", ModelState.LOADING, (1,)),
)


@given(st.lists(st.tuples(st.sampled_from(LOADS), st.booleans(), st.sampled_from([1.0, 3.0])), max_size=12))
@example([(LOADS[0], False, 1.0), (LOADS[0], True, 1.0), (LOADS[0], True, 3.0)])
def test_workers_that_repeat_themselves_count_as_if_they_said_it_anew(
    turns: list[tuple[ModelLoad, bool, float]],
) -> None:
    repeating, anew = scaling(), scaling()
    for turn, (load, draining, rows) in enumerate(turns):
        now = 100.0 + turn
        repeating.observe([Heartbeat("w", "1", "host", 1, now, (load,), draining=draining)])
        anew.observe([Heartbeat("w", "1", "host", 1, now, (dataclasses.replace(load),), draining=draining)])
        for fleet in (repeating, anew):
            fleet.read(TOPIC, LogFacts({1: 5}, rows), now)
            fleet.read(NAMES.batch_topic("m", "1"), LogFacts({1: 5}, rows), now)
            fleet.update(now)
        assert repeating.lanes([M]) == anew.lanes([M])
        assert repeating.owned(M, Lane.INTERACTIVE) == anew.owned(M, Lane.INTERACTIVE)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_no_group_falls_below_what_a_moment_of_its_window_needed(backlogs: list[int]) -> None:
    fleet, policy = scaling(), Policy(window=10.0, cold_start=0.0)
    fleet.predict(M, 1.0)
    fleet.group(["m"], policy)
    seen: list[tuple[float, int]] = []
    for turn, rows in enumerate(backlogs):
        now = 100.0 + turn
        fleet.read(TOPIC, LogFacts({0: rows}), now)
        fleet.update(now)
        wanted = fleet.group(["m"], policy).wanted
        seen.append((now, min(1, rows)))
        assert wanted >= max(least for at, least in seen if at >= now - 10.0)
