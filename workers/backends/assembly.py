"""Stacks requests into one batch of arrays, and cuts a batch's outputs into each request's tensors. Pure.

Invariants: the requests are of one shape class with their inputs in the configuration's order
(`signature.Signature.check_request`); a batch of one is not copied unless its data is unaligned; outputs of more than `SMALL` bytes
are cut as views, so they must not be written to afterwards.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from protocol.errors import CodecError, ModelFailed
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.request_check import fits
from protocol.tensors import NUMPY_DTYPE, Array, Buffer, Tensor, bytes_elements, datatype_of, element_count, pack_bytes

SMALL: Final = 16 * 1024
"""Bytes of an output below which a copy costs less than a view, and does not keep the whole batch in memory."""


@dataclasses.dataclass(slots=True)
class Stacked:
    """The inputs of one batch.

    Attributes:
        inputs: by name, without optional inputs that the requests leave out. Shapes are the model's (`TensorSpec.model_dims`), with
            the rows of all requests in front if it batches. BYTES is an object array of `bytes`, BF16 its bits as uint16. A batch
            of one may be read-only.
        rows: of all requests; 1 if the model does not batch.
        outputs: the names that any request wants, in the configuration's order.
    """

    inputs: dict[str, Array]
    rows: int
    outputs: tuple[str, ...]


class WrongRows(ModelFailed):
    """The first dimension of an output is not the batch."""


class Assembly:
    """Stacks and cuts the batches of one model version.

    Args:
        config: complete.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._model = config.name
        self._batching = config.batching
        self._inputs = {spec.name: spec for spec in config.inputs}
        self._specs = {spec.name: spec for spec in config.outputs}
        self._outputs = {spec.name: _Output(spec, config) for spec in config.outputs}
        self._names = tuple(self._outputs)

    def stack(self, requests: Sequence[InferRequest]) -> Stacked:
        """Stack the requests' inputs, row after row.

        Raises:
            CodecError: a tensor's bytes do not match its shape.
        """
        rows = sum(self.rows_of(requests))
        inputs = {}
        if len(requests) == 1:
            for tensor in requests[0].inputs:
                inputs[tensor.name] = self._alone(tensor)
        elif self._batching:
            for index, tensor in enumerate(requests[0].inputs):
                sizes = to_model(self._inputs[tensor.name], tensor.shape[1:])
                inputs[tensor.name] = join([request.inputs[index] for request in requests], (rows, *sizes))
        else:
            raise ValueError(f"{self._model} does not batch, yet was given {len(requests)} requests at once")
        return Stacked(inputs, rows, self.wanted_outputs(requests))

    def cut(self, requests: Sequence[InferRequest], outputs: Mapping[str, Array]) -> list[tuple[Tensor, ...]]:
        """Each request's rows of the outputs that it wants, in its order (all, in the configuration's order, if it names none).

        Raises:
            ModelFailed: an output is missing or has another datatype, shape or number of rows (`WrongRows`) than it should.
        """
        counts = self.rows_of(requests)
        names = self.wanted_outputs(requests)
        columns = [self._outputs[name].cut(self.output_of(outputs, name), counts) for name in names]
        return deal(requests, names, columns)

    def output_of(self, outputs: Mapping[str, Array], name: str) -> Array:
        """The output of that name.

        Raises:
            ModelFailed: the model did not return it.
        """
        array = outputs.get(name)
        if array is None:
            raise ModelFailed(f"model '{self._model}' returned no output '{name}'; it returned {sorted(outputs)}")
        return array

    def stack_input(self, column: Sequence[Tensor], rows: int) -> Array:
        """One input of all requests, row after row."""
        if len(column) == 1:
            return self._alone(column[0])
        return join(column, (rows, *to_model(self._inputs[column[0].name], column[0].shape[1:])))

    def rows_of(self, requests: Sequence[InferRequest]) -> list[int]:
        """The rows of each request; 1 if the model does not batch or the request has no inputs."""
        if not self._batching:
            return [1] * len(requests)
        return [request.inputs[0].shape[0] if request.inputs else 1 for request in requests]

    def wanted_outputs(self, requests: Sequence[InferRequest]) -> tuple[str, ...]:
        """The outputs that any request wants, in the configuration's order."""
        wanted: set[str] = set()
        for request in requests:
            if not request.outputs:
                return self._names
            wanted.update(request.outputs)
        return tuple([name for name in self._names if name in wanted])

    def _alone(self, tensor: Tensor) -> Array:
        array = tensor.array()
        spec = self._inputs[tensor.name]
        if spec.reshape is not None:
            rows, sizes = (tensor.shape[:1], tensor.shape[1:]) if self._batching else ((), tensor.shape)
            array = array.reshape((*rows, *to_model(spec, sizes)))
        return array if array.flags.aligned else array.copy()


def deal(
    requests: Sequence[InferRequest], names: tuple[str, ...], columns: Sequence[Sequence[Tensor]]
) -> list[tuple[Tensor, ...]]:
    """Each request's tensors in its order, from the outputs' columns, which have one tensor per request."""
    shares: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if columns else [()] * len(requests)
    if [request for request in requests if request.outputs]:
        return [_choose(request, share, names) for request, share in zip(requests, shares, strict=True)]
    return shares


