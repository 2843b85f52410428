"""A plan is a pure function of its seed, and contains what was requested."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.verify.plan.plan import ALL_FAULTS, WORKERS, CallKind, FaultKind
from penstock.verify.plan.planner import make_plan


@given(st.integers(), st.integers(1, 200), st.lists(st.sampled_from(ALL_FAULTS), unique=True))
def test_a_seed_replays(seed: int, requests: int, faults: list[str]) -> None:
    plan = make_plan(seed, requests, faults, 6.0)

    assert plan == make_plan(seed, requests, faults, 6.0)
    assert len({call.number for call in plan.calls}) == requests
    assert {fault.kind for fault in plan.faults} == set(faults)
    assert all(0 <= call.at <= plan.seconds for call in plan.calls)
    assert all(0 <= fault.at <= plan.seconds for fault in plan.faults)


def test_another_seed_is_another_plan() -> None:
    one, other = make_plan(1, 100, ALL_FAULTS, 6.0), make_plan(2, 100, ALL_FAULTS, 6.0)

    assert one.calls != other.calls
    assert one.faults != other.faults


def test_a_thousand_requests_are_of_every_kind() -> None:
    assert {call.kind for call in make_plan(1, 1000, (), 6.0).calls} == set(CallKind)


def test_a_zombie_sleeps_longer_than_two_session_timeouts() -> None:
    (fault,) = make_plan(3, 10, [FaultKind.ZOMBIE], 10.0).faults

    assert fault.lasts > 20
    assert fault.target in {f"worker-{number}" for number in range(WORKERS)}


def test_faults_of_the_user_are_planned_by_name() -> None:
    plan = make_plan(3, 10, ["command:redis-restart"], 6.0)

    assert [fault.kind for fault in plan.faults] == ["command:redis-restart"]


@given(st.integers())
def test_one_cut_from_redis_hits_a_worker_that_is_awake(seed: int) -> None:
    faults = make_plan(seed, 1000, ALL_FAULTS, 6.0).faults
    zombie = next(fault for fault in faults if fault.kind == FaultKind.ZOMBIE)
    drops = [fault for fault in faults if fault.kind == FaultKind.REDIS_DROP]

    assert any(
        drop.target.startswith("worker")
        and not (drop.target == zombie.target and zombie.at <= drop.at <= zombie.at + zombie.lasts)
        for drop in drops
    )
