"""What the short form `class Model` states about its tensors and how its `predict` takes them: read, checked, and refused in a
sentence."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from protocol.errors import CodecError, ConfigError, ModelFailed, quoted
from protocol.model_config import TensorSpec
from protocol.model_config.parts import TYPE_NAME
from protocol.tensors import Array, datatype_of

_LONGEST: Final = 60
"""Characters of a value that are shown."""
_EXAMPLE: Final = '{"NAME": ("FP32", [4])}'


def stated_tensors(stated: Any, what: str) -> tuple[TensorSpec, ...]:
    """The class attribute `inputs` or `outputs`.

    Args:
        stated: its value.
        what: it, for messages.

    Raises:
        ConfigError: it is of another form; says what is expected.
    """
    if not isinstance(stated, Mapping):
        raise ConfigError(f"{what} must map names to (datatype, dims), as in {_EXAMPLE}")
    return tuple(_tensor(name, entry, what) for name, entry in stated.items())


def _tensor(name: Any, entry: Any, what: str) -> TensorSpec:
    where = f"{what}: {_shown(name)}"
    if not isinstance(name, str) or not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise ConfigError(f"{where} must be a name with (datatype, dims), as in {_EXAMPLE}")
    datatype, dims = entry
    if not isinstance(datatype, str) or datatype not in TYPE_NAME:
        raise ConfigError(
            f"{where} has the datatype {_shown(datatype)}; {_meant(datatype) or 'there are: ' + ', '.join(TYPE_NAME)}"
        )
    if isinstance(dims, str) or not isinstance(dims, Sequence | np.ndarray):
        raise ConfigError(
            f"{where} has the dims {_shown(dims)}; they are a list of sizes without the batch, such as [4]"
        )
    return TensorSpec(name, datatype, tuple(_size(dim, where) for dim in dims))


def _shown(value: Any) -> str:
    """As its author wrote it, about."""
    return quoted(value) if isinstance(value, str) else repr(value)[:_LONGEST]


def _meant(datatype: Any) -> str:
    """`did you mean 'FP32'?` for NumPy's name or type, or Triton's; or ""."""
    if isinstance(datatype, str) and datatype.upper().removeprefix("TYPE_") in (*TYPE_NAME, "STRING"):
        named = datatype.upper().removeprefix("TYPE_").replace("STRING", "BYTES")
        return f"did you mean {quoted(named)}?"
    try:
        return f"did you mean {quoted(datatype_of(np.dtype(datatype)))}?"
    except (TypeError, ValueError, CodecError):
        return ""


def _size(dim: Any, where: str) -> int:
    try:
        return operator.index(dim)
    except TypeError:
        raise ConfigError(f"{where} has {_shown(dim)} among its dims; a size is a number, or -1 for any") from None


def stated_rows(stated: Any, what: str) -> int | None:
    """The class attribute `max_batch_size`; None if there is none.

    Raises:
        ConfigError: it is no number.
    """
    if stated is None:
        return None
    try:
        return operator.index(stated)
    except TypeError:
        raise ConfigError(f"max_batch_size of {what} is {_shown(stated)}; it must be a whole number") from None


def unfit_parameters(predict: Any, inputs: Collection[str]) -> str:
    """Why `predict` cannot be called with these inputs by name, and what to do; "" if it can, or that cannot be seen."""
    try:
        parameters = inspect.signature(predict).parameters.values()
    except (TypeError, ValueError):
        return ""
    by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = {each.name for each in by_name}
    takes = ", ".join(each.name for each in by_name) or "nothing"
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [] if anything else [name for name in inputs if name not in names]
    missing = [each.name for each in by_name if each.default is each.empty and each.name not in inputs]
    if not unknown and not missing:
        return ""
    return (
        f"predict takes {takes}, and the model's inputs are {', '.join(inputs)}: give its parameters the inputs' names, or take "
        "**inputs"
    )


def arrays_of(answer: Mapping[Any, Any], wanted: Collection[str], name: str) -> dict[str, Array]:
    """The arrays that `predict` returned, by name; lists and scalars count as arrays, and so does what converts itself to one.

    Args:
        answer: of `predict`; what is not wanted in it stays as it is.
        wanted: outputs.
        name: of the instance, for the message.

    Raises:
        ModelFailed: a value is something else; says what.
    """
    return {key: _array(key, value, name) if key in wanted else value for key, value in answer.items()}


def _array(key: str, value: Any, name: str) -> Array:
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ModelFailed(
            f"predict of '{name}' returned output '{key}' as rows of different lengths: {error}"
        ) from None
    if array.dtype == object and array.ndim == 0:
        raise ModelFailed(f"predict of '{name}' returned output '{key}' as {type(value).__name__}; it must be an array")
    return array
