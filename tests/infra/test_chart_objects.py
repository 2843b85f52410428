"""Every object of the chart is one that Kubernetes and the custom resources' owners accept, for several files of values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from infra.kubernetes import crds
from tests.infra.chart import CHART, ROOT, VALUES, Object, of_kind, pod_templates, render, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: the oldest that the chart takes, and the newest that is known."""


@pytest.fixture(scope="module", params=VALUES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(VALUES[request.param])


def schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Schemas of the custom resources by apiVersion and kind; fields that they do not name are refused."""
    found = {}
    for path in crds.files():
        definition = yaml.safe_load(path.read_text())["spec"]
        for version in definition["versions"]:
            api = f"{definition['group']}/{version['name']}"
            found[api, definition["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    return found


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with no other fields than it names, as `kubectl --validate=strict` has it."""
    made = {key: closed(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if properties := schema.get("properties"):
        made["properties"] = {name: closed(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "metadata" not in properties:
            made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    return made


SCHEMAS = schemas()


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_wrong(name: str) -> None:
    done = run("lint", "--strict", str(CHART), "-f", str(VALUES[name]))

    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(objects: list[Object], version: str) -> None:
    for each in objects:
        if (each["apiVersion"], each["kind"]) not in SCHEMAS:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_owners_of_custom_resources_know_every_field(objects: list[Object]) -> None:
    for each in objects:
        if (schema := SCHEMAS.get((each["apiVersion"], each["kind"]))) is not None:
            jsonschema.Draft202012Validator(schema).validate(each)


def test_the_files_of_values_show_every_kind() -> None:
    everything = {each["kind"] for each in render(VALUES["everything"])}

    assert everything == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ScaledObject", "TriggerAuthentication",
        "NetworkPolicy", "ServiceMonitor", "Job",
    }  # fmt: skip


def test_a_wrong_field_of_a_custom_resource_would_be_seen() -> None:
    scaled = next(each for each in render(VALUES["digits"]) if each["kind"] == "ScaledObject")
    scaled["spec"]["coolDownPeriod"] = 5

    with pytest.raises(jsonschema.ValidationError, match="coolDownPeriod"):
        jsonschema.Draft202012Validator(SCHEMAS["keda.sh/v1alpha1", "ScaledObject"]).validate(scaled)


def test_every_pod_is_restricted(objects: list[Object]) -> None:
    for name, template in pod_templates(objects):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert container["resources"]["limits"]["memory"]


def test_every_mount_has_its_volume(objects: list[Object]) -> None:
    for name, template in pod_templates(objects):
        volumes = [each["name"] for each in template["spec"]["volumes"]]
        mounted = {each["name"] for container in template["spec"]["containers"] for each in container["volumeMounts"]}
        assert len(volumes) == len(set(volumes))
        assert mounted == set(volumes), name


def test_objects_have_names_of_their_own_that_leave_room_for_keda() -> None:
    longest = render(VALUES["everything"], "--set", "fullnameOverride=", release="r" * 53)
    for objects in (longest, render(VALUES["everything"])):
        places = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(places) == len(set(places))
        for kind, name in places:
            assert len(name) <= (54 if kind == "ScaledObject" else 63), name


def test_two_releases_share_no_object_and_no_pod() -> None:
    first, second = (render(VALUES["digits"], release=name) for name in ("a", "b"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (first, second)]
    labels = [template["metadata"]["labels"] for _, template in pod_templates(second)]

    assert not names[0] & names[1]
    for service in of_kind(first, "Service").values():
        assert not any(service["spec"]["selector"].items() <= each.items() for each in labels)


def test_the_copies_of_custom_resource_definitions_are_whole() -> None:
    page = (crds.HERE / "README.md").read_text()

    for path in crds.files():
        assert path.read_text().startswith("---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition")
        assert path.name in page or f"{path.name.split('_')[0]}_*" in page


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()

    assert f'version = "{chart["appVersion"]}"' in project


def test_every_value_is_in_the_schema_and_every_name_in_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    definitions = schema["definitions"]

    def compare(value: Any, node: dict[str, Any], where: str) -> None:
        if "$ref" in node:
            node = definitions[node["$ref"].rpartition("/")[2]]
        if isinstance(value, dict) and "properties" in node and value:
            assert node["additionalProperties"] is False, where
            assert value.keys() - {"pullPolicy"} <= node["properties"].keys(), where
            assert where == "" or node["properties"].keys() - value.keys() <= set(), (
                f"{where} has no defaults for some of its fields"
            )
            for name, each in value.items():
                compare(each, node["properties"][name], f"{where}.{name}".lstrip("."))

    compare(values, schema, "")


def test_values_files_are_found() -> None:
    assert set(VALUES) >= {"values-dev", "digits", "everything", "nothing"}
    assert all(isinstance(path, Path) for path in VALUES.values())
