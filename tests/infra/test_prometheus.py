"""infra/prometheus: promtool checks and runs the rules; every metric that they and the dashboard name is one that a fleet shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings
from workers.serving.batch_topic import FULL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "prometheus"
METRIC = re.compile(r"\b(?:penstock|nv)_[a-z0-9_]+\b")
RECORDED = re.compile(r"\bpenstock:[a-z0-9_:]+")
GPU = re.compile(r"nv_gpu_")
"""Only machines with a GPU have these; tests/workers/test_metrics.py has them with a GPU that is made up."""


def promtool() -> str:
    """The program. Without it these tests fail: skipped rules would break unseen."""
    found = shutil.which("promtool")
    if found is None:
        pytest.fail("promtool is not installed: apt-get install --no-install-recommends prometheus")
    return found


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in load(name)["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """(where, expression) of every rule and every panel."""
    for name in ("recording.yml", "alerts.yml"):
        for rule in rules(name):
            yield rule.get("alert") or rule["record"], rule["expr"]
    board = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def named() -> set[str]:
    """Every metric of ours that a rule or the dashboard names."""
    return {metric for _, query in queries() for metric in METRIC.findall(re.sub(r'"[^"]*"', '""', query))}


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules("alerts.yml")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "recording.yml", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(180)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool(), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """As rules, so that promtool reads them."""
    made = [
        {"record": f"query_{number}", "expr": query.replace("$model", "m")}
        for number, (_, query) in enumerate(queries())
        if not query.startswith("label_values(")
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    done = subprocess.run([promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_firing_and_a_quiet_case() -> None:
    cases = [case for test in load("alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert firing == quiet == set(alerts())


def test_every_alert_has_a_section_in_the_runbooks_that_begins_with_status() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:] if part.startswith("Penstock")}
    assert list(sections) == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"warning", "critical"}
        commands = re.findall(r"^    (\S.*)$", sections[name], re.MULTILINE)
        assert commands, name
        assert commands[0].startswith("penstock status"), name
        assert all(part in sections[name] for part in ("**What it means.**", "**Look first at.**", "**Do.**")), name


def test_every_recorded_metric_that_a_rule_reads_is_recorded_and_every_recorded_one_is_read() -> None:
    recorded = {rule["record"] for rule in rules("recording.yml")}
    read = {name for _, query in queries() for name in RECORDED.findall(query)}
    assert read <= recorded
    assert recorded - read <= {"penstock:request_seconds:p99_5m", "penstock:wanted_workers:max"}, "nobody reads it"


def test_the_settings_and_limits_in_the_rules_are_those_of_the_code() -> None:
    settings, fixed = GatewaySettings(), {rule["record"]: rule["expr"] for rule in rules("recording.yml")}
    kafka = dict(
        line.split("=", 1) for line in (ROOT / "infra" / "kafka.properties").read_text().splitlines() if "=" in line
    )
    assert fixed["penstock:deadline_seconds"] == f"vector({settings.default_timeout:.0f})"
    assert fixed["penstock:retention_seconds"] == f"vector({int(kafka['log.retention.hours']) * 3600})"
    assert alerts()["PenstockStoreFilling"]["expr"].endswith(f"> {FULL}")
    assert alerts()["PenstockStoreFull"]["expr"].endswith(f"> {settings.fill_limit}")


def test_panels_do_not_overlap_and_have_a_description() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        place, title = panel["gridPos"], panel["title"]
        assert panel["type"] == "row" or panel["description"], title
        assert place["x"] + place["w"] <= 24, title
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), title) == title
