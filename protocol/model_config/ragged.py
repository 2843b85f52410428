"""Tensors that go with ragged batches: `batch_input` says what a model is told about its batch, `batch_output` how its output is
cut. Pure.

In a ragged batch, requests of different shapes run together; the model gets their elements one after the other, as one flat tensor.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.model_config.document import Document
from protocol.model_config.parts import DATATYPE, TYPE_NAME, TensorSpec

DATATYPES: Final = ("INT32", "FP32")
"""Of batch inputs."""


class BatchInputKind(enum.StrEnum):
    """What a batch input holds; `n` is the number of requests, `elements` those of the source input in one request."""

    ELEMENT_COUNT = "BATCH_ELEMENT_COUNT"
    """[n]: the elements of each request."""
    ACCUMULATED_ELEMENT_COUNT = "BATCH_ACCUMULATED_ELEMENT_COUNT"
    """[n]: the elements of each request and those before it."""
    ACCUMULATED_ELEMENT_COUNT_WITH_ZERO = "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO"
    """[n + 1]: the same, after a 0."""
    MAX_ELEMENT_COUNT_AS_SHAPE = "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE"
    """[the most elements of a request]: zeros, only the shape counts."""
    ITEM_SHAPE = "BATCH_ITEM_SHAPE"
    """[rows, rank]: the shape of each row."""
    ITEM_SHAPE_FLATTEN = "BATCH_ITEM_SHAPE_FLATTEN"
    """[rows * rank]: the same, flat."""


class BatchOutputKind(enum.StrEnum):
    """How an output of a ragged batch is cut."""

    SCATTER_WITH_INPUT_SHAPE = "BATCH_SCATTER_WITH_INPUT_SHAPE"
    """Each request gets as many elements as its source input has where the output's dims are variable."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchInput:
    """Tensors that the batcher makes from the shapes of one input of the batch's requests.

    Attributes:
        kind: what they hold.
        targets: their names in the model.
        datatype: INT32 or FP32; "" if the file omits it.
        sources: the input, exactly one in a valid configuration.
    """

    kind: BatchInputKind
    targets: tuple[str, ...]
    datatype: str
    sources: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> BatchInput:
        """Read a `batch_input`."""
        return cls(
            BatchInputKind(document.choice("kind", tuple(BatchInputKind))),
            document.texts("target_name"),
            DATATYPE[document.choice("data_type", tuple(DATATYPE))],
            document.texts("source_input"),
        )

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `BatchInput`."""
        return {
            "kind": self.kind.value,
            "target_name": list(self.targets),
            "data_type": TYPE_NAME.get(self.datatype, "TYPE_INVALID"),
            "source_input": list(self.sources),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class BatchOutput:
    """Outputs that are cut by the shapes of one input; see `BatchInput`."""

    kind: BatchOutputKind
    targets: tuple[str, ...]
    sources: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> BatchOutput:
        """Read a `batch_output`."""
        kind = BatchOutputKind(document.choice("kind", tuple(BatchOutputKind)))
        return cls(kind, document.texts("target_name"), document.texts("source_input"))

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON of a `BatchOutput`."""
        return {
            "target_name": list(self.targets),
            "kind": self.kind.value,
            "source_input": list(self.sources),
        }


def check_batch_io(
    batch_inputs: Sequence[BatchInput],
    batch_outputs: Sequence[BatchOutput],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    model: str,
) -> None:
    """Check what needs no batch size, in Triton's words where it has some.

    Args:
        batch_inputs: of the file.
        batch_outputs: of the file.
        inputs: of the file; without any, names are not checked.
        outputs: likewise.
        model: for the message.

    Raises:
        ConfigError: names the rule and the model.
    """
    taken = {spec.name for spec in inputs}
    for made in batch_inputs:
        _check_source(f"batch input kind '{made.kind.value}'", made.sources, made.targets, inputs, model)
        if made.datatype not in DATATYPES:
            raise ConfigError(f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {model}")
        for name in made.targets:
            if not name or name in taken:
                raise ConfigError(f"batch input target name '{name}' is empty or already taken by an input for {model}")
            taken.add(name)
    known, cut_already = {spec.name for spec in outputs}, set[str]()
    for cut in batch_outputs:
        _check_source(f"batch output kind '{cut.kind.value}'", cut.sources, cut.targets, inputs, model)
        for name in cut.targets:
            if known and name not in known:
                raise ConfigError(f"unknown target output name '{name}' for {model}")
            if name in cut_already:
                raise ConfigError(f"output '{name}' is the target of two batch outputs for {model}")
            cut_already.add(name)


def _check_source(
    what: str, sources: Sequence[str], targets: Sequence[str], inputs: Sequence[TensorSpec], model: str
) -> None:
    if len(sources) != 1:
        raise ConfigError(f"{what} expects 1 source input, got {len(sources)} for {model}")
    if inputs and sources[0] not in {spec.name for spec in inputs}:
        raise ConfigError(f"unknown source input name '{sources[0]}' for {model}")
    if not targets:
        raise ConfigError(f"{what} must specify 'target_name' for {model}")


def check_scatters(batch_outputs: Sequence[BatchOutput], specs: Mapping[str, TensorSpec], model: str) -> None:
    """Check that each output's variable dims have their counterparts in its source input.

    Args:
        batch_outputs: of the file.
        specs: inputs and outputs by name.
        model: for the message.

    Raises:
        ConfigError: names the output.
    """
    for cut in batch_outputs:
        for name in cut.targets:
            source, target = specs[cut.sources[0]], specs[name]
            last = max((index for index, dim in enumerate(target.dims) if dim == -1), default=-1)
            if last >= len(source.dims):
                raise ConfigError(
                    f"output '{name}' has a variable dimension {last}, and its source input '{source.name}' has only "
                    f"{len(source.dims)} dims for {model}"
                )
