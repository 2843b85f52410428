"""A model whose outputs are its inputs, for tests, load tests and trying out a fleet.

Output i is input i; the configuration states both, and they must agree. The parameter `execute_delay_ms` makes every batch take
that long, as in Triton's identity backend.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from protocol.errors import ConfigError, quoted
from protocol.model_config import ModelConfig
from protocol.tensors import Array
from workers.backends.tensor_instance import TensorInstance
from workers.repository.completion import BackendMetadata
from workers.repository.placement import Placement
from workers.repository.version import ModelVersion

MAX_DELAY = 3600.0
"""Seconds; a longer delay is a typo."""


class IdentityBackend:
    """See `base.Backend`."""

    def inspect(self, version: ModelVersion) -> BackendMetadata | None:
        """None: there is no model file."""
        return None

    def load(self, version: ModelVersion, placement: Placement) -> IdentityInstance:
        """Check that every output has its input.

        Raises:
            ConfigError: inputs and outputs do not agree, or the delay is not a number.
        """
        config = version.config
        if len(config.inputs) != len(config.outputs):
            raise ConfigError(f"identity model {config.name} must have as many outputs as inputs")
        for given, returned in zip(config.inputs, config.outputs, strict=True):
            if (given.datatype, given.model_dims) != (returned.datatype, returned.model_dims) or given.optional:
                raise ConfigError(
                    f"identity model {config.name}: output '{returned.name}' must have the datatype and dims of input "
                    f"'{given.name}', which must not be optional"
                )
        scattered = {name for cut in config.batch_outputs for name in cut.targets}
        for given, returned in zip(config.inputs, config.outputs, strict=True):
            if given.allow_ragged_batch and config.batching and returned.name not in scattered:
                raise ConfigError(
                    f"identity model {config.name}: output '{returned.name}' of the ragged input '{given.name}' needs a "
                    "batch_output of kind BATCH_SCATTER_WITH_INPUT_SHAPE"
                )
        return IdentityInstance(config, _delay(config))


def _delay(config: ModelConfig) -> float:
    text = config.parameters.get("execute_delay_ms", "0")
    try:
        delay = float(text) / 1000
    except ValueError:
        delay = -1.0
    if not 0 <= delay <= MAX_DELAY:
        raise ConfigError(
            f"parameter 'execute_delay_ms' of {config.name} must be 0 to {MAX_DELAY * 1000:.0f}, not {quoted(text)}"
        )
    return delay


class IdentityInstance(TensorInstance):
    """Returns its inputs after `delay` seconds."""

    def __init__(self, config: ModelConfig, delay: float) -> None:
        super().__init__(config)
        self._delay = delay
        self.loop_safe = not delay
        self._pairs = [(given.name, out.name) for given, out in zip(config.inputs, config.outputs, strict=True)]

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """See `TensorInstance.compute`."""
        if self._delay:
            time.sleep(self._delay)
        return {output: inputs[name] for name, output in self._pairs}

    def keep(self, raw: dict[str, Array]) -> dict[str, Array]:
        """Copies nothing: no run writes to the inputs."""
        return raw
