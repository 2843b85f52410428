"""Finds shapes of made-up inputs that a loaded model accepts, by running it: a driver around `protocol.example_shapes`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from penstock.cli.example import Trial, example_inputs, values
from protocol.errors import ModelFailed, described
from protocol.example_shapes import MAX_ELEMENTS, Shapes, candidates
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig, TensorSpec
from protocol.tensors import NUMPY_DTYPE, Tensor, from_array
from workers.instances.job import InstanceDied

if TYPE_CHECKING:
    from workers.instances.loaded import LoadedModel

SECONDS: Final = 3.0
LONGEST: Final = 5.0
_OWN_CODE: Final = frozenset({"python"})
"""Backends whose models may do more than compute: they run only when somebody asks for it."""


class Trials:
    """The attempts of one server.

    Args:
        seconds: in which attempts on all models begin.
        longest: seconds that one attempt is waited for.
    """

    def __init__(self, seconds: float = SECONDS, longest: float = LONGEST) -> None:
        self._end = time.monotonic() + seconds
        self._longest = longest

    async def run(self, loaded: LoadedModel) -> Trial:
        """What the model accepts; an empty trial if it was not tried or took too long.

        What it took while it was loaded is not tried again.
        """
        if loaded.shapes is not None:
            return Trial(loaded.shapes)
        config = loaded.version.config
        if config.backend in _OWN_CODE or not loaded.executors:
            return Trial()
        refused = ""
        for shapes in shapes_of(config):
            if time.monotonic() >= self._end:
                return Trial()
            try:
                async with asyncio.timeout(self._longest):
                    outcomes = await loaded.executors[0].attempt([_request(loaded, shapes)])
                _require_answers(outcomes)
            except TimeoutError:
                return Trial(running=self._longest)
            except InstanceDied:  # it is being replaced; another try might end it again
                return Trial()
            except Exception as error:
                refused = refused or described(error)
            else:
                return Trial(shapes)
        return Trial(refused=refused)


def shapes_of(config: ModelConfig) -> Iterator[Shapes]:
    """The shapes to try."""
    inputs = {spec.name: config.shape_of(spec) for spec in example_inputs(config)}
    for shapes in candidates(inputs, 1 if config.batching else None):
        if sum(map(math.prod, shapes.values())) <= MAX_ELEMENTS:
            yield shapes


def _request(loaded: LoadedModel, shapes: Shapes) -> InferRequest:
    version = loaded.version
    inputs = [_tensor(spec, shapes[spec.name]) for spec in example_inputs(version.config)]
    return InferRequest("example", version.model, str(version.version), tuple(inputs))


def _tensor(spec: TensorSpec, shape: Sequence[int]) -> Tensor:
    elements = np.array(values(spec.datatype, math.prod(shape)), NUMPY_DTYPE[spec.datatype])
    return from_array(spec.name, elements.reshape(tuple(shape)), spec.datatype)


def _require_answers(outcomes: Sequence[object]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise ModelFailed(outcome.message)
