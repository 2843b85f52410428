"""What tests on a control plane share."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from infra.kubernetes import programs
from infra.kubernetes.plane import Plane
from tests.infra.chart import CHART

KINDS = (
    "deployments,services,poddisruptionbudgets,horizontalpodautoscalers,networkpolicies,jobs,"
    "scaledobjects.keda.sh,triggerauthentications.keda.sh,servicemonitors.monitoring.coreos.com"
)
HELMS = ("helm", "helm3")


def names(plane: Plane, namespace: str, kinds: str = KINDS) -> set[tuple[str, str]]:
    """Kind and name of everything of these kinds."""
    return {(each["kind"], each["metadata"]["name"]) for each in plane.get("-n", namespace, kinds)["items"]}


def until(what: str, found: Callable[[], bool], seconds: float = 90.0) -> float:
    """Waits; returns for how long, in seconds."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - began


def install(plane: Plane, namespace: str, values: Path, *more: str, helm: str = "helm") -> None:
    """Helm's `upgrade --install`."""
    plane.run(helm, "upgrade", "--install", "penstock", str(CHART), "-n", namespace, "-f", str(values), *more)


def ready(plane: Plane, namespace: str, deployment: str) -> int:
    """How many pods of a deployment are ready."""
    status: dict[str, Any] = plane.get("-n", namespace, "deployment", deployment)["status"]
    return int(status.get("readyReplicas", 0))


class Timeline:
    """The replicas that a Deployment is to have, from now on, as the API server tells their changes.

    Attributes:
        steps: when, on the monotonic clock in seconds, and how many.
    """

    def __init__(self, plane: Plane, namespace: str, deployment: str) -> None:
        self.steps: list[tuple[float, int]] = []
        self._passed = 0
        self._process = subprocess.Popen(
            [programs.kubectl(), "get", "deployment", deployment, "-n", namespace, "-w", "-o", 'jsonpath={.spec.replicas}{"\\n"}'],
            env=os.environ | {"KUBECONFIG": str(plane.kubeconfig)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def replicas(self) -> list[int]:
        """Each number that was set, once for each change."""
        numbers = [number for _, number in self.steps]
        return [number for before, number in zip([None, *numbers], numbers, strict=False) if number != before]

    def when(self, what: str, wanted: Callable[[int], bool], seconds: float) -> float:
        """When, on the monotonic clock, such a number came, now or after what was last waited for."""

        def found() -> bool:
            steps = self.steps
            while self._passed < len(steps) and not wanted(steps[self._passed][1]):
                self._passed += 1
            return self._passed < len(steps)

        try:
            until(what, found, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; replicas were {self.replicas}") from None
        return self.steps[self._passed][0]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.steps.append((time.monotonic(), int(line)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._reader.join(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