def join(column: Sequence[Tensor], shape: tuple[int, ...]) -> Array:
    """The tensors' elements, one after the other, in this shape.

    Raises:
        CodecError: they are more or fewer.
    """
    datatype = column[0].datatype
    if datatype == "BYTES":
        elements = np.empty(element_count(shape), dtype=object)
        elements[:] = [element for tensor in column for element in bytes_elements(tensor)]
        return elements.reshape(shape)
    # One copy, and for small tensors far cheaper than an array per request and np.concatenate.
    data = bytearray().join([tensor.data for tensor in column])
    try:
        return np.frombuffer(data, NUMPY_DTYPE[datatype]).reshape(shape)
    except ValueError:
        raise CodecError(f"input '{column[0].name}': {len(data)} bytes are not {datatype}{list(shape)}") from None


def to_model(spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """Concrete sizes as the model sees them; variable sizes keep their order (`reshape`). A scalar may come as one."""
    if spec.reshape is None:
        return tuple(sizes)
    return _substitute(spec.dims, spec.reshape, sizes) if spec.reshape else ()


def to_caller(spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """Concrete sizes as callers see them; see `to_model`."""
    return tuple(sizes) if spec.reshape is None else _substitute(spec.reshape, spec.dims, sizes)


def _substitute(source: Sequence[int], target: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    variable = iter([size for size, dim in zip(sizes, source, strict=True) if dim == -1])
    return tuple([next(variable) if dim == -1 else dim for dim in target])


def _choose(request: InferRequest, share: tuple[Tensor, ...], names: tuple[str, ...]) -> tuple[Tensor, ...]:
    if not request.outputs:
        return share
    return tuple([share[names.index(name)] for name in request.outputs])


class _Output:
    """One output of a model: checked, then cut into tensors.

    Outputs look alike: what follows from an array's sizes is remembered, for the last sizes that were accepted.
    """

    __slots__ = ("_batching", "_dtype", "_remembered", "_spec", "_where")

    def __init__(self, spec: TensorSpec, config: ModelConfig) -> None:
        self._spec = spec
        self._batching = config.batching
        self._dtype = NUMPY_DTYPE[spec.datatype]
        self._where = f"model '{config.name}' returned output '{spec.name}'"
        self._remembered: tuple[tuple[int, ...], tuple[int, ...], int] = ((-1,), (), 0)

    def cut(self, array: Array, counts: Sequence[int]) -> list[Tensor]:
        """One tensor per request; `counts` are their rows."""
        spec, batching = self._spec, self._batching
        if not isinstance(array, np.ndarray):
            raise ModelFailed(f"{self._where} as {type(array).__name__}; it must be a NumPy array")
        shape = array.shape
        if batching and (not shape or shape[0] != sum(counts)):
            raise WrongRows(f"{self._where} with shape {list(shape)} for a batch of {sum(counts)} rows")
        dims = shape[1:] if batching else shape
        known, sizes, width = self._remembered
        if dims != known:
            if not fits(dims, spec.model_dims):
                raise ModelFailed(
                    f"{self._where} with dims {list(dims)}; its configuration says {list(spec.model_dims)}"
                )
            sizes = to_caller(spec, dims)
            width = element_count(sizes) * self._dtype.itemsize
            self._remembered = (dims, sizes, width)
        if array.dtype != self._dtype:
            _check_datatype(array, spec.datatype, self._where)
        if spec.datatype == "BYTES":
            return self._texts(array, sizes, counts)
        data = pack(array, self._dtype)
        if not batching:
            return [Tensor(spec.name, spec.datatype, sizes, data)]
        tensors, start = [], 0
        for count in counts:
            end = start + count * width
            tensors.append(Tensor(spec.name, spec.datatype, (count, *sizes), data[start:end]))
            start = end
        return tensors

    def _texts(self, array: Array, sizes: tuple[int, ...], counts: Sequence[int]) -> list[Tensor]:
        if array.dtype == object:
            _check_elements(array, self._where)
        if not self._batching:
            return [Tensor(self._spec.name, "BYTES", sizes, pack_bytes(array.ravel().tolist()))]
        spans = itertools.pairwise(itertools.accumulate(counts, initial=0))
        return [
            Tensor(self._spec.name, "BYTES", (end - start, *sizes), pack_bytes(array[start:end].ravel().tolist()))
            for start, end in spans
        ]


def check_array(array: object, dtype: np.dtype[Any], datatype: str, where: str) -> None:
    """Check that a model's output is an array of that datatype.

    Raises:
        ModelFailed: it is not.
    """
    if not isinstance(array, np.ndarray):
        raise ModelFailed(f"{where} as {type(array).__name__}; it must be a NumPy array")
    if array.dtype != dtype:
        _check_datatype(array, datatype, where)
    if datatype == "BYTES":
        _check_elements(array, where)


def _check_datatype(array: Array, expected: str, where: str) -> None:
    """Accept text of any kind and numbers of any byte order."""
    try:
        datatype = datatype_of(array.dtype)
    except CodecError:
        datatype = str(array.dtype)
    if datatype != expected:
        raise ModelFailed(f"{where} as {datatype}; its configuration says {expected}")


def pack(array: Array, dtype: np.dtype[Any]) -> Buffer:
    """The array's numbers as a tensor's data: a view, unless it is small, not row-major or not little-endian."""
    if array.nbytes <= SMALL:
        return array.astype(dtype, copy=False).tobytes()
    return np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def _check_elements(array: Array, where: str) -> None:
    """Refuse elements that are not bytes or str: `bytes(7)` would be seven zeros."""
    if array.dtype == object:
        for element in array.flat:
            if not isinstance(element, bytes | str):
                raise ModelFailed(f"{where} with an element of type {type(element).__name__}; BYTES holds bytes or str")
