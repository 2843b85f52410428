"""Environment variables that look like ours and mean nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.reference import variables
from penstock.cli.variables import FLAGS, problems, service_links

ROOT = Path(__file__).parents[2]


def test_the_variables_of_all_flags_are_known() -> None:
    listed, used = {f"PENSTOCK_{flag}" for flag in FLAGS}, set(variables())

    assert (used - listed, listed - used) == (set(), set()), (
        "to add to FLAGS in penstock/cli/variables.py, and to remove"
    )


def test_the_variables_that_our_own_code_reads_are_known() -> None:
    folders = ("gateway", "workers", "penstock", "protocol", "infra", "loadtest", "tests/simulation", "tests/transport")
    files = [file for folder in folders for file in Path(ROOT, folder).rglob("*.py")]
    named = {name for file in files for name in re.findall(r"\"(PENSTOCK_[A-Z_]+[A-Z])\"", file.read_text())}

    assert {"PENSTOCK_HEARTBEAT_FD", "PENSTOCK_SIMULATION_SEED", "PENSTOCK_TEST_KAFKA"} <= named
    assert list(problems(dict.fromkeys(named, "1"))) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PENSTOCK_HTTP_PROT", "1", "; did you mean PENSTOCK_HTTP_PORT?"),
        ("PENSTOCK_APIKEY", "1", "; did you mean PENSTOCK_API_KEY?"),
        ("PENSTOCK_http_port", "1", "; did you mean PENSTOCK_HTTP_PORT?"),
        ("PENSTOCK_XYZ", "1", "has no effect"),
    ],
)
def test_a_mistyped_one_is_named_with_the_nearest(name: str, value: str, said: str) -> None:
    (text,) = problems({name: value, "PENSTOCK_URL": "http://x"})

    assert text.startswith(f"the environment variable {name} is not known and has no effect")
    assert text.endswith(said)


def test_what_kubernetes_says_of_a_service_called_penstock_is_no_mistake() -> None:
    service = {
        "PENSTOCK_PORT": "tcp://10.0.0.1:8000", "PENSTOCK_SERVICE_HOST": "10.0.0.1", "PENSTOCK_SERVICE_PORT": "8000",
        "PENSTOCK_SERVICE_PORT_HTTP": "8000", "PENSTOCK_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "PENSTOCK_PORT_8000_TCP_ADDR": "10.0.0.1", "PENSTOCK_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_GATEWAY_PORT_8000_TCP_PROTO": "tcp", "PENSTOCK_GATEWAY_PORT": "tcp://10.0.0.1:8000",
    }  # fmt: skip

    assert list(problems(service)) == []


def test_every_command_warns_on_standard_error_and_goes_on() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "doctor", "--json"],
        capture_output=True, text=True, timeout=50, check=False, cwd=ROOT, env=environment | {"PENSTOCK_KAFKAA": "secret"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "penstock: the environment variable PENSTOCK_KAFKAA is not known and has no effect; did you mean PENSTOCK_KAFKA?\n"
    )
    assert done.stdout.startswith("[")


def test_a_port_that_kubernetes_describes_is_no_value_of_our_flag() -> None:
    """Of a service called penstock-grpc."""
    set_by_kubernetes = {
        "PENSTOCK_GRPC_PORT": "tcp://10.0.0.1:8001",
        "PENSTOCK_HTTP_PORT": "8000",
        "PENSTOCK_URL": "tcp://x",
    }

    assert service_links(set_by_kubernetes) == ["PENSTOCK_GRPC_PORT"]
