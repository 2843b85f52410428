"""Runs a PyTorch program with zeros to learn its outputs' names, datatypes and shapes, and whether it batches.

The rule: a model that may batch gets 2 rows of zeros, then 3 (as far as its file allows), and a size that may vary gets two values
(the first pair of `_SIZES` that the model accepts, without those that make inputs of more than `MAX_ELEMENTS`). A size of an
output that differs between the two runs is any size. The model batches if the first size of every output was the number of rows.
Otherwise it is run with exactly the stated shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.example_shapes import MAX_ELEMENTS
from protocol.model_config import TensorSpec
from workers.repository.completion import BackendMetadata
from workers.repository.torch_files import pytrees
from workers.repository.torch_files.signature import ANY, ProgramTensor, Size

Run = Callable[[Mapping[str, Any]], Any]
"""A program, called with tensors by name."""
_ROWS: Final = (2, 3)
_SIZES: Final = ((8, 9), (64, 96), (224, 256), (1, 1))
_TORCH: Final = {
    "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32",
    "FP64": "float64", "BOOL": "bool", "BF16": "bfloat16", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
}  # fmt: skip
"""The name of torch's dtype for each V2 datatype that it has."""
_DATATYPES: Final = {name: datatype for datatype, name in _TORCH.items()}

Shapes = Sequence[tuple[int, ...]]


def probe_rows(run: Run, inputs: Sequence[ProgramTensor]) -> BackendMetadata:
    """Metadata with the outputs of a model that batches.

    Args:
        run: the program.
        inputs: with their whole shapes; the first sizes are taken for rows, of any number if they are stated.

    Raises:
        ConfigError: the model does not run with rows of zeros, or its outputs do not have as many rows.
    """
    if not inputs or not all(tensor.sizes for tensor in inputs):
        raise ConfigError("an input has no dimension for rows")
    batched = [_with_rows(tensor) for tensor in inputs]
    limit = min((tensor.sizes[0].most for tensor in batched if tensor.sizes[0].most), default=0)
    outputs = _outputs(run, batched, _row_pair(limit))
    for tensor in outputs:
        if not tensor.sizes or tensor.sizes[0].symbol != "rows":
            raise ConfigError(f"its output '{tensor.name}' does not have as many rows as its inputs")
    sides = [
        tuple(dataclasses.replace(tensor.spec, dims=tensor.spec.dims[1:]) for tensor in side)
        for side in (inputs, outputs)
    ]
    return BackendMetadata(sides[0], sides[1], True, row_limit=limit)


def probe_alone(run: Run, inputs: Sequence[ProgramTensor]) -> BackendMetadata:
    """Metadata with the outputs of a model that runs with exactly these shapes.

    Raises:
        ConfigError: it does not; quotes its reason.
    """
    outputs = _outputs(run, inputs, None)
    return BackendMetadata(tuple(each.spec for each in inputs), tuple(each.spec for each in outputs), False)


def named_outputs(raw: Any) -> dict[str, Any]:
    """A program's outputs by name, without those that are None."""
    found = list(pytrees.leaves(raw))
    names = pytrees.names_of([path for path, _ in found])
    return {name: value for name, (_, value) in zip(names, found, strict=True) if value is not None}


def reason(error: BaseException) -> str:
    """The sentence of torch's text that says what is wrong: the last of TorchScript's traceback, else the first."""
    lines = [line for line in str(error).partition("\nException raised from")[0].splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]).strip()


def _with_rows(tensor: ProgramTensor) -> ProgramTensor:
    first = tensor.sizes[0]
    return dataclasses.replace(tensor, sizes=(first if first.value == ANY else Size(), *tensor.sizes[1:]))


def _row_pair(limit: int) -> tuple[int, int]:
    return _ROWS if not limit or limit >= max(_ROWS) else (1, 2)


