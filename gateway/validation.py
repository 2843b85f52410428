"""A request against its model's configuration, with Triton's error texts, which clients match on. Pure.

Invariant: `RequestCheck` is made once per model version; names, datatypes and shapes that fitted once are not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

from protocol.errors import MAX_QUOTED, InvalidArgument
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import Tensor

_MAX_SEEN: Final = 1024


class RequestCheck:
    """What a request for one model version must look like."""

    __slots__ = (
        "_batching",
        "_config",
        "_inputs",
        "_least",
        "_max_batch",
        "_model",
        "_most",
        "_outputs",
        "_required",
        "_seen",
    )

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._model = config.name
        self._inputs = {spec.name: spec for spec in config.inputs}
        self._outputs = {spec.name for spec in config.outputs}
        self._required = [spec.name for spec in config.inputs if not spec.optional]
        self._least = len(self._required)
        self._most = len(self._inputs)
        self._max_batch = config.max_batch_size
        self._batching = config.batching
        self._seen: dict[tuple[object, ...], int] = {}

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> int:
        """How many rows the request has; 1 for a model that does not batch.

        Raises:
            InvalidArgument: naming what does not fit, and what would.
        """
        signature = (*[(tensor.name, tensor.datatype, tensor.shape) for tensor in inputs], *outputs)
        rows = self._seen.get(signature)
        if rows is None:
            rows = self._check(inputs, outputs)
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen[signature] = rows
        return rows

    def _check(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> int:
        if not self._least <= len(inputs) <= self._most:
            self._refuse_count(inputs)
        rows: tuple[int, ...] = ()
        specs = self._inputs
        for tensor in inputs:
            spec = specs.get(tensor.name)
            if spec is None or tensor.datatype != spec.datatype:
                self._refuse_tensor(tensor, spec)
            dims = tensor.shape
            if self._batching:
                if dims[:1] != rows or not rows:
                    rows = self._rows(tensor, spec, rows)
                dims = dims[1:]
            if dims != spec.dims and not _fits(dims, spec.dims):
                self._refuse_shape(tensor, spec)
        if len(inputs) > 1 or self._least < self._most:
            self._check_names(inputs)
        if outputs:
            self._check_outputs(outputs)
        return rows[0] if rows else 1

    def _rows(self, tensor: Tensor, spec: TensorSpec, rows: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's rows, which differ from those seen so far (none before the first)."""
        if not tensor.shape:
            self._refuse_shape(tensor, spec)
        found = tensor.shape[0]
        if rows:
            raise InvalidArgument(
                f"input '{tensor.name}' batch size does not match other inputs for '{self._model}': {found} and {rows[0]}"
            )
        if found > self._max_batch:
            raise InvalidArgument(
                f"inference request batch-size must be <= {self._max_batch} for '{self._model}'; "
                f"input '{tensor.name}' has {found} rows"
            )
        if found == 0:
            raise InvalidArgument(f"inference request batch-size must be >= 1 for '{self._model}'")
        return (found,)

    def _check_names(self, inputs: Sequence[Tensor]) -> None:
        """Every input is known here; still, one may stand twice, and so another be missing."""
        names = {tensor.name for tensor in inputs}
        if len(names) != len(inputs):
            twice = next(t.name for i, t in enumerate(inputs) if t.name in {other.name for other in inputs[:i]})
            raise InvalidArgument(f"input '{twice}' already exists in request")
        if not names.issuperset(self._required):
            self._refuse_count(inputs)

    def _refuse_count(self, inputs: Sequence[Tensor]) -> NoReturn:
        names = [tensor.name for tensor in inputs]
        missing = [name for name in self._required if name not in names]
        count = len(names)
        if self._least == self._most:
            text = f"expected {self._most} inputs but got {count} inputs for model '{self._model}'"
        else:
            text = (
                f"expected number of inputs between {self._least} and {self._most} but got {count} inputs for model "
                f"'{self._model}'"
            )
        if missing:
            text += (
                f". Got input(s) {names[:32]}, but missing required input(s) {missing}. Please provide all required "
                "input(s)."
            )
        else:
            unknown = next((name for name in names if name not in self._inputs), None)
            if unknown is not None:
                self._refuse_name(unknown)
        raise InvalidArgument(text)

    def _refuse_name(self, name: str) -> NoReturn:
        raise InvalidArgument(
            f"unexpected inference input '{name[:MAX_QUOTED]}', "
            f"allowed inputs are: {', '.join(self._inputs)} (model '{self._model}')"
        )

    def _check_outputs(self, outputs: Sequence[str]) -> None:
        for name in outputs:
            if name not in self._outputs:
                allowed = ", ".join(spec.name for spec in self._config.outputs)
                raise InvalidArgument(
                    f"unexpected inference output '{name[:MAX_QUOTED]}', allowed outputs are: {allowed} (model '{self._model}')"
                )

    def _refuse_tensor(self, tensor: Tensor, spec: TensorSpec | None) -> NoReturn:
        if spec is None:
            self._refuse_name(tensor.name)
        raise InvalidArgument(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', but model '{self._model}' expects "
            f"'{spec.datatype}'"
        )

    def _refuse_shape(self, tensor: Tensor, spec: TensorSpec) -> NoReturn:
        text = (
            f"unexpected shape for input '{tensor.name}' for model '{self._model}'. Expected "
            f"{_shown(self._config.shape_of(spec))}, got {_shown(tensor.shape)}."
        )
        if self._batching:
            text += (
                " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended "
                "to each input shape. If you want to specify the full shape including the batch dim in your input dims "
                "config, try setting max_batch_size to zero. See the model configuration docs for more info on "
                "max_batch_size."
            )
        raise InvalidArgument(text)


def _fits(shape: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether the sizes are those of the configuration, in which -1 is any."""
    return len(shape) == len(dims) and all(map(_allows, dims, shape))


def _allows(want: int, size: int) -> bool:
    return want in (-1, size)


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
