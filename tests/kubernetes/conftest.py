"""One control plane of each kind for all tests of this folder; each test has a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from infra.kubernetes.plane import Plane, plane

NEEDED = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000},
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "low"}, "value": 10},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
]
"""What the chart's values name and a cluster has."""


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """etcd and the API server: objects are judged and kept, and nobody acts on them."""
    with plane(tmp_path_factory.mktemp("api"), "api", say=print) as running:
        running.apply(*NEEDED)
        yield running


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Also controllers, a scheduler and made-up nodes."""
    with plane(tmp_path_factory.mktemp("plane"), "nodes", say=print) as running:
        running.apply(*NEEDED)
        yield running


def restricted(plane: Plane) -> Iterator[str]:
    """A new namespace that takes only restricted pods."""
    name = f"models-{secrets.token_hex(4)}"
    modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": modes}})
    yield name
    plane.run("kubectl", "delete", "namespace", name, "--wait=false")


@pytest.fixture
def space(api_server: Plane) -> Iterator[str]:
    """A restricted namespace of the API server."""
    yield from restricted(api_server)


@pytest.fixture
def namespace(control_plane: Plane) -> Iterator[str]:
    """A restricted namespace of the whole control plane."""
    yield from restricted(control_plane)
