"""Values that would not work are refused when they are given, with a sentence that names them."""

from __future__ import annotations

import pytest

from tests.infra.chart import VALUES, refused, render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gateway.replica=3", "additional properties 'replica' not allowed"),
        ("workerGroups.digits.gpus=1", "additional properties 'gpus' not allowed"),
        ("workerGroups.Digits.replicas=1", "Digits"),
        ("workerGroups.a-name-of-21-letters-.replicas=1", "a-name-of-21-letters-"),
        ("fleet.kafka=", "/fleet/kafka"),
        ("fleet.kafka=kafka", "/fleet/kafka"),
        ("fleet.kafka=http://kafka:9092", "/fleet/kafka"),
        ("fleet.redis=", "/fleet/redis"),
        ("fleet.redis=redis:6379", "/fleet/redis"),
        ("fleet.prefix=Team", "/fleet/prefix"),
        ("fleet.logLevel=trace", "/fleet/logLevel"),
        ("fleet.kafkaSecurity.protocol=TLS", "/fleet/kafkaSecurity/protocol"),
        ("fleet.kafkaSecurity.protocol=SASL_SSL", "/fleet/kafkaSecurity"),
        ("gateway.apiKey.name=", "/gateway/apiKey/name"),
        ("gateway.replicas=many", "/gateway/replicas"),
        ("gateway.processes=0", "/gateway/processes"),
        ("gateway.endpointRemovalSeconds=0", "/gateway/endpointRemovalSeconds"),
        ("gateway.maxUnavailable=half", "/gateway/maxUnavailable"),
        ("gateway.extraArgs={host=0.0.0.0}", "/gateway/extraArgs/0"),
        ("workerGroups.digits.repositories={/etc}", "/workerGroups/digits/repositories/0"),
        ("workerGroups.digits.cacheSize=20GB", "/workerGroups/digits/cacheSize"),
        ("workerGroups.digits.gpu.count=-1", "/workerGroups/digits/gpu/count"),
        ("workerGroups.digits.scaling.trigger=cpu", "/workerGroups/digits/scaling/trigger"),
        ("workerGroups.digits.scaling.maxReplicas=0", "/workerGroups/digits/scaling/maxReplicas"),
        ("workerGroups.digits.scaling.drainTargetSeconds=0", "/workerGroups/digits/scaling/drainTargetSeconds"),
        ("workerGroups.digits.scaling.tolerance=0", "/workerGroups/digits/scaling/tolerance"),
        ("workerGroups.digits.models[0].name=a\\,b", "/workerGroups/digits/models/0/name"),
        ("image.digest=sha256:0", "/image/digest"),
        ("networkPolicy.egressPorts={70000}", "/networkPolicy/egressPorts/0"),
        # What a schema cannot compare.
        ("workerGroups.other.replicas=1", "workerGroups.other is scaled by the trigger push, but names no models"),
        ("workerGroups.digits.scaling.minReplicas=5", "minReplicas 5 is more than maxReplicas 4"),
        ("workerGroups.digits.partitions=3", "up to 4 workers share a model version"),
        ("workerGroups.digits.startSeconds=900", "raise it to at least 900"),
    ],
)
def test_a_wrong_value_is_refused(given: str, said: str) -> None:
    assert said in refused(VALUES["digits"], "--set", given)


def test_lag_needs_versions() -> None:
    said = refused(VALUES["everything"], "--set", "workerGroups.a-name-of-20-letters.scaling.trigger=kafka")

    assert "the trigger kafka needs the versions of model resnet" in said


def test_the_defaults_name_no_broker() -> None:
    assert "/fleet/kafka" in refused(VALUES["digits"].parents[3] / "infra" / "helm" / "penstock" / "values.yaml")


def test_a_group_changes_only_what_it_says() -> None:
    more = ("--set", "workerGroups.digits.scaling.maxReplicas=9", "--set", "workerDefaults.scaling.cooldownSeconds=60")
    (scaled,) = [each for each in render(VALUES["digits"], *more) if each["kind"] == "ScaledObject"]

    assert (scaled["spec"]["maxReplicaCount"], scaled["spec"]["cooldownPeriod"]) == (9, 60)
    assert scaled["spec"]["minReplicaCount"] == 0