def _outputs(run: Run, inputs: Sequence[ProgramTensor], rows: tuple[int, int] | None) -> tuple[ProgramTensor, ...]:
    """The outputs, with whole shapes; a first size that follows the rows has the symbol "rows"."""
    problem: BaseException | None = None
    free = any(size.value == ANY for tensor in inputs for size in tensor.sizes[0 if rows is None else 1 :])
    for pair in _SIZES:
        first, second = (_shapes(inputs, size, None if rows is None else rows[turn]) for turn, size in enumerate(pair))
        if free and pair != _SIZES[-1] and sum(map(math.prod, second)) > MAX_ELEMENTS:
            continue  # memory must not run out for a size that nobody asked for
        try:
            one = _run(run, inputs, first)
            two = one if second == first else _run(run, inputs, second)
        except ConfigError:
            raise
        except Exception as error:  # whatever a model raises
            problem = problem or error
            if not free:
                break
            continue
        if list(one) != list(two):
            raise ConfigError(f"it returns other outputs for other sizes: {', '.join(one)}, then {', '.join(two)}")
        return tuple(_merged(name, one[name], two[name], rows) for name in one)
    shown = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.spec.dims)}" for tensor in inputs)
    assert problem is not None
    raise ConfigError(f"it does not run with zeros as its inputs ({shown}): {reason(problem)}") from problem


def _shapes(inputs: Sequence[ProgramTensor], size: int, rows: int | None) -> Shapes:
    def fitting(bound: Size) -> int:
        if bound.value != ANY:
            return bound.value
        return max(bound.least, min(size, bound.most) if bound.most else size)

    shapes = []
    for tensor in inputs:
        sizes = [fitting(bound) for bound in tensor.sizes]
        shapes.append(tuple(sizes if rows is None else [rows, *sizes[1:]]))
    return shapes


def _run(run: Run, inputs: Sequence[ProgramTensor], shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape of each output."""
    import torch

    tensors = {
        tensor.name: torch.zeros(shape, dtype=_torch_dtype(torch, tensor))
        for tensor, shape in zip(inputs, shapes, strict=True)
    }
    with torch.inference_mode():
        found = named_outputs(run(tensors))
    return {name: (_datatype(name, value), tuple(value.shape)) for name, value in found.items()}


def _torch_dtype(torch: Any, tensor: ProgramTensor) -> Any:
    if tensor.datatype not in _TORCH:
        raise ConfigError(f"input '{tensor.name}' is {tensor.datatype}, which PyTorch does not have")
    return getattr(torch, _TORCH[tensor.datatype])


def _datatype(name: str, value: Any) -> str:
    if not hasattr(value, "detach"):
        raise ConfigError(
            f"it returns output '{name}' as {type(value).__name__}, not as a tensor; export a wrapper that returns tensors only"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _DATATYPES:
        raise ConfigError(
            f"it returns output '{name}' as {dtype}, which the V2 protocol does not have; convert it in forward"
        )
    return _DATATYPES[dtype]


def _merged(
    name: str, one: tuple[str, tuple[int, ...]], two: tuple[str, tuple[int, ...]], rows: tuple[int, int] | None
) -> ProgramTensor:
    (datatype, first), (_, second) = one, two
    if one[0] != two[0] or len(first) != len(second):
        raise ConfigError(f"it returns output '{name}' with another datatype or rank for other sizes of its inputs")
    sizes = [Size(left) if left == right else Size() for left, right in zip(first, second, strict=True)]
    if rows is not None and sizes and (first[0], second[0]) == rows:
        sizes[0] = Size(symbol="rows")
    return ProgramTensor(name, datatype, tuple(sizes))


def tensors_of(specs: Sequence[TensorSpec], *, rows: bool) -> Iterator[ProgramTensor]:
    """Stated inputs as a program's, with rows in front if there are any."""
    for spec in specs:
        sizes = tuple(Size(size) for size in spec.model_dims)
        yield ProgramTensor(spec.name, spec.datatype, (Size(), *sizes) if rows else sizes)
