"""The base of backends that map named arrays to named arrays: they write `compute` and inherit stacking and cutting."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.tensors import Array
from workers.backends.assembly import Stacked
from workers.backends.base import Outcome
from workers.backends.ownership import own
from workers.backends.ragged import assembly_of


class TensorInstance(abc.ABC):
    """An `Instance` whose batch is one dict of arrays in, one out.

    Args:
        config: the version's, complete.

    Attributes:
        assembly: stacks its batches and cuts their outputs.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.assembly = assembly_of(config)

    @abc.abstractmethod
    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Run the model once.

        Args:
            inputs: see `assembly.Stacked`; read-only, without optional inputs that the requests leave out, with those of
                `batch_input`.
            outputs: the names that any request wants, in the configuration's order; more may be returned.

        Returns:
            One array per wanted output, of the configured datatype (BF16 as uint16 bits, BYTES as an object array of bytes or str)
            and shape, with all rows in front if the model batches. They may be views of memory that the next call writes to
            (`keep`).
        """

    def prepare(self, requests: Sequence[InferRequest]) -> Stacked:
        """See `Instance.prepare`."""
        return self.assembly.stack(requests)

    def run(self, prepared: Stacked) -> dict[str, Array]:
        """See `Instance.run`."""
        return dict(
            self.compute(prepared.inputs, prepared.outputs)
        )  # a dict that the model keeps would hide its references

    def keep(self, raw: dict[str, Array]) -> dict[str, Array]:
        """See `Instance`; override it to return `raw` if `compute` never reuses the arrays that it returned."""
        return own(raw)

    def split(self, requests: Sequence[InferRequest], raw: Mapping[str, Array]) -> Sequence[Outcome]:
        """See `Instance.split`."""
        return self.assembly.cut(requests, raw)

    def close(self) -> None:  # noqa: B027  # most instances are freed with their last reference
        """See `Instance.close`."""
