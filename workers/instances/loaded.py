"""A loaded model version with its instances."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import structlog

from protocol.example_shapes import Shapes
from workers.instances.job import Executor
from workers.repository.version import ModelVersion

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class LoadedModel:
    """A loaded version.

    Attributes:
        version: with its complete configuration.
        executors: its instances.
        seconds: that the load took.
        labels: by output, the names of its classes.
        shapes: made-up inputs that it took while it was loaded; None if none ran, or it took none.
    """

    version: ModelVersion
    executors: Sequence[Executor]
    seconds: float
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shapes: Shapes | None = None

    async def close(self) -> None:
        """Free the instances."""
        for error in await asyncio.gather(*[executor.close() for executor in self.executors], return_exceptions=True):
            if error is not None:
                log.warning("an instance failed to close", model=self.version.model, error=str(error))
