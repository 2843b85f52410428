"""A Deployment follows the work in a real Kafka: our scaler tells KEDA, and KEDA and the horizontal pod autoscaler change it.

KEDA is KEDA's own operator and adapter; where there was no time to build them, a client in their place. The pods are made up: a
worker process of this machine stands for their containers.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from infra.kubernetes import keda
from infra.kubernetes.plane import Plane
from tests.integration.fleet import Fleet, Process, fleet, wait_for
from tests.integration.repositories import COUNT, write_model
from tests.kubernetes.objects import KINDS, Timeline, install, names, ready, until
from tests.kubernetes.scaling_client import ScalingClient

pytestmark = [pytest.mark.kubernetes, pytest.mark.servers, pytest.mark.timeout(900)]

WORKERS = "penstock-worker-count"
MILLISECONDS = 400
"""Each request takes a worker so long."""
REQUESTS = 40


@pytest.fixture
def plane_with_keda(control_plane: Plane) -> Iterator[Plane]:
    """The whole control plane, and KEDA, which acts on all ScaledObjects meanwhile."""
    with keda.keda(control_plane, *keda.find(say=print)):
        yield control_plane


def installed(plane: Plane, namespace: str, folder: Path, running: Fleet, scaler: Process) -> None:
    """A small group that is scaled quickly; KEDA asks a process of this machine instead of the scaler's pod, which is made up."""
    said = {
        "fleet": {"kafka": running.kafka, "redis": running.redis, "prefix": running.prefix},
        "gateway": {"autoscaling": {"enabled": False}, "replicas": 1},
        "topics": {"enabled": False},
        "workerGroups": {
            "count": {
                "models": [{"name": "count", "versions": ["1"]}],
                "startSeconds": 10,
                "scaling": {
                    "maxReplicas": 4, "drainTargetSeconds": 2, "coldStartSeconds": 2, "cooldownSeconds": 5, "scaleDownSeconds": 10,
                },
            }
        },
    }  # fmt: skip
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(said))
    install(plane, namespace, path)
    address = {
        "op": "replace",
        "path": "/spec/triggers/0/metadata/scalerAddress",
        "value": f"127.0.0.1:{scaler.grpc_port}",
    }
    plane.run(
        "kubectl", "patch", "scaledobject", WORKERS, "-n", namespace, "--type=json", f"--patch={json.dumps([address])}"
    )


def test_keda_follows_the_backlog_from_zero_to_many_and_back(
    plane_with_keda: Plane,
    namespace: str,
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    with known_model(kafka_bootstrap, redis_url, tmp_path) as fleet_and_processes:
        told = followed(plane_with_keda, namespace, tmp_path, *fleet_and_processes, contextlib.nullcontext)
    tell(f"KEDA: {told}")


def test_a_client_in_kedas_place_follows_it_too(
    control_plane: Plane,
    namespace: str,
    kafka_bootstrap: str,
    redis_url: str,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    with known_model(kafka_bootstrap, redis_url, tmp_path) as fleet_and_processes:
        told = followed(
            control_plane,
            namespace,
            tmp_path,
            *fleet_and_processes,
            lambda: ScalingClient(control_plane, namespace, WORKERS),
        )
    tell(f"a client in KEDA's place: {told}")


def followed(
    plane: Plane, namespace: str, folder: Path, running: Fleet, gateway: Process, scaler: Process,
    scaling: Callable[[], contextlib.AbstractContextManager[object]],
) -> str:  # fmt: skip
    """Requests come while there is no worker, are answered, and no more come; says when the replicas changed."""
    installed(plane, namespace, folder, running, scaler)
    with scaling(), Timeline(plane, namespace, WORKERS) as seen:
        seen.when("nothing to do, no worker", lambda replicas: replicas == 0, 120)
        began = time.monotonic()
        for answer in calls(gateway, REQUESTS, {"prefer": "respond-async"}):
            assert answer.status_code == 202, answer.text
        first = seen.when("one worker", lambda replicas: replicas >= 1, 60) - began
        most = seen.when("four workers", lambda replicas: replicas == 4, 120) - began
        until("the pods are ready", lambda: ready(plane, namespace, WORKERS) == 4)
        pods = time.monotonic() - began
        metrics = [each["spec"]["metrics"] for each in plane.get("-n", namespace, "horizontalpodautoscalers")["items"]]
        running.add_worker("--partitions", "4")
        wait_for("the answers", lambda: scaler.metric("penstock_backlog_requests") == 0, 180.0)
        drained = time.monotonic()
        none = seen.when("no worker", lambda replicas: replicas == 0, 180) - drained
    plane.run("helm", "uninstall", "penstock", "-n", namespace)
    for (metric,) in metrics:
        assert metric["external"]["metric"]["name"] == "s0-penstock-workers"
        assert metric["external"]["target"]["averageValue"] == "1"
    assert set(seen.replicas) <= set(range(5))
    until("everything is gone", lambda: not names(plane, namespace, f"{KINDS},replicasets,pods"))
    return (
        f"{REQUESTS} requests at zero: a replica after {first:.2f} s, 4 after {most:.1f} s, pods ready after {pods:.1f} s;"
        f" none {none:.1f} s after the last answer; replicas were {seen.replicas}"
    )


def calls(gateway: Process, number: int, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answers of calls that take a worker `MILLISECONDS` each."""
    body = {"inputs": [{"name": "NUMBER", "datatype": "INT64", "shape": [1, 1], "data": [MILLISECONDS]}]}
    with httpx.Client(base_url=gateway.url, timeout=60.0) as caller:
        for _ in range(number):
            yield caller.post("/v2/models/count/infer", json=body, headers=headers)


@contextlib.contextmanager
def known_model(kafka: str, redis: str, folder: Path) -> Iterator[tuple[Fleet, Process, Process]]:
    """A gateway and a scaler that know a model and its speed from a worker that is gone."""
    repository = folder / "models"
    write_model(repository, "count", COUNT % (folder / "counts"))
    with fleet(kafka, redis, f"k{time.time_ns() % 10**9}", folder, repository) as running:
        gateway, scaler = running.add_gateway(), running.add_scaler()
        first = running.add_worker("--partitions", "4")
        running.wait_ready(1, 180.0)
        assert [answer.status_code for answer in calls(gateway, 5, {})] == [200] * 5
        wait_for("its speed", lambda: scaler.metric("penstock_ready_workers") == 1)
        assert first.stop() == 0
        running.workers.clear()
        yield running, gateway, scaler
