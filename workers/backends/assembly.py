"""Stacks requests into one batch of arrays, and cuts a batch's outputs into each request's tensors. Pure.

Invariants: the requests are of one shape class with their inputs in the configuration's order
(`signature.Signature.check_request`); a batch of one is not copied unless its data is unaligned; outputs are cut as views, so they
must not be written to afterwards.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from protocol.errors import CodecError, ModelFailed
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.request_check import fits
from protocol.tensors import NUMPY_DTYPE, Array, Buffer, Tensor, bytes_elements, datatype_of, element_count, pack_bytes

_BITS: Final = np.dtype("<u2")


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


def stack(requests: Sequence[InferRequest], config: ModelConfig) -> Stacked:
    """Stack the requests' inputs, row after row.

    Raises:
        CodecError: a tensor's bytes do not match its shape.
    """
    if not config.batching and len(requests) != 1:
        raise ValueError(f"{config.name} does not batch, yet was given {len(requests)} requests at once")
    first = requests[0]
    rows = sum(rows_of(requests, config))
    inputs = {}
    for index, tensor in enumerate(first.inputs):
        spec = config.input(tensor.name)
        assert spec is not None  # the signature refuses unknown inputs
        column = [request.inputs[index] for request in requests]
        shape = to_model(spec, tensor.shape[1:] if config.batching else tensor.shape)
        inputs[tensor.name] = _join(column, (rows, *shape) if config.batching else shape)
    return Stacked(inputs, rows, wanted_outputs(requests, config))


def rows_of(requests: Sequence[InferRequest], config: ModelConfig) -> list[int]:
    """The rows of each request; 1 if the model does not batch or the request has no inputs."""
    if not config.batching:
        return [1] * len(requests)
    return [request.inputs[0].shape[0] if request.inputs else 1 for request in requests]


def wanted_outputs(requests: Sequence[InferRequest], config: ModelConfig) -> tuple[str, ...]:
    """The outputs that any request wants, in the configuration's order."""
    names = tuple([spec.name for spec in config.outputs])
    wanted: set[str] = set()
    for request in requests:
        if not request.outputs:
            return names
        wanted.update(request.outputs)
    return tuple([name for name in names if name in wanted])


def _join(column: Sequence[Tensor], shape: tuple[int, ...]) -> Array:
    datatype = column[0].datatype
    if datatype == "BYTES":
        elements = np.empty(element_count(shape), dtype=object)
        elements[:] = [element for tensor in column for element in bytes_elements(tensor)]
        return elements.reshape(shape)
    if len(column) == 1:
        array = column[0].array().reshape(shape)
        return array if array.flags.aligned else array.copy()
    # One copy, and for small tensors far cheaper than an array per request and np.concatenate.
    data = bytearray().join([tensor.data for tensor in column])
    try:
        return np.frombuffer(data, NUMPY_DTYPE[datatype]).reshape(shape)
    except ValueError:
        raise CodecError(f"input '{column[0].name}': {len(data)} bytes are not {datatype}{list(shape)}") from None


def to_model(spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """Concrete sizes as the model sees them; variable sizes keep their order (`reshape`)."""
    return tuple(sizes) if spec.reshape is None else _substitute(spec.dims, spec.reshape, sizes)


def to_caller(spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
    """Concrete sizes as callers see them; see `to_model`."""
    return tuple(sizes) if spec.reshape is None else _substitute(spec.reshape, spec.dims, sizes)


def _substitute(source: Sequence[int], target: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    variable = iter([size for size, dim in zip(sizes, source, strict=True) if dim == -1])
    return tuple([next(variable) if dim == -1 else dim for dim in target])


def cut(
    requests: Sequence[InferRequest], outputs: Mapping[str, Array], config: ModelConfig
) -> list[tuple[Tensor, ...]]:
    """Each request's rows of the outputs that it wants, in its order (all, in the configuration's order, if it names none).

    Raises:
        ModelFailed: an output is missing or has another datatype, shape or number of rows than the configuration says.
    """
    counts = rows_of(requests, config) if config.batching else None
    names = wanted_outputs(requests, config)
    columns: list[list[Tensor]] = []
    for name in names:
        spec = config.output(name)
        assert spec is not None
        array = outputs.get(name)
        if array is None:
            raise ModelFailed(f"model '{config.name}' returned no output '{name}'; it returned {sorted(outputs)}")
        _check_output(spec, array, None if counts is None else sum(counts), config.name)
        columns.append(_split(spec, array, counts))
    shares: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if columns else [()] * len(requests)
    if any(request.outputs for request in requests):
        return [_choose(request, share, names) for request, share in zip(requests, shares, strict=True)]
    return shares


def _choose(request: InferRequest, share: tuple[Tensor, ...], names: tuple[str, ...]) -> tuple[Tensor, ...]:
    if not request.outputs:
        return share
    return tuple([share[names.index(name)] for name in request.outputs])


def _check_output(spec: TensorSpec, array: Array, rows: int | None, model: str) -> None:
    where = f"model '{model}' returned output '{spec.name}'"
    if not isinstance(array, np.ndarray):
        raise ModelFailed(f"{where} as {type(array).__name__}; it must be a NumPy array")
    shape = array.shape
    if rows is not None:
        if not shape or shape[0] != rows:
            raise ModelFailed(f"{where} with shape {list(shape)} for a batch of {rows} rows")
        shape = shape[1:]
    if not fits(shape, spec.model_dims):
        raise ModelFailed(f"{where} with dims {list(shape)}; its configuration says {list(spec.model_dims)}")
    if spec.datatype == "BF16" and array.dtype == _BITS:
        return
    try:
        datatype = datatype_of(array.dtype)
    except CodecError:
        datatype = str(array.dtype)
    if datatype != spec.datatype:
        raise ModelFailed(f"{where} as {datatype}; its configuration says {spec.datatype}")
    if datatype == "BYTES":
        _check_elements(array, where)


def _split(spec: TensorSpec, array: Array, counts: Sequence[int] | None) -> list[Tensor]:
    """One tensor per request; `counts` are their rows, None if the model does not batch."""
    if counts is None:
        sizes = to_caller(spec, array.shape)
        return [Tensor(spec.name, spec.datatype, sizes, _pack(spec, array))]
    sizes = to_caller(spec, array.shape[1:])
    spans = list(itertools.pairwise(itertools.accumulate(counts, initial=0)))
    data: list[Buffer]
    if spec.datatype == "BYTES":
        data = [_pack(spec, array[start:end]) for start, end in spans]
    else:
        raw = _pack(spec, array)
        width = NUMPY_DTYPE[spec.datatype].itemsize * element_count(sizes)
        data = [raw[start * width : end * width] for start, end in spans]
    name, datatype = spec.name, spec.datatype
    return [Tensor(name, datatype, (count, *sizes), piece) for count, piece in zip(counts, data, strict=True)]


def _pack(spec: TensorSpec, array: Array) -> Buffer:
    """The array as a tensor's data: a view, unless it is BYTES, not row-major or not little-endian."""
    if spec.datatype == "BYTES":
        return pack_bytes(array.ravel().tolist())
    flat = np.ascontiguousarray(array, NUMPY_DTYPE[spec.datatype]).reshape(-1)
    return flat.view(np.uint8).data if flat.size else b""


def _check_elements(array: Array, where: str) -> None:
    """Refuse elements that are not bytes or str: `bytes(7)` would be seven zeros."""
    if array.dtype == object:
        for element in array.flat:
            if not isinstance(element, bytes | str):
                raise ModelFailed(f"{where} with an element of type {type(element).__name__}; BYTES holds bytes or str")
