"""Runs an ONNX model with made-up inputs to learn what its file leaves out about its outputs, or states wrongly.

Exporters lose the number of dimensions behind operators whose shapes are not inferred (a `squeeze` without a dimension, an `If`, a
custom function), and write the sizes of one example where others are possible (onnxmltools' `label` of one row), or one dimension
where there are two (CatBoost's regressors). onnxruntime runs such files all the same. Whether the first dimension is the batch is
tried after the load (`workers.instances.batching_check`), or here, where somebody has stated the inputs without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from protocol.example_shapes import candidates
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import NUMPY_DTYPE, Array

_TRIES: Final = 12
"""Choices of sizes that are tried."""
_SLOW: Final = 2.0
"""Seconds; a model whose first run takes longer is not run again."""
_ROWS: Final = (2, 3)
_Specs = list[TensorSpec]


def corrected(
    session: Any,
    config: ModelConfig,
    inputs: _Specs,
    outputs: _Specs,
    unshaped: Collection[str],
    *,
    doubtful: bool = True,
) -> tuple[_Specs, _Specs, Collection[str]]:
    """Inputs and outputs with their whole shapes, and the names of those whose shapes are still unknown.

    Args:
        session: of the model, on the CPU.
        config: as stated: inputs of unknown shape take theirs from it, first with rows in front, then as they are.
        inputs: with the whole shapes that the file states.
        outputs: likewise.
        unshaped: names of inputs and outputs of unknown shape.
        doubtful: whether the file's shapes may be wrong; if not, the model is run only for those that it does not state.
    """
    same = inputs, outputs, unshaped
    stated = {spec.name: spec.model_dims for spec in config.inputs}
    unknown = {spec.name for spec in inputs if spec.name in unshaped}
    if config.outputs or not unknown <= stated.keys() or not (unshaped or doubtful):
        return same
    if any(spec.datatype == "BF16" for spec in (*inputs, *outputs)):  # which NumPy does not have
        return same
    for batched in _forms(config) if unknown else (True, False):
        front = (-1,) if batched else ()
        whole = [
            dataclasses.replace(spec, dims=(*front, *stated[spec.name])) if spec.name in unknown else spec
            for spec in inputs
        ]
        runs = list(_runs(session, whole, [spec.name for spec in outputs], batched=batched))
        if runs and not (unknown and batched and not _follow_the_rows(runs)):
            columns = zip(*[arrays for _, arrays in runs], strict=True)
            shapes = [[array.shape for array in column] for column in columns]
            known = [_merged(spec, of, spec.name in unshaped) for spec, of in zip(outputs, shapes, strict=True)]
            return whole, known, ()
    return same


def may_be_an_examples(inputs: _Specs, outputs: _Specs) -> bool:
    """Whether a fixed size of an output may be an example's: of its rows, or one that follows an input's free size."""
    fixed = any(size > 0 for spec in outputs for size in spec.dims)
    rows = all(spec.dims[:1] == (-1,) for spec in inputs) and any(spec.dims[:1] != (-1,) for spec in outputs)
    return fixed and (rows or any(size == -1 for spec in inputs for size in spec.dims[1:]))


def _forms(config: ModelConfig) -> Sequence[bool]:
    """Whether rows are in front of stated dimensions, in the order in which that is tried."""
    if not config.batch_size_stated:
        return (True, False)
    return (config.max_batch_size > 0,)


def _runs(
    session: Any, inputs: _Specs, names: Sequence[str], *, batched: bool
) -> Iterator[tuple[int, Sequence[Array]]]:
    """Rows and outputs of two runs that the model accepts, of different sizes as far as these are free; of one, if only one is."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = 4  # what it refuses is no error of anybody's
    specs = [spec for spec in inputs if not spec.optional]
    sizes = {spec.name: spec.dims for spec in specs}
    seen: list[Mapping[str, tuple[int, ...]]] = []
    began = time.monotonic()
    for rows in _ROWS:
        if seen and time.monotonic() - began > _SLOW:
            return
        tries = itertools.islice(candidates(sizes, rows if batched else None), _TRIES)
        ordered = sorted(tries, key=lambda shapes: _repeats(shapes, seen))  # sorted keeps the order of equals
        for shapes in ordered:
            if shapes in seen:
                return
            with contextlib.suppress(Exception):  # onnxruntime raises many types; other sizes may fit
                arrays = session.run(names, _zeros(specs, shapes), options)
                seen.append(shapes)
                yield rows, arrays
                break


def _repeats(shapes: Mapping[str, tuple[int, ...]], seen: Sequence[Mapping[str, tuple[int, ...]]]) -> int:
    """How many sizes behind the first are those of an earlier run."""
    pairs = [(shapes[name], earlier[name]) for earlier in seen for name in shapes]
    return sum(left == right for one, other in pairs for left, right in zip(one[1:], other[1:], strict=True))


def _follow_the_rows(runs: Sequence[tuple[int, Sequence[Array]]]) -> bool:
    return all(array.shape[:1] == (rows,) for rows, arrays in runs for array in arrays)


def _merged(spec: TensorSpec, shapes: Sequence[tuple[int, ...]], unknown: bool) -> TensorSpec:
    """The output with the shape that the runs showed: a size that they contradict, or that nobody states, is any size."""
    first = shapes[0]
    if unknown or any(len(shape) != len(spec.dims) for shape in shapes):
        return dataclasses.replace(spec, dims=(-1,) * len(first))
    dims = [size if all(shape[axis] == size for shape in shapes) else -1 for axis, size in enumerate(spec.dims)]
    return dataclasses.replace(spec, dims=tuple(dims))


def _zeros(specs: _Specs, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    return {
        spec.name: np.full(shapes[spec.name], "" if spec.datatype == "BYTES" else 0, NUMPY_DTYPE[spec.datatype])
        for spec in specs
    }
