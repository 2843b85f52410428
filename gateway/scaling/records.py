"""Looks at records that wait for a worker: how old they are, how many rows they have, and whether anybody still waits for them.

A request that was answered, cancelled or given up by its caller stays in the log until a worker commits it. While few records wait,
each is looked at, so that such a one wakes no worker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from gateway.catalogue.catalogue import RequestQueue
from protocol.codec import decode_request
from protocol.deadline import too_late
from protocol.errors import FleetError
from protocol.messages import InferRequest
from protocol.naming import ref
from protocol.ports import Bus, Place, Record, Results

MAX_ROWS: Final = 10**6
_DONE: Final = "done"


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """One record.

    Attributes:
        published: when it was published; 0 if unknown.
        rows: at least 1.
        ref: names its request; "" if it is none.
        deadline: after which nobody waits for its answer; None for never, as of calls that are fetched later.
    """

    published: float
    rows: int = 1
    ref: str = ""
    deadline: float | None = None


class RecordReader:
    """Reads records and what became of them.

    Args:
        bus: has the records.
        results: have the answers.
    """

    def __init__(self, bus: Bus, results: Results) -> None:
        self.bus = bus
        self._results = results

    async def look(
        self, queue: RequestQueue, places: Collection[Place], known: Mapping[Place, Waiting | None]
    ) -> dict[Place, Waiting | None]:
        """The records at these places; None where there is none that can be read, such as a transaction's marker.

        Args:
            known: that were read before.

        Raises:
            Unavailable: no broker answers.
        """
        found: dict[Place, Waiting | None] = {}
        for place in places:
            if place in known:
                found[place] = known[place]
            else:
                record = await self.bus.read_record(queue.topic, *place)
                found[place] = None if record is None else _waiting(record, queue)
        return found

    async def finished(self, records: Mapping[Place, Waiting | None], now: float) -> set[Place]:
        """Those of them that need no worker.

        Raises:
            Unavailable: the store does not answer.
        """
        over = {place for place, one in records.items() if one is None or too_late(one.deadline, now)}
        asked = {place: one.ref for place, one in records.items() if one is not None and one.ref and place not in over}
        states = await self._results.look(list(asked.values()))
        done = [place for place, state in zip(asked, states, strict=True) if state is not None and state.state == _DONE]
        return over.union(done)


def _waiting(record: Record, queue: RequestQueue) -> Waiting:
    try:
        request = record.request or decode_request(
            record.value, record.headers, model=queue.model, version=queue.version, default_id=_place_id(record),
            timestamp=record.timestamp,
        )  # fmt: skip
        name = ref(request.principal, request.id)
    except FleetError:
        return Waiting(record.timestamp)
    deadline = None if request.claimed else request.deadline
    return Waiting(record.timestamp, _rows(request, queue), name, deadline)


def _rows(request: InferRequest, queue: RequestQueue) -> int:
    if not queue.batches or not request.inputs or not request.inputs[0].shape:
        return 1
    return min(max(1, request.inputs[0].shape[0]), MAX_ROWS)


def _place_id(record: Record) -> str:
    """The id of a request whose producer gave none; protocol/README.md."""
    return f"{record.topic}-{record.partition}-{record.offset}-{round(record.timestamp * 1000)}"
