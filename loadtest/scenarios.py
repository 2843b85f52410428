"""What is compared with Triton: for each scenario the models, the protocol and the numbers of callers. No I/O."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from loadtest import models

TRITON: Final = "triton"
BARE: Final = "bare"
ROLES: Final = {
    BARE: "the ONNX file called directly in a loop: rows/s",
    TRITON: "Triton, Python backend",
    "python": "Penstock, Python backend",
    "onnx": "Penstock, ONNX backend",
    "kafka-python": "Penstock through Kafka and Redis, Python backend",
    "kafka-onnx": "Penstock through Kafka and Redis, ONNX backend",
}
"""The servers by name, in the order of the page."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """One comparison.

    Attributes:
        name: short.
        title: for the page.
        model: the ONNX model; the one of the Python backends, Triton's and ours, is its twin named `…-python`.
        callers: numbers of callers, each waiting for its answer.
        through_kafka: whether our side is a gateway and a worker on Kafka and Redis, and not one process.
        bare: whether the model called directly in a loop is measured too.
        seconds: length of a point, whole; far longer than a call, because answers that are on their way at its end do not count.
    """

    name: str
    title: str
    model: str
    callers: tuple[int, ...]
    through_kafka: bool = False
    bare: bool = False
    seconds: int = 2

    @property
    def python_model(self) -> str:
        """The model of both Python backends."""
        return f"{self.model}-python"

    @property
    def megabytes(self) -> float:
        """Of the tensors of one request and its answer, where they travel as bytes; 0 elsewhere."""
        model = models.ALL[self.model]
        return 2 * 4 * math.prod(model.inputs[0].shape) / 1e6 if model.binary else 0.0

    def role(self, backend: str) -> str:
        """The name of our server with this backend."""
        return f"kafka-{backend}" if self.through_kafka else backend


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("addsub", "add/sub, JSON, one process", "addsub", (1, 16, 64)),
        Scenario("kafka", "add/sub, JSON, through Kafka and Redis", "addsub", (1, 64, 256), through_kafka=True),
        Scenario("mlp", "MLP, JSON, one process", "mlp", (32, 64), bare=True),
        Scenario("encoder", "encoder, JSON, one process", "encoder-onnx", (64,), bare=True, seconds=8),
        Scenario("image", "602 KB in and out as binary tensors, one process", "image", (1, 8)),
    )
}
"""By name, in the order of the page."""
