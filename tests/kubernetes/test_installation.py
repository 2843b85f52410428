"""The chart where controllers act on it. kwok marks a pod that was scheduled as running and ready, and starts nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infra.kubernetes.plane import Plane
from tests.infra.chart import VALUES
from tests.kubernetes.objects import KINDS, install, names, ready, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]


def test_all_pods_are_created_scheduled_and_ready_and_all_go(
    control_plane: Plane, namespace: str, tell: Callable[[str], None]
) -> None:
    install(control_plane, namespace, VALUES["everything"])
    full = "a-name-that-has-26-letters"
    waited = until("gateways are ready", lambda: ready(control_plane, namespace, f"{full}-gateway") >= 1)
    tell(f"everything: gateways Ready {waited:.1f} s after the installation")
    until("workers are ready", lambda: ready(control_plane, namespace, f"{full}-worker-fixed") == 3)
    until("the scalers are ready", lambda: ready(control_plane, namespace, f"{full}-scaler") == 2)
    events = control_plane.get("-n", namespace, "events")["items"]
    control_plane.run("helm", "uninstall", "penstock", "-n", namespace)

    assert not [each["message"] for each in events if each["reason"] == "FailedCreate"]
    until("everything is gone", lambda: not names(control_plane, namespace, f"{KINDS},replicasets,pods"))


def test_a_rollout_replaces_the_pods(control_plane: Plane, namespace: str) -> None:
    install(control_plane, namespace, VALUES["digits"])
    control_plane.run("kubectl", "scale", "-n", namespace, "deployment/penstock-worker-digits", "--replicas=3")
    until("three workers", lambda: ready(control_plane, namespace, "penstock-worker-digits") == 3)
    before = names(control_plane, namespace, "pods")
    install(control_plane, namespace, VALUES["digits"], "--set", "image.tag=2")
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
