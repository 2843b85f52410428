"""The topics of the batch lane: each is created before the first record goes to it.

Invariant: the broker is asked once per topic, and again only after it has said that the topic does not exist.
"""

from __future__ import annotations

from gateway.catalogue.catalogue import Catalogue
from protocol.errors import FleetError
from protocol.messages import Lane
from protocol.naming import Names
from protocol.ports import Bus


class BatchTopics:
    """Creates topics of the batch lane at their first use, with as many partitions as the model's interactive topic.

    Args:
        bus: creates them.
        names: parses topics.
        catalogue: knows the number of partitions.
    """

    def __init__(self, bus: Bus, names: Names, catalogue: Catalogue) -> None:
        self._bus = bus
        self._names = names
        self._catalogue = catalogue
        self._ready: set[str] = set()

    def ready(self, topic: str) -> bool:
        """Whether records may be published to the topic at once. Workers create the interactive topics."""
        if topic in self._ready:
            return True
        if self._is_batch(topic):
            return False
        self._ready.add(topic)
        return True

    async def ensure(self, topic: str) -> None:
        """Create the topic unless there is one.

        Raises:
            Unavailable: no broker answers, or it refuses to create the topic.
        """
        _, model, version = self._names.parse_request_topic(topic)
        await self._bus.ensure_topic(topic, self._catalogue.get(model, version).partitions)
        self._ready.add(topic)

    def missing(self, topic: str) -> bool:
        """Note that a broker does not know the topic; whether it is one of ours to create."""
        self._ready.discard(topic)
        return self._is_batch(topic)

    def _is_batch(self, topic: str) -> bool:
        try:
            return self._names.parse_request_topic(topic)[0] is Lane.BATCH
        except FleetError:
            return False
