"""docs/kubernetes.md: its values are ones that the chart takes, its names exist, its commands parse; tests/kubernetes runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from infra.kubernetes.__main__ import main
from tests.infra.chart import CHART, ROOT, of_kind, render, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
VALUES = (*re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL),)
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize("text", VALUES)
def test_the_chart_takes_the_pages_values(text: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(text)
    objects = render(tmp_path / "values.yaml")

    assert len(of_kind(objects, "ScaledObject")) == 2


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("helm upgrade")])
def test_helm_takes_the_pages_installations(line: str) -> None:
    _, _, _, release, chart, *more = shlex.split(line)
    done = run(
        "template", release, str(ROOT / chart), *(str(ROOT / each) if each.endswith(".yaml") else each for each in more)
    )

    assert done.returncode == 0, done.stderr


def test_every_file_of_a_command_exists() -> None:
    text = "\n".join([*COMMANDS, (CHART / "values-dev.yaml").read_text()])
    named = set(re.findall(r"[\w./]+/[\w./-]+\.(?:yaml|pbtxt|onnx)", text))

    assert named
    for path in named:
        found = ROOT / path if path.startswith(("infra/", "examples/")) else None
        assert found is None or found.exists(), path


def test_every_value_that_the_page_names_is_one() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def flat(node: object) -> set[str]:
        return {name for key, each in node.items() for name in (key, *flat(each))} if isinstance(node, dict) else set()

    named = set(re.findall(r"`([a-z]+[A-Z][A-Za-z]+)(?::[^`]*)?`", PAGE))
    assert named - flat(values) == {"excludePersistentLag", "offsetResetPolicy"}


def test_the_command_that_the_page_names_has_them() -> None:
    named = re.findall(r"`python -m infra\.kubernetes (\w+)`", PAGE)

    assert set(named) == {"fetch", "up"}
    for each in named:
        assert CliRunner().invoke(main, [each, "--help"]).exit_code == 0
