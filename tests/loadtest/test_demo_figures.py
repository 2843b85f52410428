"""The demo beside wrk: the requests are the demo's own, and the page says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.demo import CALLERS, EXAMPLE, DemoPoint, callers, load, markdown, pool_of
from penstock.client import Client
from protocol.errors import FleetError
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks" / "demo.md"


def test_the_page_has_medians_and_ratios_of_the_same_round() -> None:
    points = []
    for number, (demo, wrk) in enumerate([(4000.0, 5000.0), (4400.0, 4400.0), (4200.0, 6000.0)]):
        points.append(DemoPoint("demo", number, demo, 10.0, 20.0, 70.0, 110.0))
        points.append(DemoPoint("wrk", number, wrk, 10.0, 20.0, 20.0, 110.0))
    text = markdown(points, {"processor": "a fast one"})
    assert "| `make demo`, Python client | 4,200 (4,000 to 4,400) | 10.0 (10.0 to 10.0) |" in text
    assert "| wrk | 5,000 (4,400 to 6,000) |" in text
    assert "| demo / wrk | x 0.80 (0.70 to 1.00) | x 1.00 (1.00 to 1.00) |" in text
    assert "| processor | a fast one |" in text


def test_the_page_is_what_its_json_gives_and_is_linked() -> None:
    points, about = load(PAGE.with_suffix(".json"))
    assert PAGE.read_text() == markdown(points, about)
    assert len(points) >= 10
    assert "(benchmarks/demo.md)" in (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.mark.slow
def test_wrk_and_the_callers_send_the_same_requests(tmp_path: Path) -> None:
    pool = pool_of(EXAMPLE / "held_back.npz")
    assert len(set(pool.bodies)) > 300
    assert all(len(body) == len(pool.bodies[0]) for body in pool.bodies)
    server = Process("serve", tmp_path / "serve.log", "serve", "--model-repository", str(EXAMPLE / "models"))
    try:
        with Client(server.url) as client:
            wait_for("the server", client.ready)
        figures = callers(server.url)
        assert figures["requests"] >= 100 * CALLERS
        assert figures["cpu_us"] > 0
    finally:
        server.stop()
    with pytest.raises(FleetError, match="the demo ended with 1"):
        callers(server.url)
