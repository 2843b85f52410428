from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.transport.embedded.groups import Group, Member

PARTITIONS = 5
SESSION = 10.0
STATICS = st.sampled_from("abcd")


class Groups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.group = Group(PARTITIONS, SESSION)
        self.now = 0.0
        self.ids: set[str] = set()

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(static=STATICS)
    def join(self, static: str) -> None:
        former, generation = self.group.members.get(static), self.group.generation
        member, moved = self.group.join(static, self.now)
        assert member.id not in self.ids
        self.ids.add(member.id)
        assert moved == (former is None)
        assert self.group.generation == generation + moved
        if former is not None:
            assert member.partitions == former.partitions

    @rule(statics=st.lists(STATICS))
    def evict(self, statics: list[str]) -> None:
        known, generation = set(self.group.members) & set(statics), self.group.generation
        assert {member.static for member in self.group.evict(statics)} == known
        assert self.group.generation == generation + bool(known)

    @rule(static=STATICS, polling=st.booleans())
    def poll(self, static: str, polling: bool) -> None:
        if static in self.group.members:
            self.group.members[static].seen = self.now
            self.group.members[static].polling = polling

    @rule()
    def expire(self) -> None:
        members = dict(self.group.members)
        silent = {
            static for static, member in members.items() if not member.polling and member.seen + SESSION <= self.now
        }
        gone = {member.static for member in self.group.expire(self.now)}
        assert gone <= silent
        if len(silent) < len(members):
            assert gone == silent
        else:
            assert len(members) - len(gone) == bool(members)
        at = self.group.next_expiry(self.now)
        assert (at is None) == (len(self.group.members) < 2)
        assert at is None or at > self.now

    @invariant()
    def every_partition_has_one_owner(self) -> None:
        owned = [partition for member in self.group.members.values() for partition in member.partitions]
        assert sorted(owned) == (list(range(PARTITIONS)) if self.group.members else [])
        counts = [len(member.partitions) for member in self.group.members.values()]
        assert not counts or max(counts) - min(counts) <= 1


TestGroups = Groups.TestCase


def test_the_member_that_was_seen_last_stays_when_all_are_silent() -> None:
    group = Group(2, SESSION)
    group.join("a", 0.0)
    group.join("b", 5.0)
    assert group.next_expiry(5.0) == SESSION
    assert [member.static for member in group.expire(100.0)] == ["a"]
    assert group.members["b"].partitions == (0, 1)
    assert group.expire(1000.0) == []


def test_a_waiting_member_is_not_silent() -> None:
    group = Group(2, SESSION)
    waiting, _ = group.join("a", 0.0)
    group.join("b", 95.0)
    waiting.polling = True
    assert group.expire(100.0) == []
    assert group.next_expiry(100.0) == 105.0


def test_members_are_told_apart_by_identity() -> None:
    assert Member("a", "a-1", 0.0) != Member("a", "a-1", 0.0)
