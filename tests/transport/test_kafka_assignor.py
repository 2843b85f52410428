"""Who owns which partition: no broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from hypothesis import given
from hypothesis import strategies as st

from protocol.transport.kafka.assignor import StickyAssignor, share

PARTITIONS = st.integers(0, 12).map(range)
MEMBERS = st.lists(st.sampled_from([f"w{n}" for n in range(6)]), min_size=1, unique=True)


@st.composite
def groups(draw: st.DrawFn) -> tuple[range, dict[str, list[int]]]:
    """A topic, and members with the partitions that they report: overlapping, stale, of partitions that do not exist."""
    claims = st.lists(st.integers(0, 14), max_size=10, unique=True)
    return draw(PARTITIONS), {member: draw(claims) for member in draw(MEMBERS)}


class TestShare:
    @given(groups())
    def test_every_partition_has_one_owner_and_sizes_differ_by_one_at_most(
        self, group: tuple[range, dict[str, list[int]]]
    ) -> None:
        partitions, owned = group
        shares = share(partitions, owned)
        assert shares.keys() == owned.keys()
        assert sorted(p for mine in shares.values() for p in mine) == list(partitions)
        sizes = [len(mine) for mine in shares.values()]
        assert max(sizes) - min(sizes) <= 1

    @given(PARTITIONS, MEMBERS)
    def test_nothing_moves_without_a_reason(self, partitions: range, members: list[str]) -> None:
        before = share(partitions, dict.fromkeys(members, ()))
        assert {m: sorted(p) for m, p in share(partitions, before).items()} == {m: sorted(p) for m, p in before.items()}

    @given(PARTITIONS, MEMBERS)
    def test_only_the_partitions_of_who_left_move(self, partitions: range, members: list[str]) -> None:
        before = share(partitions, dict.fromkeys(members, ()))
        left = before.pop(members[0])
        if not before:
            return
        after = share(partitions, before)
        moved = [p for member, mine in after.items() for p in mine if p not in before[member]]
        assert sorted(moved) == sorted(left)

    @given(PARTITIONS, MEMBERS)
    def test_who_joins_takes_no_more_than_its_share(self, partitions: range, members: list[str]) -> None:
        before = share(partitions, dict.fromkeys(members, ()))
        after = share(partitions, {**before, "new": []})
        moved = [p for member in before for p in after[member] if p not in before[member]]
        assert moved == []
        assert len(after["new"]) == len(partitions) // (len(members) + 1)


class TestStickyAssignor:
    def cluster(self, **topics: int) -> Any:
        return SimpleNamespace(
            partitions_for_topic=lambda topic: set(range(topics[topic])) if topic in topics else None
        )

    def test_members_tell_what_they_owned_and_keep_it(self) -> None:
        members = {name: StickyAssignor() for name in "abc"}
        told = {name: member.metadata(["t"]) for name, member in members.items()}
        first = members["a"].assign(self.cluster(t=6), told)
        for name, given_ in first.items():
            members[name].on_assignment(given_)
        del members["a"]
        told = {name: member.metadata(["t"]) for name, member in members.items()}
        second = members["c"].assign(self.cluster(t=6), told)
        for name in members:
            assert set(first[name].partitions()) < set(second[name].partitions())

    def test_two_consumers_in_one_process_keep_apart(self) -> None:
        one, other = StickyAssignor(), StickyAssignor()
        one.on_assignment(one.assign(self.cluster(t=4), {"m": one.metadata(["t"])})["m"])
        assert other.metadata(["u"]).user_data != one.metadata(["t"]).user_data

    @pytest.mark.parametrize("garbage", [b"", b"\xff\xff", b"\xc1", b"\x81\xa1a\x01", b"\x92\xa1x\x01"])
    def test_what_another_member_tells_is_not_trusted(self, garbage: bytes) -> None:
        assignor = StickyAssignor()
        stranger = assignor.metadata(["t"])
        stranger.user_data = garbage
        given_ = assignor.assign(self.cluster(t=2), {"me": assignor.metadata(["t"]), "stranger": stranger})
        assert sorted(len(member.partitions()) for member in given_.values()) == [1, 1]

    def test_a_topic_that_nobody_knows_gives_nothing(self) -> None:
        assignor = StickyAssignor()
        assert assignor.assign(ClusterMetadata(), {"me": assignor.metadata(["t"])})["me"].partitions() == []
