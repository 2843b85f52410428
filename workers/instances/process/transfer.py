"""A batch on its way into a child and back: what is written into shared memory, what is ordered, what comes of it.

Invariants: a staged batch owns its slot until it is dropped, whether it has run or not; the answer's tensors are copied out before
the child gets its next order, which is when it writes over them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from protocol.errors import FleetError
from protocol.messages import InferRequest
from workers.backends.base import Outcome
from workers.instances.process.channel import Broken, packed
from workers.instances.process.child import Child
from workers.instances.process.messages import Told, hear_error, hear_outcomes, tell_request
from workers.instances.process.segments import Segment, Slot, Slots, View


class Staged:
    """A batch whose tensors are in shared memory.

    Attributes:
        slot: where they are.
        order: what the child is told.
    """

    __slots__ = ("_slots", "order", "slot")

    def __init__(self, slots: Slots, requests: Sequence[InferRequest]) -> None:
        self._slots = slots
        self.slot: Slot = slots.take()
        described = self.slot.write([tensor for request in requests for tensor in request.inputs])
        told = [tell_request(request) for request in requests]
        self.order = packed({"do": "run", "slot": self.slot.number, "tensors": described, "requests": told})

    def __del__(self) -> None:
        self._slots.give_back(self.slot)


@dataclasses.dataclass(slots=True)
class Ran:
    """What a child made of a batch.

    Attributes:
        began, ended: of the run, on the machine's monotonic clock; 0 where it did not come to that.
        raw: the outcomes, or why they could not be split.
        error: why it did not run, or failed.
    """

    began: float
    ended: float
    raw: Sequence[Outcome] | FleetError = ()
    error: FleetError | None = None


class Exchange:
    """The batches of one child, one after the other.

    Args:
        child: with the model loaded.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._known: dict[int, Segment] = {}
        self._outputs: View | None = None

    def run(self, staged: Staged) -> Ran:
        """Run a batch and wait for the answer.

        Raises:
            Broken: the child has ended, or does not make sense any more.
        """
        slot = staged.slot
        assert slot.segment is not None
        descriptors = [] if self._known.get(slot.number) is slot.segment else [slot.segment.descriptor]
        answer, received = self._child.ask(staged.order, descriptors)
        self._known[slot.number] = slot.segment
        try:
            for descriptor in received:
                self._outputs = View(descriptor)
            ran = self._read(answer)
            if answer["kept"]:
                slot.segment = None  # the model goes on reading it
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise Broken(f"an answer that makes no sense: {exc!r}") from None
        return ran

    def _read(self, answer: Told) -> Ran:
        ran = Ran(*answer["ran"])
        error: Any = answer.get("error")
        if error is not None and answer.get("splits"):
            ran.raw = hear_error(error)
        elif error is not None:
            ran.error = hear_error(error)
        else:
            described = answer["tensors"]
            tensors = [] if self._outputs is None else self._outputs.copy(described)
            ran.raw = hear_outcomes(answer["outcomes"], tensors)
        return ran
