"""Who owns a topic's partitions in one consumer group: static members, generations, commits. Pure: time is an argument.

Invariants:
- every partition has exactly one owner while there is a member; all are reassigned at once (an eager rebalance);
- a joining member with a known static id replaces its predecessor without a rebalance;
- a member is removed after a silent session only if another member can take its partitions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection


@dataclasses.dataclass(slots=True, eq=False)
class Member:
    """One member.

    Attributes:
        static: its `group.instance.id`.
        id: the member id of this incarnation.
        seen: when it last polled.
        polling: whether it waits in a fetch right now.
        partitions: what it owns.
    """

    static: str
    id: str
    seen: float
    polling: bool = False
    partitions: tuple[int, ...] = ()


class Group:
    """The members and the committed offsets of one group on one topic. Times are seconds on any steady clock.

    Attributes:
        members: by static id.
        committed: the next offset to read, by partition.
        generation: grows with every rebalance.
    """

    def __init__(self, partitions: int, session_timeout: float) -> None:
        self.members: dict[str, Member] = {}
        self.committed: dict[int, int] = {}
        self.generation = 0
        self._partitions = partitions
        self._session_timeout = session_timeout
        self._joined = 0

    def join(self, static: str, now: float) -> tuple[Member, bool]:
        """The new member, and whether partitions moved."""
        self._joined += 1
        member = Member(static, f"{static}-{self._joined}", now)
        former = self.members.get(static)
        self.members[static] = member
        if former is not None:
            member.partitions = former.partitions
            return member, False
        self._assign()
        return member, True

    def add_partitions(self, partitions: int) -> bool:
        """The topic has so many now; returns whether they were given to members."""
        self._partitions = partitions
        if self.members:
            self._assign()
        return bool(self.members)

    def evict(self, statics: Collection[str]) -> list[Member]:
        """Remove these; returns those that were members. If there are any, partitions have moved."""
        gone = [self.members.pop(static) for static in statics if static in self.members]
        if gone:
            self._assign()
        return gone

    def expire(self, now: float) -> list[Member]:
        """Remove and return members that were silent for a session. The last member stays: no other could take over."""
        if len(self.members) < 2:
            return []
        silent = [member for member in self.members.values() if self._deadline(member, now) <= now]
        if len(silent) == len(self.members):
            silent.remove(max(silent, key=lambda member: member.seen))
        return self.evict([member.static for member in silent])

    def next_expiry(self, now: float) -> float | None:
        """When to call `expire` again; None with fewer than two members."""
        if len(self.members) < 2:
            return None
        return min(self._deadline(member, now) for member in self.members.values())

    def _deadline(self, member: Member, now: float) -> float:
        return (now if member.polling else member.seen) + self._session_timeout

    def _assign(self) -> None:
        self.generation += 1
        members = [self.members[static] for static in sorted(self.members)]
        for index, member in enumerate(members):
            first, last = (n * self._partitions // len(members) for n in (index, index + 1))
            member.partitions = tuple(range(first, last))
