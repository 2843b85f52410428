"""Stacks requests of different shapes into one batch, tells the model their shapes, and cuts its outputs by them. Pure.

Invariants: see `assembly`; a ragged input is always one flat tensor, also in a batch of one request; what a `batch_input` holds is
counted per request, or per row for the kinds that hold shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from protocol.errors import ModelFailed
from protocol.messages import InferRequest
from protocol.model_config import BatchInput, BatchInputKind, ModelConfig, TensorSpec
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, element_count, pack_bytes
from workers.backends.assembly import Assembly, Stacked, check_array, deal, join, pack

_Shapes = Sequence[tuple[int, ...]]
"""Of the source input in each request, with its rows in front."""


def assembly_of(config: ModelConfig) -> Assembly:
    """The assembly that a complete configuration asks for."""
    special = config.ragged or config.batch_inputs or config.batch_outputs
    return RaggedAssembly(config) if special else Assembly(config)


class RaggedAssembly(Assembly):
    """See `Assembly`.

    Args:
        config: complete.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._flat = {spec.name for spec in config.inputs if spec.allow_ragged_batch and config.batching}
        self._made = config.batch_inputs
        self._scattered = {
            name: _Scatter(self._specs[name], cut.sources[0], config)
            for cut in config.batch_outputs
            for name in cut.targets
        }

    def stack(self, requests: Sequence[InferRequest]) -> Stacked:
        """See `Assembly.stack`; the inputs are followed by those that `batch_input` makes."""
        inputs: dict[str, Array] = {}
        rows = sum(self.rows_of(requests))
        for index, tensor in enumerate(requests[0].inputs):
            column = [request.inputs[index] for request in requests]
            if tensor.name in self._flat:
                total = sum([element_count(each.shape) for each in column])
                inputs[tensor.name] = join(column, (total,))
            else:
                inputs[tensor.name] = self.stack_input(column, rows)
        for made in self._made:
            shapes = shapes_of(requests, made.sources[0], batching=self._batching)
            for name in made.targets:
                inputs[name] = batch_input(made, shapes)
        return Stacked(inputs, rows, self.wanted_outputs(requests))

    def cut(self, requests: Sequence[InferRequest], outputs: Mapping[str, Array]) -> list[tuple[Tensor, ...]]:
        """See `Assembly.cut`; outputs of a `batch_output` are cut by the shapes of their inputs."""
        names, counts = self.wanted_outputs(requests), self.rows_of(requests)
        columns = []
        for name in names:
            array = self.output_of(outputs, name)
            scatter = self._scattered.get(name)
            columns.append(self._outputs[name].cut(array, counts) if scatter is None else scatter.cut(array, requests))
        return deal(requests, names, columns)


def shapes_of(requests: Sequence[InferRequest], name: str, *, batching: bool) -> list[tuple[int, ...]]:
    """The shape of an input in each request, with the rows in front (1 if the model does not batch); (0,) if it is left out."""
    shapes = []
    for request in requests:
        shape = next((tensor.shape for tensor in request.inputs if tensor.name == name), None)
        shapes.append((0,) if shape is None else shape if batching else (1, *shape))
    return shapes


def batch_input(made: BatchInput, shapes: _Shapes) -> Array:
    """The tensor that a `batch_input` describes."""
    return _MAKERS[made.kind](shapes).astype(NUMPY_DTYPE[made.datatype])


def _counts(shapes: _Shapes) -> Array:
    return np.array([element_count(shape) for shape in shapes])


def _items(shapes: _Shapes) -> Array:
    return np.array([shape[1:] for shape in shapes for _ in range(shape[0])])


_MAKERS: Final[dict[BatchInputKind, Callable[[_Shapes], Array]]] = {
    BatchInputKind.ELEMENT_COUNT: _counts,
    BatchInputKind.ACCUMULATED_ELEMENT_COUNT: lambda shapes: np.cumsum(_counts(shapes)),
    BatchInputKind.ACCUMULATED_ELEMENT_COUNT_WITH_ZERO: lambda shapes: np.concatenate(
        ([0], np.cumsum(_counts(shapes)))
    ),
    BatchInputKind.MAX_ELEMENT_COUNT_AS_SHAPE: lambda shapes: np.zeros(_counts(shapes).max()),
    BatchInputKind.ITEM_SHAPE: _items,
    BatchInputKind.ITEM_SHAPE_FLATTEN: lambda shapes: _items(shapes).ravel(),
}


class _Scatter:
    """One output that is cut by the shape of an input."""

    def __init__(self, spec: TensorSpec, source: str, config: ModelConfig) -> None:
        self._spec = spec
        self._source = source
        self._batching = config.batching
        self._dtype = NUMPY_DTYPE[spec.datatype]
        self._where = f"model '{config.name}' returned output '{spec.name}'"

    def cut(self, array: Array, requests: Sequence[InferRequest]) -> list[Tensor]:
        """One tensor per request."""
        check_array(array, self._dtype, self._spec.datatype, self._where)
        shapes = [self._shape(shape) for shape in shapes_of(requests, self._source, batching=self._batching)]
        sizes = [element_count(shape) for shape in shapes]
        if array.size != sum(sizes):
            raise ModelFailed(
                f"{self._where} with {array.size} elements; by the shapes of input '{self._source}' it must have {sum(sizes)}"
            )
        flat = array.reshape(-1)
        spans = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        return [
            Tensor(self._spec.name, self._spec.datatype, shape, self._data(flat[start:end]))
            for shape, (start, end) in zip(shapes, spans, strict=True)
        ]

    def _data(self, elements: Array) -> bytes:
        if self._spec.datatype == "BYTES":
            return pack_bytes(elements.tolist())
        return bytes(pack(elements, self._dtype))

    def _shape(self, source: tuple[int, ...]) -> tuple[int, ...]:
        """The output's shape in one request: variable dims have the sizes of the same dims of the source."""
        rows, sizes = source[0], source[1:]
        dims = [sizes[index] if dim == -1 and sizes else max(dim, 0) for index, dim in enumerate(self._spec.dims)]
        return (rows, *dims) if self._batching else tuple(dims)
