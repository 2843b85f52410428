"""One control plane of each kind for all tests of this folder; each test has a namespace of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator

import pytest

from infra.kubernetes.plane import Plane, plane
from infra.kubernetes.programs import OutOfTime

NEEDED = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000},
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "low"}, "value": 10},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
]
"""What the chart's values name and a cluster has."""


TIMES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Measured times are kept until the end."""
    config.stash[TIMES] = []


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes a measured time, for the summary."""
    return pytestconfig.stash[TIMES].append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the times."""
    if times := config.stash[TIMES]:
        terminalreporter.section("times")
        for line in times:
            terminalreporter.line(line)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """A program that there was no time to build is the only reason to leave a test out."""
    return (yield from left_out())


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    """The same for fixtures."""
    return (yield from left_out())


def left_out() -> Generator[None, object, object]:
    """Skips what runs out of time."""
    try:
        return (yield)
    except OutOfTime as error:
        pytest.skip(f"LEFT OUT: {error.message}")


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
