"""The benchmark of the doors: what is sent, how h2load's output is read, and the page. No server."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.doors import h2load
from loadtest.doors.report import write
from loadtest.doors.results import DoorPoint, DoorResults
from protocol.errors import FleetError

OUTPUT = """
finished in 4.00s, 3036.33 req/s, 715.52KB/s
requests: 9109 total, 9109 started, 9109 done, 9109 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 9109 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.10MB (2198091) total, 36.08KB (36948) headers (space savings 96.04%), 2.16MB (2268652) data
"""
LOG = "1\t200\t1000\n2\t200\t3000\n3\t200\t2000\n"


def test_a_message_has_its_length_before_it() -> None:
    assert h2load.framed(b"abc") == b"\0\0\0\0\3abc"


def test_the_output_becomes_a_point() -> None:
    point = h2load.parse(OUTPUT, LOG, 32, 3, 249)
    assert (point.callers, round(point.rate), point.errors) == (32, 3036, 0)
    assert point.latency_ms["p50"] == 2.0
    assert point.latency_ms["max"] == 3.0


def test_answers_of_another_size_are_failures() -> None:
    with pytest.raises(FleetError, match="the calls fail"):
        h2load.parse(OUTPUT, LOG, 32, 3, 300)


def test_an_output_without_a_result_says_what_it_had() -> None:
    with pytest.raises(FleetError, match="cannot connect"):
        h2load.parse("cannot connect", LOG, 1, 1, 1)


def test_the_page_has_ratios_of_the_same_round(tmp_path: Path) -> None:
    points = [
        DoorPoint(index, "grpc", server, "grpc", "addsub", 32, rate, 2.0, 3.0, {"server": 100.0}, 10.0, 0)
        for index, (theirs, ours) in enumerate([(1000.0, 900.0), (2000.0, 2400.0), (1000.0, 1000.0)])
        for server, rate in (("triton", theirs), ("embedded", ours))
    ]
    results = DoorResults()
    results.replace("grpc", points, {"cores": "two"})
    results.save(tmp_path / "results.json")
    write(DoorResults.load(tmp_path / "results.json"), tmp_path / "doors.md")
    text = (tmp_path / "doors.md").read_text()
    row = next(line for line in text.splitlines() if "embedded" in line and line.startswith("|"))
    assert "| 1.00 | 0.90 | 1.20 |" in row
