"""Whether the rows of a batch influence each other, judged by a model's answers to made-up rows. Pure.

A first dimension of any size is usually the batch, but it may be a sequence, a set of points, or the rows of a normalisation. Such
a model answers a row differently when another one is beside it, so requests must not share its runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from protocol import bfloat16
from protocol.example_shapes import MAX_ELEMENTS, Shapes, candidates
from protocol.messages import InferRequest
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.random_values import INTEGERS, random_values
from protocol.tensors import NUMPY_DTYPE, Array, Tensor, from_array
from workers.repository.completion import BackendMetadata

ROWS: Final = 2
"""Rows that run together: enough for any to influence another."""
SIZE: Final = 8
"""The first that is tried for dimensions of any size: few models refuse it, and with one element all rows may look alike."""
GUESSING: Final = frozenset({"onnxruntime", "pytorch"})
"""Backends whose `BackendMetadata.batchable` only says that the first dimensions may have any size."""
_SEED: Final = 20
_TOLERANCE: Final = {
    "FP64": (0.02, 1e-4), "FP32": (0.02, 1e-4), "FP16": (0.03, 1e-2), "BF16": (0.05, 2e-2), "INT8": (0.03, 2e-2),
    "UINT8": (0.03, 2e-2),
}  # fmt: skip
"""How much an output may change: a share of the span of its values, plus a share of the largest. Kernels for several rows round
differently, and a model with dynamic quantisation shares its scales among the rows. Other datatypes must be equal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs showed; with both texts empty, the rows are independent.

    Attributes:
        influence: how a row influences another.
        unjudged: why nothing could be seen.
        shapes: inputs that the model took, by name, with their rows in front; None if it took none.
        unsteady: nothing could be seen because the same row was answered differently when it ran again.
    """

    influence: str = ""
    unjudged: str = ""
    shapes: Shapes | None = None
    unsteady: bool = False


def batching_is_guessed(config: ModelConfig, metadata: BackendMetadata | None) -> bool:
    """Whether nobody says that the model batches, neither its configuration nor its file.

    Inputs alone do not say it: `--input` states them without rows, which somebody supposes to be in front.

    Args:
        config: as stated, before it is completed.
        metadata: of the model's file.
    """
    stated = (
        config.batch_size_stated or config.outputs or config.dynamic_batching or config.warmups or config.batch_inputs
        or config.batch_outputs or any(spec.allow_ragged_batch for spec in config.inputs)
    )  # fmt: skip
    guessed = metadata is not None and metadata.batchable and not metadata.max_batch_size
    return guessed and config.backend in GUESSING and not stated


def unbatched(config: ModelConfig) -> ModelConfig:
    """The configuration, before it is completed, of a model whose first dimensions are its own, also those of stated inputs."""
    inputs = [dataclasses.replace(spec, dims=(-1, *spec.model_dims), reshape=None) for spec in config.inputs]
    return dataclasses.replace(config, max_batch_size=0, batch_size_stated=True, inputs=tuple(inputs))


def made_up_rows(config: ModelConfig) -> Iterator[tuple[InferRequest, ...]]:
    """`ROWS` different requests of one row, for each choice of sizes that is worth a try; always the same ones.

    Args:
        config: complete, of a model that batches.
    """
    specs = [spec for spec in config.inputs if not spec.optional] or config.inputs
    first = {spec.name: (1, *(SIZE if dim == -1 else dim for dim in spec.dims)) for spec in specs}
    others = candidates({spec.name: config.shape_of(spec) for spec in specs})
    for shapes in (first, *(other for other in others if other != first)):
        if sum(map(math.prod, shapes.values())) <= MAX_ELEMENTS:
            yield _requests(config.name, specs, [shapes[spec.name] for spec in specs])


def _requests(model: str, specs: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]]) -> tuple[InferRequest, ...]:
    generator = np.random.default_rng(_SEED)
    tensors = [
        [
            _tensor(spec, _values(spec.datatype, shape, row, generator))
            for spec, shape in zip(specs, shapes, strict=True)
        ]
        for row in range(ROWS)
    ]
    return tuple(InferRequest(f"batching-{row}", model, "", tuple(inputs)) for row, inputs in enumerate(tensors))


def _tensor(spec: TensorSpec, values: Array) -> Tensor:
    """Read-only: a model that writes to its inputs must not change a row that runs again."""
    values.flags.writeable = False
    return from_array(spec.name, values, spec.datatype)


def _values(datatype: str, shape: tuple[int, ...], row: int, generator: np.random.Generator) -> Array:
    """Random values; the first element of two rows differs."""
    values = random_values(datatype, shape, generator)
    if datatype == "BYTES":
        values.reshape(-1)[:1] = b"row %d" % row
    elif NUMPY_DTYPE[datatype].kind != "f" and datatype != "BF16":
        values.reshape(-1)[:1] = row % INTEGERS
    return values


def influence(alone: Sequence[Sequence[Tensor]], together: Sequence[Sequence[Tensor]]) -> str:
    """How the answers to rows differ if the rows run together; "" if they do not.

    Args:
        alone: each row's outputs.
        together: the same outputs of the same rows, from one run.
    """
    for own, beside in zip(zip(*alone, strict=True), zip(*together, strict=True), strict=True):
        for one, other in zip(own, beside, strict=True):
            if one.shape != other.shape:
                return f"output '{one.name}' of a row has shape {list(one.shape)} alone and {list(other.shape)} with another row"
        problem = _difference([tensor.array() for tensor in own], [tensor.array() for tensor in beside], own[0])
        if problem:
            return problem
    return ""


def _difference(alone: Sequence[Array], together: Sequence[Array], tensor: Tensor) -> str:
    """How two arrays of one output differ by more than its datatype's tolerance."""
    own, beside = (np.concatenate([each.reshape(-1) for each in side]) for side in (alone, together))
    if tensor.datatype not in _TOLERANCE:
        return "" if np.array_equal(own, beside) else f"output '{tensor.name}' of a row is another one with another row"
    own, beside = _numbers(own, tensor.datatype), _numbers(beside, tensor.datatype)
    other = ~((own == beside) | (np.isnan(own) & np.isnan(beside)))
    if not other.any():
        return ""
    if not (np.isfinite(own[other]).all() and np.isfinite(beside[other]).all()):
        return f"output '{tensor.name}' of a row becomes infinite or not a number with another row, or ceases to be"
    finite = own[np.isfinite(own)]
    span, largest = float(np.ptp(finite)), float(np.abs(finite).max())
    share, rounding = _TOLERANCE[tensor.datatype]
    change = float(np.abs(own[other] - beside[other]).max())
    if change <= share * span + rounding * largest:
        return ""
    return f"output '{tensor.name}' of a row changes by up to {change:.3g} with another row, where its values span {span:.3g}"


def _numbers(array: Array, datatype: str) -> Any:
    if datatype == "BF16":
        array = bfloat16.to_floats(array)
    return array.astype(np.float64)
