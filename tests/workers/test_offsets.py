"""The offset tracker against a broker with rebalances: every committed record is answered, and every done record gets committed."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.intake.offsets import OffsetTracker


def tracker(committed: int = 0) -> OffsetTracker[int]:
    made: OffsetTracker[int] = OffsetTracker()
    made.assign(0, 1, committed)
    return made


def add(offsets: OffsetTracker[int], *numbers: int, partition: int = 0) -> int:
    """Add records; returns their token."""
    tokens = {offsets.add(partition, number) for number in numbers}
    (token,) = tokens
    assert token is not None
    return token


def test_the_watermark_follows_the_lowest_that_is_not_done() -> None:
    offsets = tracker(10)
    token = add(offsets, 10, 11, 12)
    for number, expected in ((11, {}), (12, {}), (10, {0: 13})):
        offsets.done(0, number, token)
        assert offsets.commits() == expected


def test_positions_are_reported_until_they_are_committed() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.done(0, 0, token)
    assert offsets.commits() == offsets.commits() == {0: 1}
    offsets.committed({0: 1})
    assert offsets.commits() == {}
    offsets.done(0, 1, token)
    assert offsets.commits() == {0: 2}


def test_what_is_done_while_a_commit_is_under_way_is_committed_next() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.done(0, 0, token)
    under_way = offsets.commits()
    offsets.done(0, 1, token)
    offsets.committed(under_way)
    assert offsets.commits() == {0: 2}


def test_gaps_count_as_done() -> None:
    offsets = tracker()
    token = add(offsets, 3, 7)
    assert offsets.lowest_incomplete(0) == 3
    offsets.done(0, 3, token)
    assert offsets.commits() == {0: 7}


def test_a_gap_at_the_end_is_closed_by_the_consumers_position() -> None:
    offsets = tracker()
    token = add(offsets, 0)
    offsets.advance(0, 2)
    assert offsets.commits() == {}
    offsets.done(0, 0, token)
    assert offsets.commits() == {0: 2}
    offsets.advance(0, 1)
    assert offsets.lowest_incomplete(0) == 2


def test_what_was_deleted_unread_is_passed_over_only_when_it_is_told() -> None:
    offsets = tracker(3)
    assert offsets.deleted(0, 3) is None
    lost = offsets.deleted(0, 8)
    assert lost is not None
    first, token = lost
    assert first == 3
    add(offsets, 8)
    offsets.done(0, 8, token)
    assert offsets.commits() == {}
    offsets.done(0, 3, token)
    assert offsets.commits() == {0: 9}


def test_what_is_in_flight_is_not_lost_when_the_log_begins_behind_it() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.revoke(0)
    assert offsets.assign(0, 2, 0) == (0, 1)
    assert offsets.deleted(0, 5) == (2, token)
    for number in (0, 1, 2):
        offsets.done(0, number, token)
    assert offsets.commits() == {0: 5}


def test_a_record_that_is_in_flight_or_done_is_not_added_again() -> None:
    offsets = tracker(5)
    token = add(offsets, 5, 6)
    offsets.done(0, 5, token)
    assert [offsets.add(0, number) for number in (4, 5, 6)] == [None, None, None]
    assert offsets.in_flight == 1


def test_done_twice_or_never_added_changes_nothing() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.done(0, 1, token)
    offsets.done(0, 1, token)
    offsets.done(0, 99, token)
    offsets.done(1, 0, token)
    assert (offsets.commits(), offsets.in_flight) == ({}, 1)


def test_nothing_is_added_or_committed_for_a_partition_of_others() -> None:
    offsets = tracker()
    token = add(offsets, 0)
    offsets.revoke(0)
    offsets.revoke(7)
    offsets.done(0, 0, token)
    assert offsets.add(0, 1) is None
    assert offsets.add(7, 0) is None
    assert offsets.commits() == {}
    assert offsets.lowest_incomplete(7) is None


def test_the_table_goes_on_when_the_partition_comes_back_in_the_next_generation() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1, 2)
    offsets.done(0, 0, token)
    offsets.revoke(0)
    offsets.done(0, 1, token)
    assert offsets.commits() == {}
    assert offsets.assign(0, 2, 0) == (2,)
    assert offsets.commits() == {0: 2}
    assert offsets.add(0, 2) is None
    offsets.done(0, 2, token)
    assert offsets.commits() == {0: 3}
    assert offsets.add(0, 3) == token


def test_a_commit_that_is_confirmed_late_takes_nothing_back() -> None:
    offsets = tracker(5)
    offsets.committed({0: 3, 9: 1})
    token = add(offsets, 5)
    offsets.done(0, 5, token)
    assert offsets.commits() == {0: 6}


@pytest.mark.parametrize(("told", "expected"), [(0, {0: 1}), (1, {})])
def test_what_the_broker_has_committed_is_what_it_says_at_assignment(told: int, expected: dict[int, int]) -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.done(0, 0, token)
    if told == 0:
        offsets.committed(offsets.commits())
    offsets.revoke(0)
    offsets.assign(0, 2, told)
    assert offsets.commits() == expected


def test_acknowledgements_of_an_older_assignment_are_dropped() -> None:
    offsets = tracker()
    old = add(offsets, 0, 1)
    offsets.revoke(0)
    assert offsets.assign(0, 3, 0) == ()
    new = add(offsets, 0, 1)
    offsets.done(0, 0, old)
    assert offsets.commits() == {}
    offsets.done(0, 0, new)
    assert offsets.commits() == {0: 1}


def test_a_committed_offset_above_ours_proves_another_owner() -> None:
    offsets = tracker()
    old = add(offsets, 0, 1)
    offsets.revoke(0)
    assert offsets.assign(0, 2, 1) == ()
    offsets.done(0, 1, old)
    assert offsets.commits() == {}
    assert offsets.add(0, 1) is not None


def test_a_topic_that_was_made_again_starts_afresh_in_the_same_epoch() -> None:
    offsets = tracker()
    old = add(offsets, 0, 1)
    assert offsets.assign(0, 1, 0) == ()
    assert offsets.add(0, 0) is not None
    offsets.done(0, 0, old)
    assert offsets.commits() == {}


def test_tables_of_partitions_that_did_not_come_back_are_forgotten() -> None:
    offsets = tracker()
    token = add(offsets, 0, 1)
    offsets.revoke(0)
    offsets.done(0, 0, token)
    offsets.assign(1, 2, 0)
    assert offsets.in_flight == 1
    offsets.assign(1, 3, 0)
    assert offsets.in_flight == 0
    assert offsets.commits() == {}


def test_partitions_may_be_named_by_topic_and_number() -> None:
    offsets: OffsetTracker[tuple[str, int]] = OffsetTracker()
    offsets.assign(("topic", 3), 1, 0)
    token = offsets.add(("topic", 3), 0)
    assert token is not None
    offsets.done(("topic", 3), 0, token)
    assert offsets.commits() == {("topic", 3): 1}


@dataclasses.dataclass
class Log:
    """A partition as the broker knows it, and as it really is."""

    records: list[int] = dataclasses.field(default_factory=list)
    end: int = 0
    committed: int = 0
    answered: set[int] = dataclasses.field(default_factory=set)
    incarnation: int = 0
    owned: bool = False
    position: int = 0
    open: dict[int, int] = dataclasses.field(default_factory=dict)
    """Offset -> token, of this assignment, as the tracker should have it."""


PARTITIONS = 3
partitions = st.integers(0, PARTITIONS - 1)


class Machine(RuleBasedStateMachine):
    """One consumer of three partitions in a group whose other members are ideal."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets: OffsetTracker[int] = OffsetTracker()
        self.logs = [Log() for _ in range(PARTITIONS)]
        self.epoch = 0
        self.running: list[tuple[int, int, int, int]] = []
        self.rebalance(set(), 0, "nothing")

    @rule(
        number=partitions,
        gaps=st.lists(st.sampled_from([0, 0, 0, 1, 5]), min_size=1, max_size=6),
        tail=st.integers(0, 1),
    )
    def produce(self, number: int, gaps: list[int], tail: int) -> None:
        log = self.logs[number]
        for gap in gaps:
            log.records.append(log.end + gap)
            log.end += gap + 1
        log.end += tail

    @rule(number=partitions, count=st.integers(1, 6))
    def fetch(self, number: int, count: int) -> None:
        log = self.logs[number]
        if not log.owned:
            assert self.offsets.add(number, log.end) is None
            return
        for offset in [offset for offset in log.records if offset >= log.position][:count]:
            token = self.offsets.add(number, offset)
            log.position = offset + 1
            if token is None:
                assert offset in log.open or offset in log.answered
            else:
                assert offset not in log.open
                log.open[offset] = token
                self.running.append((number, offset, token, log.incarnation))
        if not any(offset >= log.position for offset in log.records):
            log.position = log.end
            self.offsets.advance(number, log.end)

    @rule(number=partitions)
    def fetch_again(self, number: int) -> None:
        """A consumer that lost its buffer goes back to the committed offset."""
        self.logs[number].position = self.logs[number].committed

    @precondition(lambda self: self.running)
    @rule(pick=st.sampled_from([0, 0, 1, 7]), count=st.integers(1, 4), again=st.booleans())
    def finish(self, pick: int, count: int, again: bool) -> None:
        """Mostly the oldest, some of which belong to assignments that are over."""
        for _ in range(min(count, len(self.running))):
            number, offset, token, incarnation = self.running.pop(pick % len(self.running))
            log = self.logs[number]
            if incarnation == log.incarnation:
                log.answered.add(offset)
            if log.open.get(offset) == token:
                del log.open[offset]
            for _ in range(1 + again):
                self.offsets.done(number, offset, token)

    @rule(accepted=st.booleans())
    def commit(self, accepted: bool) -> None:
        positions = self.offsets.commits()
        for number, log in enumerate(self.logs):
            lowest = self.offsets.lowest_incomplete(number)
            if number in positions:
                assert log.owned
                assert positions[number] == lowest
                assert log.committed < positions[number] <= min(log.open, default=log.end)
                assert all(offset in log.answered for offset in log.records if offset < positions[number])
            elif log.owned and lowest is not None:
                assert not any(log.committed <= offset < lowest for offset in log.records)
        if accepted:
            for number, position in positions.items():
                self.logs[number].committed = position
            self.offsets.committed(positions)

    @rule(
        lost=st.sampled_from([set(), set(), {0}, {0, 1, 2}]),
        progress=st.sampled_from([0, 0, 1, 5]),
        between=st.sampled_from(["nothing", "a generation", "an unseen generation"]),
    )
    def rebalance(self, lost: set[int], progress: int, between: str) -> None:
        """All partitions are taken away and some come back; others may have had them all for a generation in between.

        An unseen generation is one that this consumer's epochs do not show.
        """
        for number, log in enumerate(self.logs):
            if log.owned:
                self.offsets.revoke(number)
        self.epoch += 2 if between == "a generation" else 1
        if between != "nothing":
            for log in self.logs:
                self.others(log, progress)
        for number, log in enumerate(self.logs):
            if number in lost:
                log.owned = False
                self.others(log, progress)
                continue
            lowest = self.offsets.lowest_incomplete(number)
            goes_on = log.owned and between != "a generation" and lowest is not None and log.committed <= lowest
            if not goes_on:
                log.open = {}
            log.owned, log.position = True, log.committed
            assert list(self.offsets.assign(number, self.epoch, log.committed)) == sorted(log.open)

    def others(self, log: Log, progress: int) -> None:
        """Other members answer some records and commit them."""
        for offset in [offset for offset in log.records if offset >= log.committed][:progress]:
            log.answered.add(offset)
            log.committed = offset + 1

    @precondition(lambda self: any(log.owned for log in self.logs))
    @rule(number=partitions)
    def make_topic_again(self, number: int) -> None:
        log = self.logs[number]
        if log.owned:
            self.logs[number] = Log(incarnation=log.incarnation + 1, owned=True)
            assert self.offsets.assign(number, self.epoch, 0) == ()

    @invariant()
    def lowest(self) -> None:
        for number, log in enumerate(self.logs):
            if log.owned and log.open:
                assert self.offsets.lowest_incomplete(number) == min(log.open)
        positions = self.offsets.positions()
        assert set(positions) == {number for number, log in enumerate(self.logs) if log.owned}
        for number, position in positions.items():
            assert self.logs[number].committed <= position <= min(self.logs[number].open, default=self.logs[number].end)
        assert self.offsets.in_flight >= sum(len(log.open) for log in self.logs if log.owned)

    def teardown(self) -> None:
        for number, log in enumerate(self.logs):
            self.fetch(number, len(log.records))
        while self.running:
            self.finish(0, 1, False)
            self.lowest()
            self.commit(True)
        self.commit(True)
        for log in self.logs:
            if log.owned:
                assert log.committed == log.end
        assert self.offsets.commits() == {}


TestOffsets = Machine.TestCase
TestOffsets.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
