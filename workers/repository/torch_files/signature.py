"""What a program's tensors look like, and whether it batches. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.model_config import TensorSpec
from workers.repository.completion import BackendMetadata

ANY: Final = -1
_NOT_CHECKED: Final = 2
"""A lower bound that torch writes for every dimension whose bounds nobody gave (`Dim.DYNAMIC`, `Dim.AUTO`), because it takes sizes
of 0 and 1 for fixed while it exports. A program does not check it: `torch._export.utils`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """One dimension of a tensor.

    Attributes:
        value: the size, or `ANY`.
        symbol: sizes of one symbol are equal; "" if it is not known which are.
        least, most: the bounds of an `ANY`; `most` is 0 for none.
    """

    value: int = ANY
    symbol: str = ""
    least: int = 0
    most: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ProgramTensor:
    """An input or output as the file states it.

    Attributes:
        sizes: all of its dimensions, including the batch.
    """

    name: str
    datatype: str
    sizes: tuple[Size, ...]

    @property
    def spec(self) -> TensorSpec:
        """It with its whole shape."""
        return TensorSpec(self.name, self.datatype, tuple(size.value for size in self.sizes))


def metadata_of(inputs: Sequence[ProgramTensor], outputs: Sequence[ProgramTensor]) -> BackendMetadata:
    """The metadata of a program: it batches if the first dimensions of all tensors are one symbol that may be 1.

    Whether a row may really be alone is tried at load (`workers.instances.batching_check`).
    """
    tensors = (*inputs, *outputs)
    firsts = {tensor.sizes[0] if tensor.sizes else Size(0) for tensor in tensors}
    symbols = {first.symbol for first in firsts}
    batchable = (
        bool(inputs)
        and len(symbols) == 1
        and "" not in symbols
        and all(first.value == ANY and first.least <= _NOT_CHECKED for first in firsts)
    )
    skip = 1 if batchable else 0
    sides = [
        tuple(dataclasses.replace(tensor.spec, dims=tensor.spec.dims[skip:]) for tensor in side)
        for side in (inputs, outputs)
    ]
    limit = min((first.most for first in firsts if first.most), default=0) if batchable else 0
    return BackendMetadata(sides[0], sides[1], batchable, row_limit=limit)
