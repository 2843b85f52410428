"""Which member owns which partition: balanced, and moving as few partitions as possible.

aiokafka's rebalance is eager: every member gives up all its partitions and is assigned partitions anew. A partition that returns to
its owner keeps its table of requests in flight; the unanswered requests of one that moves run a second time. `range` moves
partitions between healthy members whenever a member joins in the middle. aiokafka's own sticky assignor keeps its state on the
class, so the consumers of several models in one process would overwrite each other's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from protocol import frames
from protocol.errors import CodecError
from protocol.transport.kafka.aiokafka_internals import (
    AbstractPartitionAssignor,
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

NAME: Final = "penstock-sticky"
VERSION: Final = 0


def share(partitions: Collection[int], owned: Mapping[str, Collection[int]]) -> dict[str, list[int]]:
    """Assigns every partition to one member; sizes differ by at most one, and a member loses no more than balance requires.

    Args:
        partitions: all of the topic.
        owned: each member's partitions so far, by its own report; may be stale or overlap.
    """
    quota, larger = divmod(len(partitions), len(owned))
    free = set(partitions)
    shares: dict[str, list[int]] = {}
    for member in sorted(owned, key=lambda name: (-len(owned[name]), name)):
        kept = sorted(free.intersection(owned[member]))[: quota + (larger > 0)]
        larger -= len(kept) > quota
        free.difference_update(kept)
        shares[member] = kept
    for partition in sorted(free):
        smallest = min(shares, key=lambda name: (len(shares[name]), name))
        shares[smallest].append(partition)
    return shares


class StickyAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """`share` behind aiokafka's interface; one instance per consumer."""

    name = NAME

    def __init__(self) -> None:
        self._owned: list[int] = []

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member sends the leader: its topic, and the partitions that it owned."""
        return ConsumerProtocolMemberMetadata(VERSION, list(topics), frames.pack(self._owned))

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remember the assigned partitions."""
        self._owned = sorted(partition.partition for partition in assignment.partitions())

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Called on the group's leader: `share` for every subscribed topic."""
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({topic for metadata in members.values() for topic in metadata.subscription}):
            owned = {name: _owned(member) for name, member in members.items() if topic in member.subscription}
            for member, partitions in share(cluster.partitions_for_topic(topic) or (), owned).items():
                given[member].append((topic, partitions))
        return {member: ConsumerProtocolMemberAssignment(VERSION, topics, b"") for member, topics in given.items()}


def _owned(metadata: ConsumerProtocolMemberMetadata) -> list[int]:
    try:
        owned = frames.unpack(metadata.user_data)
    except CodecError:
        return []
    return [partition for partition in owned if isinstance(partition, int)] if isinstance(owned, list) else []
