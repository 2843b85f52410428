from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loadtest import wrk
from loadtest.connections import Address
from loadtest.payloads import Pool
from protocol.errors import FleetError
from tests.loadtest.conftest import V2Server

RECORDED = """\
Running 2s test @ http://127.0.0.1:8000
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.93ms  362.06us  10.41ms   95.84%
    Req/Sec     4.17k   342.13     4.57k    80.95%
  8714 requests in 2.10s, 4.32MB read
  Non-2xx or 3xx responses: 14
Requests/sec:   4149.52
Transfer/sec:      2.06MB
{"requests":8714,"duration_us":2100000,"bytes":4529280,"connect":0,"read":3,"write":0,"status":14,"timeout":1,\
"p50":1868,"p90":2110,"p95":2300,"p99":3204,"p99.9":9871,"mean":1931.250,"max":10410}
"""


def test_the_outcome_is_read_from_recorded_output() -> None:
    point = wrk.parse(RECORDED, callers=8)
    assert point.callers == 8
    assert point.seconds == pytest.approx(2.1)
    assert point.rate == pytest.approx((8714 - 14) / 2.1)  # refused requests are not answers
    assert point.errors == 14 + 3 + 1
    assert point.latency_ms == {
        "p50": 1.868, "p90": 2.11, "p95": 2.3, "p99": 3.204, "p99.9": 9.871, "mean": 1.93125, "max": 10.41,
    }  # fmt: skip


def test_output_without_an_outcome_is_quoted() -> None:
    with pytest.raises(FleetError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n", 1)


def test_the_command_names_everything() -> None:
    address = Address("10.0.0.1", 8000, "m", "2")
    line = wrk.command(address, Path("bodies"), 32, 4.6, {"Authorization": "Bearer x"})
    assert line[:7] == ["wrk", "--threads", "1", "--connections", "32", "--duration", "5s"]
    assert line[-5:] == ["--", "bodies", "/v2/models/m/versions/2/infer", "Authorization", "Bearer x"]
    assert "http://10.0.0.1:8000" in line


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_wrk_rotates_through_all_bodies(threaded_server: V2Server, pool: Pool) -> None:
    point = wrk.run(threaded_server.address, pool, callers=2, seconds=1)
    assert point.errors == 0
    assert point.rate > len(pool)
    assert 0 < point.generator_us < 1e6 / point.rate
    assert 0 < point.latency_ms["p50"] <= point.latency_ms["p99"]
    assert threaded_server.bodies == set(pool.bodies)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_a_server_that_is_not_there_is_an_error(pool: Pool) -> None:
    with pytest.raises(FleetError, match="connect"):
        wrk.run(Address("127.0.0.1", 9, "addsub"), pool, callers=1, seconds=1)
