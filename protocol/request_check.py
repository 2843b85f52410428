"""Whether a request fits its model, and the error text if it does not: Triton's, which clients match on. Pure.

`tests/triton` compares the texts with a real Triton's. They differ only to name what would fit, or not to depend on the order of a
hash table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from protocol.errors import InvalidArgument, of_request, quoted
from protocol.model_config import ModelConfig
from protocol.model_config.parts import TensorSpec
from protocol.tensors import Tensor

_BATCHING_NOTE: Final = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. "
    "If you want to specify the full shape including the batch dim in your input dims config, try setting max_batch_size to zero. "
    "See the model configuration docs for more info on max_batch_size."
)
_MAX_NAMES: Final = 32


MAX_BATCH_LANE_ROWS: Final = 65_536
"""Rows of a request in the batch lane, whose rows may run in several batches."""


class ModelSignature:
    """What a request for one model version must look like.

    Args:
        max_rows: of a request for a model that batches; None for the model's `max_batch_size`.
    """

    __slots__ = ("_batching", "_expected", "_inputs", "_max_batch", "_model", "_outputs", "_required")

    def __init__(self, config: ModelConfig, max_rows: int | None = None) -> None:
        self._model = config.name
        self._inputs = {spec.name: spec for spec in config.inputs}
        self._expected = {spec.name: config.shape_of(spec) for spec in config.inputs}
        self._outputs = [spec.name for spec in config.outputs]
        self._required = [spec.name for spec in config.inputs if not spec.optional]
        self._max_batch = config.max_batch_size if max_rows is None else max_rows
        self._batching = config.batching

    def check(self, inputs: Sequence[Tensor], outputs: Sequence[str], label: str) -> int:
        """How many rows the request has; 1 for a model that does not batch. Does not read the data.

        Args:
            label: the id in the request's body, for the texts.

        Raises:
            InvalidArgument: naming what does not fit, and what would.
        """
        self._check_names([tensor.name for tensor in inputs], label)
        for name in outputs:
            if name not in self._outputs:
                raise InvalidArgument(
                    f"unexpected inference output {quoted(name)} for model '{self._model}'; "
                    f"allowed outputs are: {', '.join(self._outputs) or 'none'}"
                )
        rows = self._rows(inputs, label) if self._batching else 1
        for tensor in inputs:
            self._check_tensor(tensor, self._inputs[tensor.name], label)
        return rows

    def _check_names(self, names: Sequence[str], label: str) -> None:
        if len(set(names)) != len(names):
            twice = next(name for index, name in enumerate(names) if name in names[:index])
            _refuse(label, f"input {quoted(twice)} already exists in request")
        least, most = len(self._required), len(self._inputs)
        if not least <= len(names) <= most:
            self._refuse_count(names, label)
        for name in names:
            if name not in self._inputs:
                raise InvalidArgument(
                    f"unexpected inference input {quoted(name)} for model '{self._model}'; "
                    f"allowed inputs are: {', '.join(self._inputs) or 'none'}"
                )
        if not set(names).issuperset(self._required):
            self._refuse_count(names, label)

    def _rows(self, inputs: Sequence[Tensor], label: str) -> int:
        if not inputs:
            _refuse(label, f"a request for '{self._model}' needs at least one input, which says how many rows it has")
        rows = -1
        for tensor in inputs:
            if not tensor.shape:
                _refuse(
                    label, f"input '{tensor.name}' has no shape but model requires batch dimension for '{self._model}'"
                )
            if rows not in (-1, tensor.shape[0]):
                _refuse(label, f"input '{tensor.name}' batch size does not match other inputs for '{self._model}'")
            rows = tensor.shape[0]
        if rows > self._max_batch:
            _refuse(label, f"inference request batch-size must be <= {self._max_batch} for '{self._model}'")
        if rows == 0:
            _refuse(label, f"inference request batch-size must be >= 1 for '{self._model}'")
        return rows

    def _check_tensor(self, tensor: Tensor, spec: TensorSpec, label: str) -> None:
        if tensor.datatype != spec.datatype:
            _refuse(
                label,
                f"inference input '{spec.name}' data-type is '{tensor.datatype}', but model '{self._model}' expects "
                f"'{spec.datatype}'",
            )
        expected = self._expected[spec.name]
        scalar = not tensor.shape and spec.reshape == ()  # of a model that does not batch, in its own shape
        if not scalar and not fits(tensor.shape, expected):
            _refuse(
                label,
                f"unexpected shape for input '{spec.name}' for model '{self._model}'. Expected {_shown(expected)}, got "
                f"{_shown(tensor.shape)}. {_BATCHING_NOTE if self._batching else ''}",
            )

    def _refuse_count(self, names: Sequence[str], label: str) -> NoReturn:
        least, most = len(self._required), len(self._inputs)
        expected = f"{most} inputs" if least == most else f"number of inputs between {least} and {most}"
        missing = [name for name in self._required if name not in names]
        _refuse(
            label,
            f"expected {expected} but got {len(names)} inputs for model '{self._model}'. Got input(s) {_listed(names)}, "
            f"but missing required input(s) {_listed(missing)}. Please provide all required input(s).",
        )


def fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether the shape matches `expected`, where -1 is any size."""
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _refuse(label: str, text: str) -> NoReturn:
    raise InvalidArgument(of_request(label, text))


def _listed(names: Sequence[str]) -> str:
    shown = [quoted(name) for name in names[:_MAX_NAMES]]
    return f"[{','.join(shown)}{',…' if len(names) > _MAX_NAMES else ''}]"


def _shown(sizes: Sequence[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"
