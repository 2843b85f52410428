"""What the chart's containers run is what the commands take: flags, variables, ports, probes, and times to drain."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from prometheus_client import CollectorRegistry

from gateway.scaler.metadata import trigger_of
from gateway.settings import GatewaySettings
from penstock.cli import group
from penstock.cli.repositories import split
from penstock.cli.settings import chosen, transport_settings
from protocol.naming import Names
from protocol.runtime.status import StatusServer
from tests.infra.chart import VALUES, Object, containers, flag, matches, of_kind, pod_templates, render
from workers.settings import WorkerSettings
from workers.supervision.supervisor import KILL_AFTER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECRETS = {
    "PENSTOCK_API_KEY": "key",
    "PENSTOCK_SIGNING_SECRET": "0123456789abcdef0123456789abcdef",
    "PENSTOCK_REDIS": "redis://:password@redis:6379/0",
    "PENSTOCK_KAFKA_SASL_USERNAME": "user",
    "PENSTOCK_KAFKA_SASL_PASSWORD": "password",
    "PENSTOCK_WORKER": "penstock-worker-digits-7c9f-x2x",
}
"""What the references of the variables hold."""


@pytest.fixture(scope="module", params=VALUES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(VALUES[request.param])


def environment(container: Object) -> dict[str, str]:
    """The variables of ours that a container gets."""
    return {
        each["name"]: each.get("value", SECRETS.get(each["name"], ""))
        for each in container.get("env", [])
        if each["name"].startswith("PENSTOCK_")
    }


def parsed(container: Object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """The command and its flags, as the command itself understands the arguments; mounted files are empty ones in `folder`."""
    for mount in container["volumeMounts"]:
        (folder / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
    arguments = []
    for each in container["args"][1:]:
        name, _, value = each.partition("=")
        if value.startswith(tuple(mount["mountPath"] for mount in container["volumeMounts"])):
            path = folder / value.lstrip("/")
            if path.suffix and not path.exists():
                path.write_text("")
            value = str(path)
        arguments.append(f"{name}={value}")
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    command = group.get_command(click.Context(group), container["args"][0])
    assert command is not None, f"there is no penstock {container['args'][0]}"
    assert set(environment(container)) <= {
        str(each.envvar) for each in command.params if isinstance(each, click.Option)
    } | {"PENSTOCK_REDIS"}
    return container["args"][0], command.make_context(container["args"][0], arguments).params


def test_the_commands_take_the_flags_and_their_values(
    objects: list[Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, container in containers(objects):
        with monkeypatch.context() as patch:
            command, flags = parsed(container, tmp_path, patch)
        if command == "gateway":
            settings = GatewaySettings(**chosen(GatewaySettings, flags))
            assert (settings.host, settings.api_key) == ("0.0.0.0", "key")
        elif command == "worker":
            worker = WorkerSettings(**chosen(WorkerSettings, split(flags)))
            assert worker.worker == SECRETS["PENSTOCK_WORKER"]
        transport = transport_settings(bus_only=command == "topics", **flags)
        assert transport.kafka


def test_no_secret_is_an_argument(objects: list[Object]) -> None:
    for _, container in containers(objects):
        assert not [each for each in container["args"] if re.search("password|secret|api-key", each)]


@pytest.mark.parametrize("name", ["nothing", "digits", "everything"])
def test_the_url_of_redis_comes_from_one_place(name: str) -> None:
    for owner, container in containers(render(VALUES[name])):
        if container["args"][0] != "topics":
            given = [each for each in container["args"] if each.startswith("--redis=")]
            named = (
                [each for each in container["env"] if each["name"] == "PENSTOCK_REDIS"] if "env" in container else []
            )
            assert len(given) + len(named) == 1, owner


def test_ports_are_those_that_the_flags_open(objects: list[Object]) -> None:
    flags = {"http": "http-port", "grpc": "grpc-port", "metrics": "metrics-port"}
    for _, container in containers(objects):
        for port in container.get("ports", []):
            assert flag(container, flags[port["name"]]) == str(port["containerPort"])


def test_probes_ask_for_routes_that_answer(objects: list[Object]) -> None:
    paths = set()
    for _, container in containers(objects):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if container["args"][0] == "topics":
                assert kind not in container
                continue
            probe = container[kind]["httpGet"]
            assert probe["port"] == "metrics"
            assert probe["port"] in {each["name"] for each in container["ports"]}
            assert probe["path"].endswith("/ready" if kind == "readinessProbe" else "/live")
            paths.add(probe["path"])
    assert {path: asyncio.run(answer(path)) for path in paths} == dict.fromkeys(paths, 200)


async def answer(path: str) -> int:
    """The status with which the port of the metrics answers."""

    async def ready() -> list[str]:
        return []

    server = StatusServer(CollectorRegistry(), ready)
    await server.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status
    finally:
        await server.close()


def test_a_pod_is_killed_only_after_its_drain(objects: list[Object]) -> None:
    for _, template in pod_templates(objects):
        (container,) = template["spec"]["containers"]
        if container["args"][0] in {"gateway", "worker"}:
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            drain = float(flag(container, "drain-grace"))
            assert template["spec"]["terminationGracePeriodSeconds"] > before + drain + KILL_AFTER
            assert (before > 0) == (container["args"][0] == "gateway")


def test_a_worker_may_load_models_as_long_as_it_is_told(objects: list[Object]) -> None:
    for _, container in containers(objects):
        if container["args"][0] == "worker":
            for kind in ("startupProbe", "livenessProbe"):
                probe = container[kind]
                assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_no_worker_is_without_a_partition(objects: list[Object]) -> None:
    scaled = of_kind(objects, "ScaledObject")
    for name, container in containers(objects):
        if container["args"][0] == "worker":
            deployment = of_kind(objects, "Deployment")[name]
            most = scaled[name]["spec"]["maxReplicaCount"] if name in scaled else deployment["spec"]["replicas"]
            assert int(flag(container, "partitions")) >= max(most, 4)


def test_only_unscaled_deployments_say_how_many(objects: list[Object]) -> None:
    scalers = [*of_kind(objects, "ScaledObject").values(), *of_kind(objects, "HorizontalPodAutoscaler").values()]
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in scalers]
    deployments = of_kind(objects, "Deployment")

    assert len(targets) == len(set(targets))
    assert set(targets) <= deployments.keys()
    for name, deployment in deployments.items():
        assert ("replicas" in deployment["spec"]) == (name not in targets), name


def test_the_first_worker_has_time_to_announce_its_models(objects: list[Object]) -> None:
    deployments = of_kind(objects, "Deployment")
    for name, scaled in of_kind(objects, "ScaledObject").items():
        probe = deployments[name]["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        assert scaled["spec"]["initialCooldownPeriod"] >= probe["periodSeconds"] * probe["failureThreshold"] - 4


def test_keda_finds_the_scaler_and_may_ask_it(objects: list[Object]) -> None:
    services, policies = of_kind(objects, "Service"), of_kind(objects, "NetworkPolicy")
    for scaled in of_kind(objects, "ScaledObject").values():
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "external-push":
                host, _, port = trigger["metadata"]["scalerAddress"].partition(":")
                name, namespace, svc = host.split(".")
                assert (namespace, svc) == ("models", "svc")
                (opened,) = services[name]["spec"]["ports"]
                assert int(port) == opened["port"]
                assert policies[name]["spec"]["ingress"][1]["ports"] == [{"port": opened["targetPort"]}]


def test_selectors_select_the_pods_that_they_mean(objects: list[Object]) -> None:
    pods = {name: template["metadata"]["labels"] for name, template in pod_templates(objects)}
    deployments = of_kind(objects, "Deployment")
    for name, deployment in deployments.items():
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [each for each, labels in pods.items() if matches(selector, labels)] == [name]
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        selector = budget["spec"]["selector"]["matchLabels"]
        assert [each for each, labels in pods.items() if matches(selector, labels)] == [name]
    for name, service in of_kind(objects, "Service").items():
        selected = [each for each, labels in pods.items() if matches(service["spec"]["selector"], labels)]
        assert selected == [name] if name in pods else set(selected) == set(pods), name
    assert of_kind(objects, "PodDisruptionBudget").keys() == deployments.keys()


def test_every_pod_is_in_one_network_policy_that_opens_its_ports(objects: list[Object]) -> None:
    policies = of_kind(objects, "NetworkPolicy")
    for _, template in pod_templates(objects) if policies else ():
        labels = template["metadata"]["labels"]
        (policy,) = [each for each in policies.values() if matches(each["spec"]["podSelector"]["matchLabels"], labels)]
        opened = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        assert opened == {port["name"] for port in template["spec"]["containers"][0].get("ports", [])}
        assert {"port": 53, "protocol": "UDP"} in policy["spec"]["egress"][0]["ports"]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_prometheus_finds_every_process() -> None:
    objects = render(VALUES["everything"])
    (monitor,) = of_kind(objects, "ServiceMonitor").values()
    services = of_kind(objects, "Service").values()
    found = [
        each for each in services if matches(monitor["spec"]["selector"]["matchLabels"], each["metadata"]["labels"])
    ]

    assert [each["metadata"]["name"] for each in found] == ["a-name-that-has-26-letters-metrics"]
    assert [each["port"] for each in monitor["spec"]["endpoints"]] == [
        each["name"] for each in found[0]["spec"]["ports"]
    ]


def test_a_gpu_group_asks_for_gpus_where_they_are() -> None:
    deployment = of_kind(render(VALUES["everything"]), "Deployment")[
        "a-name-that-has-26-letters-worker-a-name-of-20-letters"
    ]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert container["image"] == "registry.example/penstock-cuda:1"
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 2}
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["runtimeClassName"] == "nvidia"
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert flag(container, "model-cache-bytes") == str(200 * 1024**3)


STRANGE = [
    "plain",
    "with-dash",
    "dots.and_bars",
    "Ä",
    "日本語",
    "🙂",
    "100%",
    "{{.Values}}",
    "'quoted\"",
    "a\\b",
    "true",
    "#x",
    "*",
]


@pytest.mark.parametrize("model", STRANGE)
def test_topics_have_the_names_that_workers_read(model: str) -> None:
    values = json.dumps({"lag": {"models": [{"name": model, "versions": ["7"]}], "scaling": {"trigger": "kafka"}}})
    objects = render(VALUES["nothing"], "--set-json", f"workerGroups={values}")
    (scaled,) = of_kind(objects, "ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]

    assert trigger["metadata"]["topic"] == trigger["metadata"]["consumerGroup"] == Names().infer_topic(model, "7")


@pytest.mark.parametrize("model", STRANGE)
def test_the_topic_job_and_the_scaler_get_the_models_names(model: str) -> None:
    values = json.dumps({"push": {"models": [{"name": model, "versions": ["7"]}, {"name": "other"}]}})
    objects = render(VALUES["nothing"], "--set-json", f"workerGroups={values}", "--set", "topics.enabled=true")
    (job,) = of_kind(objects, "Job").values()
    (scaled,) = of_kind(objects, "ScaledObject").values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = group.get_command(click.Context(group), "topics")
    assert command is not None

    (topic,) = command.make_context("topics", container["args"][1:]).params["wanted"]
    assert (topic.model, topic.version, topic.partitions) == (model, "7", 4)
    assert scaled["spec"]["triggers"][0]["metadata"]["models"].split(",") == [model, "other"]


def test_the_traps_of_committed_lag_are_avoided() -> None:
    scaled = of_kind(render(VALUES["everything"]), "ScaledObject")["a-name-that-has-26-letters-worker-lag"]
    behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

    assert [each["metadata"]["topic"] for each in scaled["spec"]["triggers"]] == [
        Names("team-a").infer_topic(model, version)
        for model, version in (("ä.b-c", "1"), ("plain", "1"), ("plain", "2"))
    ]
    for trigger in scaled["spec"]["triggers"]:
        said = trigger["metadata"]
        assert (said["activationLagThreshold"], said["offsetResetPolicy"]) == ("0", "earliest")
        assert (said["excludePersistentLag"], said["scaleToZeroOnInvalidOffset"]) == ("false", "false")
        assert (said["sasl"], said["tls"]) == ("scram_sha512", "enable")
        assert trigger["authenticationRef"]["name"] in of_kind(render(VALUES["everything"]), "TriggerAuthentication")
    assert behaviour["scaleUp"]["tolerance"] == behaviour["scaleDown"]["tolerance"] == "0"
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 600


def test_the_scaler_understands_its_triggers(objects: list[Object]) -> None:
    for scaled in of_kind(objects, "ScaledObject").values():
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "external-push":
                asked = trigger_of(trigger["metadata"])
                assert asked.models == set(trigger["metadata"]["models"].split(","))
                assert asked.policy.most == scaled["spec"]["maxReplicaCount"]
                assert asked.policy.least == scaled["spec"]["minReplicaCount"]
                assert asked.policy.window == 0, "the windows of HPA and KEDA are added to this one"


def test_the_scaler_knows_the_tolerance_that_hpa_has() -> None:
    for given, expected in (("", None), ("0.05", "0.05")):
        objects = render(VALUES["digits"], "--set-string", f"workerGroups.digits.scaling.tolerance={given}")
        (scaled,) = of_kind(objects, "ScaledObject").values()
        behaviour = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        said = [scaled["spec"]["triggers"][0]["metadata"], behaviour["scaleUp"], behaviour["scaleDown"]]
        assert [each.get("tolerance") for each in said] == [expected] * 3
