"""In the place of KEDA, where there was no time to build it: a client that asks our scaler as KEDA does, and scales as it does.

The first replica follows the push of StreamIsActive, as KEDA's operator has it. More follow GetMetrics by the formula of the
horizontal pod autoscaler, the sum of the values divided by the target. None is left when the cooldown has passed without work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import threading
import time
from typing import Any, Self

import grpc

from infra.kubernetes.plane import Plane
from tests.gateway.scaler.keda import SERVICE, kind

LOOKS_EVERY = 1.0
"""Seconds between two looks at the metric."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a ScaledObject says. Times are in seconds."""

    least: int
    most: int
    cooldown: float
    first_cooldown: float

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Self:
        """Those of its spec."""
        return cls(
            spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"], spec["initialCooldownPeriod"]
        )

    def replicas(self, current: int, active: bool, per_replica: float, calm: float, worked: bool) -> int:
        """How many there are to be.

        Args:
            current: how many there are.
            active: what the scaler pushed last.
            per_replica: the metric's sum divided by its target.
            calm: seconds without work.
            worked: whether there has been work.
        """
        if not active and calm >= (self.cooldown if worked else self.first_cooldown):
            return self.least
        if current == 0:
            return max(1, self.least) if active else 0
        return min(max(math.ceil(per_replica), self.least, 1), self.most)


class ScalingClient:
    """Scales the Deployment of a ScaledObject until the `with` ends.

    Args:
        plane: where both are.
        namespace: theirs.
        name: theirs.
    """

    def __init__(self, plane: Plane, namespace: str, name: str) -> None:
        self._plane, self._namespace, self._name = plane, namespace, name
        spec = plane.get("-n", namespace, "scaledobject", name)["spec"]
        self._rules = Rules.of(spec)
        (trigger,) = spec["triggers"]
        self._channel = grpc.insecure_channel(trigger["metadata"]["scalerAddress"])
        self._asked = kind("ScaledObjectRef")(name=name, namespace=namespace, scalerMetadata=trigger["metadata"])
        self._pushes: queue.Queue[bool] = queue.Queue()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._scale)]

    def _listen(self) -> None:
        stream = self._channel.unary_stream(f"{SERVICE}/StreamIsActive")
        try:
            for raw in stream(self._asked.SerializeToString()):
                self._pushes.put(bool(kind("IsActiveResponse").FromString(raw).result))
        except grpc.RpcError:
            if not self._ended.is_set():
                raise

    def _scale(self) -> None:
        current = int(self._plane.get("-n", self._namespace, "deployment", self._name)["spec"]["replicas"])
        active = worked = False
        last_work = time.monotonic()
        while not self._ended.is_set():
            with contextlib.suppress(queue.Empty):
                active = self._pushes.get(timeout=LOOKS_EVERY)
            if active:
                worked, last_work = True, time.monotonic()
            metric = self._metric() if current else 0.0
            wanted = self._rules.replicas(current, active, metric, time.monotonic() - last_work, worked)
            if wanted != current:
                self._plane.run(
                    "kubectl", "scale", f"deployment/{self._name}", "-n", self._namespace, f"--replicas={wanted}"
                )
                current = wanted

    def _metric(self) -> float:
        """What the horizontal pod autoscaler is told, in multiples of the target."""
        (spec,) = self._ask("GetMetricSpec", self._asked, "GetMetricSpecResponse").metricSpecs
        request = kind("GetMetricsRequest")(scaledObjectRef=self._asked, metricName=spec.metricName)
        values = self._ask("GetMetrics", request, "GetMetricsResponse").metricValues
        return sum(value.metricValueFloat for value in values) / float(spec.targetSizeFloat)

    def _ask(self, method: str, request: Any, answer: str) -> Any:
        raw = self._channel.unary_unary(f"{SERVICE}/{method}")(request.SerializeToString(), timeout=20)
        return kind(answer).FromString(raw)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._channel.close()
        for thread in self._threads:
            thread.join(60)
