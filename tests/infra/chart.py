"""The Helm chart as its tests see it: rendered by the real helm, and its objects by kind and name."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from infra.kubernetes import programs

ROOT = Path(__file__).parents[2]
CHART = ROOT / "infra" / "helm" / "penstock"
VALUES = {
    path.stem: path for path in [CHART / "values-dev.yaml", *sorted((Path(__file__).parent / "charts").glob("*.yaml"))]
}
"""Files of values that every test of objects goes through, by name."""

Object = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Helm, to its end."""
    command = [str(programs.helm()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def render(values: Path, *more: str, release: str = "penstock", namespace: str = "models") -> list[Object]:
    """The objects that an installation with these values makes; new ones, which a test may change."""
    written = _rendered(values, more, release, namespace)
    return [each for each in yaml.load_all(written, Loader=LOADER) if each]


@functools.cache
def _rendered(values: Path, more: tuple[str, ...], release: str, namespace: str) -> str:
    done = run("template", release, str(CHART), "--namespace", namespace, "-f", str(values), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(values: Path, *more: str) -> str:
    """What helm says when it refuses these values."""
    done = run("template", "penstock", str(CHART), "-f", str(values), *more)
    assert done.returncode != 0, "helm took the values"
    return done.stderr


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pod_templates(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Name of the owner and template of everything that runs pods."""
    for each in objects:
        if each["kind"] in {"Deployment", "Job"}:
            yield each["metadata"]["name"], each["spec"]["template"]


def containers(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Name of the owner and container of every pod."""
    for name, template in pod_templates(objects):
        assert not template["spec"].get("initContainers")
        for container in template["spec"]["containers"]:
            yield name, container


def flag(container: Object, name: str) -> str:
    """The value of a flag in a container's arguments."""
    found = [each for each in container["args"] if each.startswith(f"--{name}=")]
    assert len(found) == 1, f"{name}: {found}"
    return str(found[0].partition("=")[2])


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector of labels selects these labels."""
    return selector.items() <= labels.items()
