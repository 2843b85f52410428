import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.local.__main__ import Finding, findings, looked_for, main
from infra.local.process import free_port
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE, named_kafka, named_redis
from protocol.errors import Unavailable

ROOT = Path(__file__).parents[2]


def test_what_cannot_be_had_is_a_finding_with_the_way_out() -> None:
    def nothing() -> str:
        raise Unavailable("install it with `this command`")

    assert looked_for("java", nothing) == Finding("java", found=False, text="install it with `this command`")


@pytest.mark.servers
def test_named_servers_need_nothing_installed(kafka_bootstrap: str, redis_url: str) -> None:
    found = findings({KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url, "PATH": ""})

    assert [finding.what for finding in found] == ["kafka", "redis"]
    assert all(finding.found for finding in found)


def test_jars_that_are_not_there_yet_are_no_reason_to_stop(tmp_path: Path) -> None:
    found = {
        finding.what: finding
        for finding in findings({**os.environ, KAFKA_VARIABLE: "", "PENSTOCK_CACHE": str(tmp_path)})
    }

    assert found["kafka"].found
    assert "when it is first needed" in found["kafka"].text


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output

    assert {"check", "fetch", "fleet", "pin", "up"} <= set(re.findall(r"^  (\w+)  ", shown, re.M))


@pytest.mark.servers
@pytest.mark.usefixtures("kafka_installation")
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_both_until_it_is_ended(ended_by: signal.Signals) -> None:
    ports = ["--kafka-port", str(free_port()), "--redis-port", str(free_port())]
    command = [sys.executable, "-m", "infra.local", "up", *ports]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job of a shell ignores it, and so would its children
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as up:
        assert up.stdout is not None
        export = next(line for line in up.stdout if line.startswith("export "))
        environ = dict(pair.split("=", 1) for pair in export.split()[1:])
        assert named_kafka(environ, timeout=0.0) == f"127.0.0.1:{ports[1]}"
        assert named_redis(environ, timeout=0.0) == f"redis://127.0.0.1:{ports[3]}/0"

        up.send_signal(ended_by)
        assert up.wait(timeout=30) == 0

    with pytest.raises(Unavailable):
        named_kafka(environ, timeout=0.0)
    with pytest.raises(Unavailable):
        named_redis(environ, timeout=0.0)


@pytest.mark.servers
def test_up_says_which_port_is_taken(redis_url: str) -> None:
    taken = redis_url.rsplit(":", 1)[1].partition("/")[0]
    result = CliRunner().invoke(main, ["up", "--redis-port", taken])

    assert result.exit_code == 1
    assert f"port {taken}, which is in use by another program" in result.output
