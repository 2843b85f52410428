"""What becomes of an answer's outputs besides JSON and raw bytes: classes, and shared memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.catalogue.catalogue import Served
from gateway.outputs import classification
from gateway.shared_memory import Regions
from protocol.errors import InvalidArgument
from protocol.messages import InferReply
from protocol.tensors import Tensor
from protocol.v2 import InferBody, RequestedOutput

_QUICK_BYTES: Final = 256 * 1024
"""Bytes that an event loop copies itself, in a tenth of a millisecond."""


@dataclasses.dataclass(frozen=True, slots=True)
class Extras:
    """What a caller wants of an answer.

    Attributes:
        classes: how many classes, by output.
        shared: outputs that are written to shared memory.
        batches: whether the first dimension of outputs counts rows.
        labels: by output, the names of its classes.
        regions: of this gateway.
    """

    classes: Mapping[str, int]
    shared: Mapping[str, RequestedOutput]
    batches: bool
    labels: Mapping[str, Sequence[str]]
    regions: Regions

    @property
    def elsewhere(self) -> frozenset[str]:
        """Outputs without data in the response."""
        return frozenset(self.shared)

    def takes_long(self, reply: InferReply) -> bool:
        """Whether `apply` would occupy an event loop for more than a millisecond or two."""
        copied = sum([len(tensor.data) for tensor in reply.outputs if tensor.name in self.shared])
        return copied > _QUICK_BYTES or classification.takes_long(reply.outputs, self.classes, self.batches)

    def apply(self, reply: InferReply) -> InferReply:
        """The answer with classes for tensors, and without the data that it has written to shared memory.

        Raises:
            FleetError: an output cannot be classified, does not fit, or its region is gone.
        """
        outputs: Sequence[Tensor] = reply.outputs
        if self.classes:
            outputs = classification.classify_named(outputs, self.classes, self.batches, self.labels)
        if self.shared:
            outputs = [self._placed(tensor) if tensor.name in self.shared else tensor for tensor in outputs]
        return dataclasses.replace(reply, outputs=tuple(outputs))

    def _placed(self, tensor: Tensor) -> Tensor:
        asked = self.shared[tensor.name]
        size = len(tensor.data)
        if size > asked.byte_size:
            raise InvalidArgument(
                f"shared memory size specified with the request for output '{tensor.name}' ({asked.byte_size} bytes) should be "
                f"at least {size} bytes to hold the results"
            )
        self.regions.write(asked.region, asked.offset, asked.byte_size, [tensor.data])
        return Tensor(tensor.name, tensor.datatype, tensor.shape, b"")


def extras_of(body: InferBody, served: Served, regions: Regions) -> Extras | None:
    """What the caller wants besides JSON and raw bytes; None for nothing.

    Raises:
        FleetError: a region is not there, too small, or shared memory is disabled.
    """
    special = [output for output in body.outputs if output.classes or output.region]
    if not special:
        return None
    shared = {output.name: output for output in special if output.region}
    for output in shared.values():
        regions.check(output.region, output.offset, output.byte_size)
    return Extras(classification.wanted(special), shared, served.batches, served.labels, regions)
