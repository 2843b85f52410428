"""A batch on its way into a child and back: its inputs in shared memory, the command, the reply.

Invariants: a staged batch owns its slot until it is dropped, whether it has run or not; the reply's tensors are copied out before
the child gets its next command, which overwrites them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from protocol.errors import FleetError
from protocol.messages import InferRequest
from workers.backends.base import Outcome
from workers.instances.process.channel import ChannelBroken, encode_message
from workers.instances.process.child import Child
from workers.instances.process.messages import Message, decode_model_error, decode_outcomes, encode_request_head
from workers.instances.process.segments import Segment, SegmentSlot, SegmentSlots, SegmentView


class StagedBatch:
    """A batch whose tensors are in shared memory.

    Attributes:
        slot: where they are.
        command: encoded, for the child.
    """

    __slots__ = ("_slots", "command", "slot")

    def __init__(self, slots: SegmentSlots, requests: Sequence[InferRequest]) -> None:
        self._slots = slots
        self.slot: SegmentSlot = slots.take()
        described = self.slot.write_tensors([tensor for request in requests for tensor in request.inputs])
        heads = [encode_request_head(request) for request in requests]
        self.command = encode_message(
            {"name": "run", "slot": self.slot.number, "tensors": described, "requests": heads}
        )

    def __del__(self) -> None:
        self._slots.give_back(self.slot)


@dataclasses.dataclass(slots=True)
class RunResult:
    """The result of a batch.

    Attributes:
        began, ended: of the run, on the machine's monotonic clock; 0 if it did not run.
        raw: the outcomes, or why they could not be split.
        error: why it did not run, or failed.
    """

    began: float
    ended: float
    raw: Sequence[Outcome] | FleetError = ()
    error: FleetError | None = None


class Transfer:
    """Sends batches to one child, one after the other.

    Args:
        child: with the model loaded.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._known: dict[int, Segment] = {}
        self._outputs: SegmentView | None = None

    def run(self, staged: StagedBatch) -> RunResult:
        """Run a batch and wait for the reply.

        Raises:
            ChannelBroken: the child has exited, or its reply makes no sense.
        """
        slot = staged.slot
        assert slot.segment is not None
        descriptors = [] if self._known.get(slot.number) is slot.segment else [slot.segment.descriptor]
        reply, received = self._child.send_command(staged.command, descriptors)
        self._known[slot.number] = slot.segment
        try:
            for descriptor in received:
                self._outputs = SegmentView(descriptor)
            ran = self._decode(reply)
            if reply["kept"]:
                slot.segment = None  # the model still reads it
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise ChannelBroken(f"a reply that makes no sense: {exc!r}") from None
        return ran

    def _decode(self, reply: Message) -> RunResult:
        ran = RunResult(*reply["ran"])
        error: Any = reply.get("error")
        if error is not None and reply.get("splits"):
            ran.raw = decode_model_error(error)
        elif error is not None:
            ran.error = decode_model_error(error)
        else:
            described = reply["tensors"]
            tensors = [] if self._outputs is None else self._outputs.copy_tensors(described)
            ran.raw = decode_outcomes(reply["outcomes"], tensors)
        return ran
