"""Which models a worker serves: on virtual time, with any records and any other workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from protocol.control import DesiredModel, Wish
from protocol.messages import Outcome
from workers.lifecycle.desired import (
    ELSEWHERE,
    FOR_ROOM,
    LEASE_ENDED,
    NOT_HERE,
    UNLOADED,
    Decision,
    Peer,
    Situation,
    decide,
)

NAMES = ("a", "b", "c", "d")
models = st.sampled_from(NAMES)
seconds = st.integers(0, 100).map(float)
wishes = st.builds(
    DesiredModel, st.just(""), st.booleans(), replicas=st.integers(0, 3), pinned=st.booleans(), lease_until=seconds,
    idle_after=seconds, at=seconds, files=st.sampled_from([{}, {"1/model.py": "digest"}]),
)  # fmt: skip
records = st.dictionaries(models, wishes).map(
    lambda found: {
        name: Wish(number, dataclasses.replace(entry, model=name)) for number, (name, entry) in enumerate(found.items())
    }
)
peers = st.lists(
    st.builds(Peer, st.sampled_from(["w1", "w2", "w3"]), st.frozensets(models), st.dictionaries(models, st.integers(0, 4))),
    max_size=3, unique_by=lambda peer: peer.worker,
)  # fmt: skip
situations = st.builds(
    Situation, st.just("w0"), st.dictionaries(models, st.integers(0, 50)), st.sampled_from([(), ("*",), ("a", "b")]), records,
    st.dictionaries(models, st.integers(0, 50)), peers, st.dictionaries(models, st.integers(0, 50)), st.frozensets(models),
    st.dictionaries(models, seconds), st.sampled_from([0, 40, 120]), seconds,
)  # fmt: skip


def one(entry: DesiredModel | None = None, **about: object) -> Decision:
    """The decision on model a, of a worker that has it."""
    chosen = {"worker": "w0", "here": {"a": 10}, "wishes": {} if entry is None else {"a": Wish(7, entry)}}
    return decide(Situation(**chosen | about))["a"]  # type: ignore[arg-type]


def test_without_a_record_the_settings_decide() -> None:
    assert one(named=("*",)).serve
    assert one(named=("a",)).serve
    assert not one(named=("b",)).serve


def test_a_record_decides_over_the_settings() -> None:
    assert one(DesiredModel("a", True)).serve
    left = one(DesiredModel("a", False), named=("*",))
    assert (left.serve, left.reason, left.everywhere, left.generation) == (False, UNLOADED, True, 7)


def test_a_worker_without_the_model_gives_way() -> None:
    decision = one(DesiredModel("a", True), here={})
    assert (decision.serve, decision.reason, decision.outcome) == (False, NOT_HERE, Outcome.ABSENT)
    assert one(DesiredModel("a", True, files={"1/model.py": "digest"}), here={}).serve


def test_a_lease_ends_and_can_be_renewed() -> None:
    entry = DesiredModel("a", True, lease_until=100.0)
    assert one(entry, now=99.9).serve
    assert one(entry, now=100.0).reason == LEASE_ENDED
    assert one(dataclasses.replace(entry, lease_until=200.0), now=100.0).serve
    assert one(dataclasses.replace(entry, pinned=True), now=500.0).serve


def test_an_idle_model_is_evicted_until_its_record_is_written_again() -> None:
    entry = DesiredModel("a", True, idle_after=60.0, at=10.0)
    assert one(entry, now=69.0).serve, "it was loaded 59 s ago"
    assert not one(entry, now=70.0).serve
    assert one(entry, now=70.0, used_at={"a": 11.0}).serve, "somewhere a request ran at 11 s"
    assert one(dataclasses.replace(entry, at=70.0), now=129.0).serve
    assert one(dataclasses.replace(entry, pinned=True), now=500.0).serve


def fleet_of(entry: DesiredModel, serves: Mapping[str, bool], gives_way: frozenset[str] = frozenset()) -> set[str]:
    """The workers that serve model a after each has decided."""

    def decided(worker: str) -> bool:
        others = [
            Peer(name, frozenset("a" if serving else ""), {"a": 7} if name in gives_way else {})
            for name, serving in serves.items()
            if name != worker
        ]
        return one(entry, worker=worker, peers=others, serves=("a",) if serves[worker] else ()).serve

    return {worker for worker in serves if decided(worker)}


workers = st.dictionaries(st.sampled_from([f"w{number}" for number in range(8)]), st.booleans(), min_size=1)


@given(workers, st.integers(1, 5))
def test_as_many_workers_serve_a_model_as_replicas_are_asked_for(serves: dict[str, bool], replicas: int) -> None:
    chosen = fleet_of(DesiredModel("a", True, replicas=replicas), serves)
    assert len(chosen) == min(replicas, len(serves))
    serving = {worker for worker, serving in serves.items() if serving}
    assert chosen <= serving or serving <= chosen, "those that serve already are chosen first"


@given(workers, st.integers(1, 3), st.data())
def test_a_worker_that_gives_way_is_replaced(serves: dict[str, bool], replicas: int, data: st.DataObject) -> None:
    gone = data.draw(st.frozensets(st.sampled_from(sorted(serves)), max_size=len(serves) - 1))
    idle = dict.fromkeys(serves, False)
    able = fleet_of(DesiredModel("a", True, replicas=replicas), idle, gone) - gone
    assert len(able) == min(replicas, len(serves) - len(gone))


@given(workers, st.integers(1, 3), st.sampled_from([f"w{number}" for number in range(8)]))
def test_a_worker_that_comes_takes_nothing_from_one_that_serves(
    serves: dict[str, bool], replicas: int, newcomer: str
) -> None:
    entry = DesiredModel("a", True, replicas=replicas)
    before = {worker: worker in fleet_of(entry, serves) for worker in serves}
    after = fleet_of(entry, before | ({} if newcomer in before else {newcomer: False}))
    assert {worker for worker, serving in before.items() if serving} <= after


def test_others_serve_it() -> None:
    holder = Peer("w1", frozenset("a"))
    decision = one(DesiredModel("a", True, replicas=1), peers=[holder])
    assert (decision.serve, decision.reason, decision.outcome) == (False, ELSEWHERE, Outcome.NONE)


def need(situation: Situation, name: str) -> int:
    wish = situation.wishes.get(name)
    if wish is not None and wish.entry.files:
        return situation.file_bytes.get(name, 0)
    return situation.here.get(name, situation.held.get(name, 0))


@given(situations)
def test_what_holds_of_every_decision(situation: Situation) -> None:
    decisions = decide(situation)
    assert set(decisions) == {*situation.here, *situation.wishes}
    unlimited = decide(dataclasses.replace(situation, limit=0))
    for name, decision in decisions.items():
        wish = situation.wishes.get(name)
        assert decision.entry is (None if wish is None else wish.entry)
        assert decision.serve is not bool(decision.reason)
        assert not decision.serve or unlimited[name].serve, "a limit adds nothing"
        if decision.serve and wish is not None:
            assert wish.entry.loaded
            assert name in situation.here or wish.entry.files
        if unlimited[name].serve and not decision.serve:
            assert decision.outcome is Outcome.REFUSED, "another worker takes its place"
            assert decision.reason != FOR_ROOM or (wish and wish.entry.idle_after and not wish.entry.pinned)
            assert decision.reason == FOR_ROOM or name not in situation.held, (
                "nothing is thrown out that may not be evicted"
            )
    if situation.limit:
        kept = sum(need(situation, name) for name in decisions if name in situation.held and decisions[name].serve)
        new = sum(need(situation, name) for name in decisions if name not in situation.held and decisions[name].serve)
        assert kept + new <= situation.limit or not new, "nothing is loaded beyond the limit"


@given(situations)
def test_models_do_not_evict_each_other_for_ever(situation: Situation) -> None:
    seen = []
    for _ in range(6):
        decisions = decide(situation)
        held = {name: need(situation, name) for name, decision in decisions.items() if decision.serve}
        seen.append(held)
        situation = dataclasses.replace(situation, held=held, serves=frozenset(held))
    assert seen[-1] == seen[-2]


def test_the_least_recently_used_model_makes_room() -> None:
    wishes = {
        "a": Wish(1, DesiredModel("a", True, idle_after=1000.0)),
        "b": Wish(2, DesiredModel("b", True, idle_after=1000.0)),
        "c": Wish(3, DesiredModel("c", True, at=100.0)),
    }
    used = {"a": 50.0, "b": 40.0}
    here = dict.fromkeys("abc", 10)
    situation = Situation("w0", here, (), wishes, {}, (), {"a": 10, "b": 10}, ("a", "b"), used, 25, 100.0)
    decisions = decide(situation)
    assert {name for name, decision in decisions.items() if decision.serve} == {"a", "c"}
    assert decisions["b"].reason == FOR_ROOM
    pinned = wishes | {"b": Wish(2, DesiredModel("b", True, idle_after=1000.0, pinned=True))}
    decisions = decide(dataclasses.replace(situation, wishes=pinned))
    assert {name for name, decision in decisions.items() if decision.serve} == {"b", "c"}
