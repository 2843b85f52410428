"""Requests with random inputs, whose free sizes are found by asking the server: a driver around `protocol.example_shapes`."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click
import numpy as np

from penstock.cli import input_flags
from penstock.client import InferResult
from protocol.errors import Code, FleetError, InvalidArgument, of_request
from protocol.example_shapes import Shapes, candidates
from protocol.random_values import random_values
from protocol.tensors import Array

MAX_ROWS: Final = 1_000_000
"""Random rows: even with one element each, more would exceed the size limit of a request."""
MAX_ATTEMPTS: Final = 7
"""Requests: with eight failures in a minute a worker may hold the model for broken (`workers.failures.limits`)."""
_OF_GATEWAY: Final = of_request("", "")
"""Begins the refusals of the gateway, which has not asked the model: other free sizes would not change them."""
_ABOUT_INPUTS: Final = frozenset({Code.INVALID_ARGUMENT, Code.MODEL_FAILED})


class MadeUp:
    """Random inputs for one model.

    Args:
        inputs: what the model takes, by name, as V2's metadata says it.
        required: names of those that are made up if they are not given.
        batches: whether the first size of every input counts rows.
        rows: of a model that batches.
        seed: of the values.
    """

    def __init__(
        self,
        inputs: Mapping[str, input_flags.Metadata],
        required: frozenset[str],
        *,
        batches: bool,
        rows: int,
        seed: int,
    ) -> None:
        if rows > MAX_ROWS:
            raise InvalidArgument(f"--random generates at most {MAX_ROWS} rows, not {rows}")
        self._inputs = inputs
        self._required = required
        self._batches = batches
        self._rows = rows
        self._seed = abs(seed)

    def infer(
        self,
        given: Mapping[str, Array],
        stated: Mapping[str, tuple[int, ...]],
        call: Callable[[dict[str, Array]], InferResult],
    ) -> InferResult:
        """The answer to the first request that the model accepts; says on standard error which sizes that were, if others failed.

        Args:
            given: inputs that are not made up.
            stated: shapes that are not varied.
            call: makes the request.

        Raises:
            FleetError: the first refusal, with what to do about it.
        """
        made = {name: entry for name, entry in self._inputs.items() if name not in given}
        made = {name: entry for name, entry in made.items() if name in self._required or name in stated}
        shapes = {name: tuple(entry["shape"]) for name, entry in made.items()}
        tries = itertools.islice(candidates(shapes, self._first_size(given, stated), stated), MAX_ATTEMPTS)
        refused: FleetError | None = None
        for count, each in enumerate(tries, 1):
            try:
                result = call({**given, **self._values(made, each)})
            except FleetError as error:
                if error.code not in _ABOUT_INPUTS or error.message.startswith(_OF_GATEWAY):
                    raise
                refused = refused or error
                continue
            if count > 1:
                flags = " ".join(_flag(name, each[name]) for name in self._free(shapes))
                click.echo(f"penstock: the model takes these sizes: {flags}", err=True)
            return result
        assert refused is not None
        raise FleetError(refused.message + self._advice(made, shapes, stated), code=refused.code)

    def _first_size(self, given: Mapping[str, Array], stated: Mapping[str, tuple[int, ...]]) -> int | None:
        """The rows of the request: those of inputs that are there."""
        if not self._batches:
            return None
        first = [array.shape[0] for array in given.values() if array.shape]
        return next(iter([*first, *(shape[0] for shape in stated.values() if shape)]), self._rows)

    def _values(self, made: Mapping[str, input_flags.Metadata], shapes: Shapes) -> dict[str, Array]:
        generator = np.random.default_rng(self._seed)
        total = sum(math.prod(shape) for shape in shapes.values())
        if total > input_flags.MAX_ELEMENTS:
            raise InvalidArgument(
                f"--random would make up {total} values, more than a request can hold; ask for fewer rows"
            )
        return {name: random_values(entry["datatype"], shapes[name], generator) for name, entry in made.items()}

    def _free(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """The inputs with a free size beside the rows."""
        return [name for name, shape in shapes.items() if -1 in shape[1 if self._batches else 0 :]]

    def _advice(
        self,
        made: Mapping[str, input_flags.Metadata],
        shapes: Mapping[str, tuple[int, ...]],
        stated: Mapping[str, tuple[int, ...]],
    ) -> str:
        text = ""
        if free := [name for name in self._free(shapes) if name not in stated]:
            flags = " ".join(_flag(name, ["N" if size < 0 else size for size in shapes[name]]) for name in free)
            text = f"; other sizes were refused as well: state those that the model takes, with {flags}"
        certain = input_flags.certain(made.values(), batches=self._batches)
        return f"{text}; an input that is one integer may have to be a certain one: add {certain}" if certain else text


def _flag(name: str, sizes: Sequence[object]) -> str:
    """The flag that states a shape, as a shell takes it."""
    return f"--shape {shlex.quote(name + '=' + ','.join(map(str, sizes)))}"
