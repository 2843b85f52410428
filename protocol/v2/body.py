"""A parsed V2 infer body. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from protocol.messages import Parameters
from protocol.tensors import Buffer, Tensor


@dataclasses.dataclass(slots=True)
class RequestedOutput:
    """One entry of `outputs`.

    Attributes:
        binary: the parameter `binary_data`; False by default, because a listed output is JSON.
        classes: the parameter `classification`: how many of the highest elements the caller wants; 0 for the tensor itself.
        region: shared memory that the output is written to, as registered at the gateway; "" for the response.
        offset, byte_size: the part of the region.
    """

    name: str
    binary: bool = False
    classes: int = 0
    region: str = ""
    offset: int = 0
    byte_size: int = 0


class SharedMemory(Protocol):
    """Regions of memory that clients share with a gateway on the same machine."""

    def read(self, region: str, offset: int, byte_size: int) -> bytes:
        """A copy of a part of a region. Raises `NotFound` or `InvalidArgument` naming the region: it is unknown or too small."""

    def write(self, region: str, offset: int, byte_size: int, data: Sequence[Buffer]) -> None:
        """Write pieces, one after the other. Raises as `read`."""


class SharedInput(NamedTuple):
    """The part of a region that an input's data lies in.

    Attributes:
        place: the input's among the inputs.
        region: as registered at the gateway.
        offset, byte_size: the part.
    """

    place: int
    region: str
    offset: int
    byte_size: int


@dataclasses.dataclass(slots=True)
class InferBody:
    """A parsed V2 infer body: typed, with checked sizes, not yet compared with a model.

    Attributes:
        held: bytes that the tensors keep in memory: their own, and the whole body if any is a view of it.
        shared: the inputs whose data lies in shared memory; theirs is empty until `read_shared`.
    """

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...]
    parameters: Parameters
    binary_default: bool = False
    held: int = 0
    shared: tuple[SharedInput, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the wanted outputs; empty for all."""
        return tuple([output.name for output in self.outputs])
