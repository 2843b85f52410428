"""The recipe of the images, without a container engine: what they copy, as whom they run, which packages they have."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.infra.chart import ROOT, VALUES, containers, pod_templates, render

TEXT = (ROOT / "infra" / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = {
    match[2]: (match[1], match[3])
    for match in re.finditer(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
"""Stage → what it starts from, and its lines."""


def lines(stage: str) -> list[str]:
    """The instructions of a stage and of those that it starts from."""
    start, text = STAGES[stage]
    own = [line for line in text.splitlines() if line and not line.startswith("#")]
    return (lines(start) if start in STAGES else []) + own


def test_the_last_stage_is_the_one_for_cpus() -> None:
    assert list(STAGES) == ["source", "build", "build-cuda", "base", "cuda", "cpu"]


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_runs_penstock_as_the_charts_user(stage: str) -> None:
    users = {
        template["spec"]["securityContext"]["runAsUser"] for _, template in pod_templates(render(VALUES["digits"]))
    }
    (user,) = [line.split()[1] for line in lines(stage) if line.startswith("USER ")]

    assert {int(part) for part in user.split(":")} == users
    assert 'ENTRYPOINT ["penstock"]' in lines(stage)
    assert any(f"--uid {user.split(':')[0]} " in line for line in lines(stage))


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_has_no_tools_of_the_build(stage: str) -> None:
    copied = [line for line in lines(stage) if line.startswith("COPY")]

    assert copied == [f"COPY --from=build{'-cuda' if stage == 'cuda' else ''} /opt/penstock /opt/penstock"]
    assert not [line for line in lines(stage) if "pip install" in line]


def test_the_packages_are_those_that_the_project_has() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    chosen = re.findall(r"^ARG (?:CUDA_)?EXTRAS=(\S+)", TEXT, re.MULTILINE)

    assert len(chosen) == 2
    for each in chosen:
        assert set(each.split(",")) <= extras.keys()
    assert "onnx-gpu" in chosen[1]
    assert "onnx-gpu" not in chosen[0]


def test_the_image_opens_the_charts_ports() -> None:
    ports = {
        port["containerPort"]
        for _, container in containers(render(VALUES["digits"]))
        for port in container.get("ports", [])
    }
    (exposed,) = [line.split()[1:] for line in lines("cpu") if line.startswith("EXPOSE")]

    assert set(map(int, exposed)) == ports


def test_instructions_are_ones_that_exist() -> None:
    known = {"ARG", "FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}

    assert {line.split()[0] for line in TEXT.splitlines() if line and not line.startswith("#")} <= known
