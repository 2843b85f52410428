"""The benchmark against the real thing: `penstock serve`, and a gateway and a worker on Kafka and Redis."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from loadtest import direct, interpreters, models, payloads, systems
from loadtest.compare import Compare, Plan
from loadtest.comparison import Comparison, Server
from loadtest.connections import HttpTarget
from loadtest.run import OpenPlan, closed_point, open_point
from loadtest.scenarios import SCENARIOS
from loadtest.survey import QUICK, Survey
from loadtest.targets import TargetChoice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_a_small_survey_of_one_process(tmp_path: Path) -> None:
    plan = dataclasses.replace(QUICK, models=("addsub",), systems=("embedded",), callers=(1,), closed_s=1.0, open_s=1.0)
    said: list[str] = []
    survey = Survey(dataclasses.replace(plan, soak_s=2.5), tmp_path, said.append)
    survey.run()
    server = survey.results.servers["embedded"]
    (alone,), (half,) = server.models["addsub"].closed, server.models["addsub"].open
    assert alone.rate > 50
    assert alone.errors == 0
    assert alone.batch == 1.0
    assert alone.cpu_us["server"] > 10
    assert half.outcomes["ok"] == sum(half.outcomes.values()) > 0
    assert half.batch >= 1
    assert server.memory_mib["first answer, addsub alone"]["server"] > 10
    (soak,) = survey.results.soaks
    assert len(soak.series) >= 2
    assert any(line.startswith("embedded: addsub, 1 callers") for line in said)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_binary_tensors_are_compared_in_alternated_rounds(tmp_path: Path) -> None:
    here = dataclasses.replace(interpreters.THIS_ONE, version="this")
    plan = Plan((here,), "false {repository} {port}", scenarios=("image",), rounds=2, seconds=1, warmup=1)
    compare = Compare(plan, tmp_path, Comparison({}), print)
    compare.run()
    result = compare.results.scenarios["image"]
    assert compare.results.about["Triton"].startswith("did not start")
    assert result.servers() == [Server("python", "this"), Server("onnx", "this")]
    order = [(sample.round, sample.callers, sample.role) for sample in result.samples]
    assert order == [
        (index, callers, role)
        for index, roles in enumerate((("python", "onnx"), ("onnx", "python")))
        for callers in SCENARIOS["image"].callers
        for role in roles
    ]
    for sample in result.samples:
        assert sample.errors == 0
        assert sample.rate > 1
        assert sample.cpu_us["server"] > 10
        assert sample.generator_us > 0
        assert min(sample.spin_ns) > 1


@pytest.mark.servers
@pytest.mark.usefixtures("kafka_installation")
def test_a_fleet_is_loaded_through_its_gateway_and_straight_through_kafka(tmp_path: Path) -> None:
    repository = models.write_repository(tmp_path, ["addsub"])
    pool = payloads.build(models.MODELS["addsub"].inputs, 64, reference=direct.load(repository / "addsub"))
    with systems.fleet(repository, None, "addsub", pool) as fleet:
        over_http = open_point(HttpTarget(fleet.address("addsub"), pool), OpenPlan(100, 1.0))
        choice = TargetChoice(
            f"kafka://{fleet.kafka}", "addsub", redis=fleet.redis, prefix=fleet.prefix, repository=repository
        )
        over_kafka = closed_point(choice.open(), callers=8, duration=1.0)
        rows, executions = fleet.executed("addsub")
        memory = fleet.memory_mib()
    assert over_http.outcomes["ok"] == sum(over_http.outcomes.values()) > 50
    assert over_kafka.rate > 10
    assert over_kafka.errors == 0
    assert rows >= executions > 10
    assert {"gateway", "worker"} <= set(memory)
