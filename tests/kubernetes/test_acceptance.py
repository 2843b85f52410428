"""A real API server takes every object of the chart, in a namespace that enforces the restricted Pod Security Standard."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from infra.kubernetes.plane import Plane
from protocol.errors import Unavailable
from tests.infra.chart import CHART, VALUES, pod_templates, render
from tests.kubernetes.objects import HELMS, KINDS, install, names, until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("name", VALUES)
def test_every_object_is_taken_and_uninstall_leaves_nothing(
    api_server: Plane, space: str, name: str, helm: str, tell: Callable[[str], None]
) -> None:
    warned = len(api_server.warnings)
    assert not names(api_server, space)
    began = time.monotonic()
    install(api_server, space, VALUES[name], helm=helm)
    tell(f"{name}: accepted after {time.monotonic() - began:.2f} s by {helm}")
    installed = names(api_server, space)
    api_server.run(helm, "uninstall", "penstock", "-n", space)

    rendered = render(VALUES[name], namespace=space)
    assert installed == {(each["kind"], each["metadata"]["name"]) for each in rendered}
    assert api_server.warnings[warned:] == []
    until("everything is gone", lambda: not names(api_server, space, KINDS))
    assert not [each for each in names(api_server, space, "secrets,configmaps") if "helm" in each[1]]


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_is_one_that_the_restricted_standard_admits(api_server: Plane, space: str, name: str) -> None:
    api_server.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": space}}
    )
    for owner, template in pod_templates(render(VALUES[name], namespace=space)):
        metadata = {**template["metadata"], "name": owner, "namespace": space}
        spec = {"restartPolicy": "Always", **template["spec"]}
        api_server.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        pod = api_server.get("-n", space, "pod", owner)
        assert not [each for each in pod["spec"]["volumes"] if each["name"].startswith("kube-api-access")]


def test_the_restricted_standard_is_enforced_here(api_server: Plane, space: str) -> None:
    api_server.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": space}}
    )
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": space},
        "spec": {"containers": [{"name": "root", "image": "x"}]},
    }  # fmt: skip

    with pytest.raises(Unavailable, match='violates PodSecurity "restricted'):
        api_server.apply(pod)


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_changes_what_it_says_and_keeps_the_workers_that_keda_added(
    api_server: Plane, space: str, helm: str
) -> None:
    install(api_server, space, VALUES["digits"], helm=helm)
    api_server.run("kubectl", "scale", "-n", space, "deployment/penstock-worker-digits", "--replicas=3")
    changes = ("image.tag=v2", "workerGroups.digits.scaling.maxReplicas=8")
    install(api_server, space, VALUES["digits"], *(part for each in changes for part in ("--set", each)), helm=helm)
    deployment = api_server.get("-n", space, "deployment", "penstock-worker-digits")
    upgraded = api_server.get("-n", space, "scaledobjects.keda.sh", "penstock-worker-digits")
    api_server.run(helm, "rollback", "penstock", "1", "-n", space)
    rolled_back = api_server.get("-n", space, "scaledobjects.keda.sh", "penstock-worker-digits")

    assert deployment["spec"]["replicas"] == 3, "helm took workers away that KEDA had added"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "penstock:v2"
    assert upgraded["spec"]["maxReplicaCount"] == 8
    assert rolled_back["spec"]["maxReplicaCount"] == 4


def test_a_group_that_is_no_longer_named_goes(api_server: Plane, space: str) -> None:
    install(api_server, space, VALUES["digits"])
    install(api_server, space, VALUES["nothing"])

    assert not [each for each in names(api_server, space) if "digits" in each[1] or "scaler" in each[1]]


def test_a_wrong_field_of_a_scaled_object_is_refused(api_server: Plane, space: str) -> None:
    wrong = {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "wrong", "namespace": space},
        "spec": {"scaleTargetRef": {"name": "x"}, "triggers": [{"type": "external-push"}]},
    }  # fmt: skip

    with pytest.raises(Unavailable, match="metadata: Required value"):
        api_server.apply(wrong)


def test_a_value_that_the_schema_refuses_reaches_no_cluster(api_server: Plane, space: str) -> None:
    with pytest.raises(Unavailable, match="additional properties 'replica' not allowed"):
        install(api_server, space, VALUES["digits"], "--set", "gateway.replica=3")
    assert not names(api_server, space)
    assert (CHART / "values.schema.json").exists()
