"""What the inputs of one model version must look like; gives the rows and the shape class of a request.

A gateway has checked the requests that it publishes; a producer that writes to the topic itself has nobody else to check it.
Requests look alike, so the verdict is remembered per (names, datatypes, shapes, wanted outputs) and costs one look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from protocol.config_parts import TensorSpec
from protocol.errors import MAX_QUOTED, InvalidArgument
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig

MAX_REMEMBERED: Final = 1024
"""Distinct signatures kept; models with free sizes would fill any memory."""

_Key = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]


class Shape(NamedTuple):
    """What the scheduler needs to know of a request.

    Attributes:
        rows: batch elements, 1 for a model that does not batch.
        shape_class: equal ones may share a batch: per configured input its sizes without the batch dimension, or `-`.
        order: the indices of the request's inputs in the configuration's order; None where they are in it.
    """

    rows: int
    shape_class: str
    order: tuple[int, ...] | None


class Signature:
    """The check of one model version's requests."""

    def __init__(self, config: ModelConfig) -> None:
        self._model = config.name
        self._max_rows = config.max_batch_size
        self._batching = config.batching
        self._inputs = config.inputs
        self._output_names = frozenset(spec.name for spec in config.outputs)
        self._expected = {spec.name: config.shape_of(spec) for spec in config.inputs}
        self._remembered: dict[_Key, Shape] = {}

    def read(self, request: InferRequest) -> Shape:
        """The request's shape; puts its inputs into the configuration's order.

        Raises:
            InvalidArgument: it does not fit the model, in Triton's words where it has some.
        """
        key = (request.outputs, tuple([(t.name, t.datatype, t.shape) for t in request.inputs]))
        shape = self._remembered.get(key)
        if shape is None:
            shape = self._judge(request)
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = shape
        if shape.order is not None:
            request.inputs = tuple([request.inputs[index] for index in shape.order])
        return shape

    def _judge(self, request: InferRequest) -> Shape:
        index_by_name = {tensor.name: index for index, tensor in enumerate(request.inputs)}
        self._check_names(request, index_by_name)
        order = [index_by_name[spec.name] for spec in self._inputs if spec.name in index_by_name]
        rows, classes = 0, []
        for spec in self._inputs:
            if spec.name not in index_by_name:
                classes.append("-")
                continue
            tensor = request.inputs[index_by_name[spec.name]]
            if tensor.datatype != spec.datatype:
                raise InvalidArgument(
                    f"inference input '{spec.name}' data-type is '{tensor.datatype}', but model '{self._model}' "
                    f"expects '{spec.datatype}'"
                )
            rows = self._check_shape(spec, tensor.shape, rows)
            sizes = tensor.shape[1:] if self._batching else tensor.shape
            classes.append("x".join(map(str, sizes)))
        in_order = order == list(range(len(order)))
        return Shape(rows or 1, ",".join(classes), None if in_order else tuple(order))

    def _check_names(self, request: InferRequest, index_by_name: dict[str, int]) -> None:
        if len(index_by_name) != len(request.inputs):
            names = [tensor.name for tensor in request.inputs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidArgument(f"input '{twice[:MAX_QUOTED]}' already exists in request")
        unknown = [name for name in index_by_name if name not in self._expected]
        if unknown:
            raise InvalidArgument(
                f"unexpected inference input '{unknown[0][:MAX_QUOTED]}', allowed inputs are: {', '.join(self._expected)}"
            )
        missing = [spec.name for spec in self._inputs if not spec.optional and spec.name not in index_by_name]
        if missing or not index_by_name:
            raise InvalidArgument(
                f"expected {len(self._inputs)} inputs but got {len(index_by_name)} inputs for model '{self._model}'. "
                f"Got input(s) {list(index_by_name)}, but missing required input(s) {missing}. "
                "Please provide all required input(s)."
            )
        for name in request.outputs:
            if name not in self._output_names:
                raise InvalidArgument(
                    f"unexpected inference output '{name[:MAX_QUOTED]}', "
                    f"allowed outputs are: {', '.join(sorted(self._output_names))}"
                )
        if len(set(request.outputs)) != len(request.outputs):
            raise InvalidArgument(f"an output of {list(request.outputs)} already exists in request")

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], rows: int) -> int:
        """The rows of the request so far (0 before the first input of a batching model)."""
        expected = self._expected[spec.name]
        if not fits(shape, expected):
            raise InvalidArgument(
                f"unexpected shape for input '{spec.name}' for model '{self._model}'. "
                f"Expected {list(expected)}, got {list(shape)}."
                + (" NOTE: Setting a non-zero max_batch_size requires a batch dimension." if self._batching else "")
            )
        if not self._batching:
            return rows
        if not 1 <= shape[0] <= self._max_rows:
            raise InvalidArgument(
                f"inference request batch-size must be between 1 and {self._max_rows} for '{self._model}', got {shape[0]}"
            )
        if rows and shape[0] != rows:
            raise InvalidArgument(f"input '{spec.name}' batch size does not match other inputs for '{self._model}'")
        return shape[0]


def fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether the shape is one of those that `expected`, with -1 for any size, describes."""
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )
