"""Inputs that a person states where a model's file does not: as flags, and as a configuration to complete. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from typing import Final

from protocol.errors import ConfigError, quoted
from protocol.model_config import TensorSpec
from protocol.model_config.parts import TYPE_NAME

_FORM: Final = "NAME:DATATYPE:DIMS, for example x:FP32:3,224,224"


def parse_input(text: str) -> TensorSpec:
    """An input from `NAME:DATATYPE:DIMS`, as in config.pbtxt without the batch dimension.

    Args:
        text: DATATYPE is a V2 or Triton name; DIMS are sizes with commas between them, -1 is any size, and none is a scalar.

    Raises:
        ConfigError: it is of another form; says what is expected.
    """
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[0]:
        raise ConfigError(f"{quoted(text)} must be {_FORM}")
    name, datatype, dims = parts
    chosen = datatype.upper().removeprefix("TYPE_")
    chosen = "BYTES" if chosen == "STRING" else chosen
    if chosen not in TYPE_NAME:
        raise ConfigError(f"{quoted(datatype)} in {quoted(text)} is not a datatype; there are: {', '.join(TYPE_NAME)}")
    sizes = [size.strip() for size in dims.split(",")] if dims.strip() else []
    for size in sizes:
        if not (size == "-1" or (size.isascii() and size.isdigit() and 0 < len(size) < 10 and int(size) > 0)):
            raise ConfigError(
                f"{quoted(size)} in {quoted(text)} is not a size; sizes are numbers above 0, or -1 for any, separated by commas"
            )
    if not sizes:
        return TensorSpec(name, chosen, (1,), reshape=())
    return TensorSpec(name, chosen, tuple(int(size) for size in sizes))


def require_distinct_inputs(inputs: Collection[TensorSpec]) -> None:
    """Check that no input is stated twice.

    Raises:
        ConfigError: one is.
    """
    names = [spec.name for spec in inputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--input states {quoted(name)} twice")


def config_skeleton(inputs: Sequence[TensorSpec]) -> str:
    """A `config.pbtxt` with these inputs; what it leaves out is completed when the model is loaded."""
    lines = [
        f'  {{ name: "{spec.name}" data_type: {TYPE_NAME[spec.datatype]} dims: [ {", ".join(map(str, spec.dims))} ] }}'
        for spec in inputs
    ]
    return "\n".join(["input [", ",\n".join(lines), "]"])


def input_flags(inputs: Sequence[TensorSpec]) -> str:
    """The same as flags of `penstock serve`."""
    return " ".join(f"--input {shlex.quote(input_text(spec))}" for spec in inputs)


def input_text(spec: TensorSpec) -> str:
    """An input in the form of `--input`."""
    return f"{spec.name}:{spec.datatype}:{','.join(map(str, spec.model_dims))}"
