"""What tests on a control plane share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
