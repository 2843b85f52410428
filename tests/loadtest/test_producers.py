"""The benchmarks of batch producers: their files, their limit, their page, and each once on a real fleet, briefly."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from loadtest import models
from loadtest.direct import load
from loadtest.producers import lanes, loop, packed, report
from loadtest.producers.files import FileRound
from loadtest.producers.lanes import LanePair, LanePlan
from loadtest.producers.million import MillionRun, Sample
from loadtest.producers.packed import Packed
from loadtest.producers.results import ProducerResults
from loadtest.producers.rows import write_jsonl
from loadtest.results import OpenPoint

POINT = OpenPoint("poisson", 10.0, 1.0, 10.0, 10.0, 50.0, {"ok": 10}, {"p50": 5.0, "p99": 9.0}, {}, [], 1.0, {})


def test_a_file_has_as_many_rows_as_asked_for_and_is_made_once(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows" / "addsub.jsonl", "addsub", 1300)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1300
    assert lines[0] == lines[512] != lines[1]
    assert {name: len(values) for name, values in orjson.loads(lines[0]).items()} == {"INPUT0": 16, "INPUT1": 16}
    path.write_bytes(b"kept")
    assert write_jsonl(path, "addsub", 1300).read_bytes() == b"kept"


def test_the_plain_loop_answers_every_line(tmp_path: Path) -> None:
    folder = models.write_repository(tmp_path / "models", ["addsub"]) / "addsub"
    source, target = write_jsonl(tmp_path / "rows.jsonl", "addsub", 100), tmp_path / "out.jsonl"
    assert loop.run(load(folder), {"INPUT0": "float32", "INPUT1": "float32"}, source, target, 32) == 100
    rows, answers = ([orjson.loads(line) for line in path.read_bytes().splitlines()] for path in (source, target))
    assert [answer["line"] for answer in answers] == list(range(1, 101))
    for row, answer in zip(rows, answers, strict=True):
        assert answer["outputs"]["OUTPUT0"] == [a + b for a, b in zip(row["INPUT0"], row["INPUT1"], strict=True)]


def results() -> ProducerResults:
    return ProducerResults(
        {"files": {"processor": "one"}},
        {"mlp": [FileRound(100.0, 85.0), FileRound(100.0, 75.0), FileRound(100.0, 95.0)]},
        [Packed(1, 10, 100.0, {"worker": 5.0}), Packed(32, 10, 3200.0, {"worker": 0.5})],
        [LanePair(20.0, 0.1, POINT, POINT, 400.0, 1000.0, 11.0)],
        MillionRun(1000, 5.0, [(1.0, "worker-1 is killed")], [Sample(0.5, 10, {"redis": 5.0, "submitter": 70.0})], []),
    )


def test_results_are_what_was_saved(tmp_path: Path) -> None:
    results().save(tmp_path / "a" / "results.json")
    assert ProducerResults.load(tmp_path / "a" / "results.json") == results()
    assert ProducerResults.load(tmp_path / "none.json") == ProducerResults()


def test_the_page_has_every_part_and_its_pictures(tmp_path: Path) -> None:
    report.write(results(), tmp_path / "producers.md")
    page = (tmp_path / "producers.md").read_text()
    assert "| mlp | 100 | 85.0 | 0.85 | 0.75 | 0.95 | 0.80 |" in page
    assert "| 32 | 10 | 3,200 | 0.50 |" in page
    assert "Every line was answered once, in order, with the right values." in page
    for name in ("lanes.png", "million.png"):
        assert f"producers/{name}" in page
        assert (tmp_path / "producers" / name).read_bytes().startswith(b"\x89PNG")
    broken = results()
    assert broken.million is not None
    broken.million.problems = ["3 lines without an answer at the end"]
    report.write(broken, tmp_path / "producers.md")
    assert "3 lines without an answer at the end" in (tmp_path / "producers.md").read_text()


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("kafka_installation")
def test_packed_records_and_both_lanes_are_measured_on_a_real_fleet(tmp_path: Path) -> None:
    repository = models.write_repository(tmp_path, ["addsub"])
    one, many = packed.measure(repository, (1, 32), 6400, print)
    assert (one.rows, one.records, many.rows, many.records) == (1, 200, 32, 200)
    assert many.rate > one.rate, "rows share the costs of their record"
    assert set(one.cpu_us) == {"gateway", "worker", "kafka", "redis"}

    plan = LanePlan("addsub", bounds_ms=(20.0,), loads=(0.001,), seconds=1.0)
    (pair,) = lanes.measure(repository, plan, print)
    assert pair.alone.outcomes["ok"] > 0
    assert pair.beside.outcomes["ok"] > 0
    assert pair.batch_rows_s > 0
