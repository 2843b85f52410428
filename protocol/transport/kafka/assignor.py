"""Which member owns which partition: balanced, and as much as possible stays where it was.

Kafka's rebalance for aiokafka is eager: every member gives up everything and is given partitions anew. A partition that
comes back to its owner goes on with its table of requests in flight; one that moves is executed twice as far as it was not
answered. `range` moves partitions between healthy members whenever a member joins in the middle; aiokafka's own sticky
assignor keeps its memory on the class, so the consumers of several models in one process would overwrite each other's.
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
    """Every partition to one member; sizes differ by at most one; nobody loses more than balance demands.

    Args:
        partitions: all of the topic.
        owned: each member's partitions so far; may be stale or overlap.
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
    """`share` as aiokafka wants it; one instance per consumer."""

    name = NAME

    def __init__(self) -> None:
        self._owned: list[int] = []

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member tells the leader: its topic, and what it owned."""
        return ConsumerProtocolMemberMetadata(VERSION, list(topics), frames.pack(self._owned))

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Remember what this member was given."""
        self._owned = sorted(partition.partition for partition in assignment.partitions())

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """The leader's part: the same for every topic that anybody subscribed to."""
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({topic for metadata in members.values() for topic in metadata.subscription}):
            owned = {name: _owned(told) for name, told in members.items() if topic in told.subscription}
            for member, partitions in share(cluster.partitions_for_topic(topic) or (), owned).items():
                given[member].append((topic, partitions))
        return {member: ConsumerProtocolMemberAssignment(VERSION, topics, b"") for member, topics in given.items()}


def _owned(metadata: ConsumerProtocolMemberMetadata) -> list[int]:
    try:
        told = frames.unpack(metadata.user_data)
    except CodecError:
        return []
    return [partition for partition in told if isinstance(partition, int)] if isinstance(told, list) else []
