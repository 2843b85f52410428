"""The chart where controllers act on it. kwok marks a pod that was scheduled as running and ready, and starts nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from infra.kubernetes.plane import Plane
from tests.infra.chart import VALUES
from tests.kubernetes.objects import KINDS, install, names, ready, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]


def test_all_pods_are_created_scheduled_and_ready_and_all_go(
    control_plane: Plane, namespace: str, tell: Callable[[str], None]
) -> None:
    began = time.monotonic()
    install(control_plane, namespace, VALUES["everything"])
    accepted = time.monotonic() - began
    full = "a-name-that-has-26-letters"
    until("gateways are ready", lambda: ready(control_plane, namespace, f"{full}-gateway") >= 1)
    until("workers are ready", lambda: ready(control_plane, namespace, f"{full}-worker-fixed") == 3)
    until("the scalers are ready", lambda: ready(control_plane, namespace, f"{full}-scaler") == 2)
    waited = time.monotonic() - began
    tell(
        f"everything: accepted {accepted:.1f} s after helm's start; gateway, 3 workers and 2 scalers Ready after {waited:.1f} s"
    )
    events = control_plane.get("-n", namespace, "events")["items"]
    control_plane.run("helm", "uninstall", "penstock", "-n", namespace)

    assert not [each["message"] for each in events if each["reason"] == "FailedCreate"]
    until("everything is gone", lambda: not names(control_plane, namespace, f"{KINDS},replicasets,pods"))


def models(plane: Plane, namespace: str) -> None:
    """The volume claim that the values `digits` name, without which the scheduler leaves their pods waiting."""
    room: dict[str, Any] = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": "/models"}, **room}
    claim = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": f"{namespace}-models", **room}
    metadata = {"name": "models", "namespace": namespace}
    plane.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-models"}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
    )


def test_a_rollout_replaces_the_pods(control_plane: Plane, namespace: str) -> None:
    models(control_plane, namespace)
    install(control_plane, namespace, VALUES["digits"])
    control_plane.run("kubectl", "scale", "-n", namespace, "deployment/penstock-worker-digits", "--replicas=3")
    until("three workers", lambda: ready(control_plane, namespace, "penstock-worker-digits") == 3)
    before = names(control_plane, namespace, "pods")
    install(control_plane, namespace, VALUES["digits"], "--set", "image.tag=v2")
    control_plane.run(
        "kubectl", "rollout", "status", "-n", namespace, "deployment/penstock-worker-digits", "--timeout=90s"
    )
    after = {each for each in names(control_plane, namespace, "pods") if "worker" in each[1]}

    assert len(after - before) == 3


def test_a_drain_may_take_one_gateway(control_plane: Plane, namespace: str) -> None:
    install(control_plane, namespace, VALUES["nothing"], "--set", "gateway.replicas=2")
    until("two gateways", lambda: ready(control_plane, namespace, "penstock-gateway") == 2)

    def allowed() -> int:
        budget = control_plane.get("-n", namespace, "poddisruptionbudget", "penstock-gateway")
        return int(budget.get("status", {}).get("disruptionsAllowed", 0))

    until("the budget is computed", lambda: allowed() == 1)
