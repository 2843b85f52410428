"""Which of a program's inputs and outputs a configuration's names stand for. Pure.

The rule, for inputs and outputs alike: names that the program knows mean what it calls so, if it knows all of them; otherwise
`INPUT__1` is the second, and any other name has its position in the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.errors import ConfigError
from protocol.model_config import ModelConfig, TensorSpec
from workers.repository.completion import BackendMetadata

_POSITION: Final = "__"


def positions(names: Sequence[str], own: Sequence[str]) -> list[int]:
    """For each name its index in `own`, which may be too large."""
    if set(names) <= set(own):
        return [own.index(name) for name in names]
    return [_position(name, index) for index, name in enumerate(names)]


def _position(name: str, index: int) -> int:
    """The number after `__`, as in `OUTPUT__1`; else the position in the configuration."""
    _, mark, number = name.rpartition(_POSITION)
    return int(number) if mark and number.isdigit() and len(number) < 9 else index


def input_names(config: ModelConfig) -> list[str]:
    """The names of all tensors that a batch gives to the model."""
    return [spec.name for spec in config.inputs] + [name for each in config.batch_inputs for name in each.targets]


def bind(config: ModelConfig, parameters: Sequence[str], required: frozenset[str]) -> dict[str, str]:
    """The parameter of each of the configuration's inputs.

    Raises:
        ConfigError: the configuration has an input too many or lacks one.
    """
    names = input_names(config)
    places = positions(names, parameters)
    bound = {name: parameters[place] for name, place in zip(names, places, strict=True) if place < len(parameters)}
    if len(set(bound.values())) < len(names):
        extra = next((name for name in names if name not in bound), names[-1])
        raise ConfigError(
            f"unexpected inference input '{extra}' for model '{config.name}', its forward takes: "
            f"{', '.join(parameters) or 'nothing'}"
        )
    if missing := sorted(required - set(bound.values())):
        raise ConfigError(
            f"model '{config.name}' also takes the input '{missing[0]}', which its configuration does not state"
        )
    return bound


def in_names_of(config: ModelConfig, metadata: BackendMetadata) -> BackendMetadata:
    """The metadata with the configuration's names for inputs and outputs that it states."""
    return dataclasses.replace(
        metadata,
        inputs=_renamed(metadata.inputs, input_names(config)),
        outputs=_renamed(metadata.outputs, [spec.name for spec in config.outputs]),
    )


def _renamed(own: tuple[TensorSpec, ...], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    specs = list(own)
    for name, place in zip(names, positions(names, [spec.name for spec in own]), strict=True):
        if place < len(specs):
            specs[place] = dataclasses.replace(specs[place], name=name)
    return tuple(specs)
