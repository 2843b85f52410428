"""The output of `make demo` as a newcomer sees it, and each command that it ends with."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.process import free_port
from penstock.client import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "digits" / "demo.py"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


def load() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("digits_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


demo = load()


def run(*arguments: str, home: Path, **environment: str) -> str:
    """What the demo prints with an empty home and no variables but these."""
    done = subprocess.run(
        [sys.executable, str(DEMO.relative_to(ROOT)), *arguments],
        capture_output=True,
        timeout=100,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "HOME": str(home), "PATH": "/usr/bin:/bin", **environment},
        check=False,
    )
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b""), text
    return text


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_demo_shows_its_pictures_and_figures_before_it_says_that_it_stopped(tmp_path: Path, encoding: str) -> None:
    text = run("--rounds", "1", home=tmp_path, PYTHONIOENCODING=encoding)

    lines = [line for line in text.splitlines() if line]
    order = [
        "one-process fleet ready", "read 0, is 0", "accuracy ", "speed ", "latency ", "batches ", "inside ", "stopped cleanly",
        "what to try next",
    ]  # fmt: skip
    found = [next(number for number, line in enumerate(lines) if line.strip().startswith(start)) for start in order]
    assert found == sorted(found)
    assert re.search(r"inside +the median call was answered in [\d.]+ (ms|µs|.s|s): .* in the model", text)
    after = {name: text.partition(f"\n{name} ")[2] for name in ("latency", "batches")}
    for name, rest in after.items():
        shown = re.match(r".*\n((?:  +\d.* \d+\n)+)", rest)
        assert shown is not None, name
        assert 1 <= len(shown[1].splitlines()) <= 8, name


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_each_command_at_the_end_works_as_it_is_printed(tmp_path: Path) -> None:
    """The ports alone are others: by the variables of the flags, and in curl's address."""
    code = f"import sys; sys.path.insert(0, {str(DEMO.parent)!r}); import demo; print(demo.what_next())"
    ports = [free_port() for _ in range(3)]
    environment = {
        "PATH": PATH, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PENSTOCK_HTTP_PORT": str(ports[0]),
        "PENSTOCK_METRICS_PORT": str(ports[1]), "PENSTOCK_GRPC_PORT": str(ports[2]),
        "PENSTOCK_URL": f"http://localhost:{ports[0]}", "PENSTOCK_GATEWAY": f"http://localhost:{ports[0]}",
    }  # fmt: skip
    text = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    commands = [line.partition("  # ")[0].strip() for line in text.splitlines() if "  # " in line]
    assert 4 <= len(commands) <= 6, text
    serve, *others = commands

    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {serve}"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
        try:
            with Client(environment["PENSTOCK_URL"]) as client:
                wait_for("the server", client.ready)
            address = re.findall(r"http://localhost:8000\S*/", text)[0].replace("8000", str(ports[0]))
            page = httpx.get(address, headers={"accept": "text/html"})
            assert (page.status_code, "<html" in page.text) == (200, True)
            for command in others:
                line = command.replace("localhost:8002", f"localhost:{ports[1]}")
                done = subprocess.run(
                    ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
                assert (done.returncode, done.stderr) == (0, ""), (command, done.stdout, done.stderr)
                assert done.stdout.strip(), command
        finally:
            server.terminate()
            assert server.wait(30) == 0
    assert (tmp_path / "models" / "mymodel" / "1" / "model.py").exists()
    assert (ROOT / text.split()[-1]).exists()


@pytest.mark.slow
def test_it_also_asks_a_server_that_runs_and_prints_its_figures_as_json(tmp_path: Path) -> None:
    server = Process("serve", tmp_path / "serve.log", "serve", "--model-repository", str(DEMO.parent / "models"))
    try:
        with Client(server.url) as client:
            wait_for("the server", client.ready)
        figures = json.loads(run("--url", server.url, "--rounds", "1", "--json", home=tmp_path))
    finally:
        server.stop()
    assert figures["requests"] == 360
    assert figures["accuracy"] > 0.95
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]


@pytest.mark.slow
def test_ctrl_c_stops_the_fleet_and_shows_no_trace(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(DEMO), "--rounds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert b"ready after" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=40)[0].decode()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.endswith("stopped cleanly\n")


def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--url", f"http://127.0.0.1:{free_port()}", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"a call failed: http://127\.0\.0\.1:\d+ cannot be reached: connection refused.*\n", done.stderr
    )


@given(st.dictionaries(st.integers(1, 300), st.floats(1, 1e6), min_size=1))
def test_any_batches_are_at_most_eight_bars_that_count_each_once(batches: dict[int, float]) -> None:
    ranges = demo.size_ranges(batches)
    assert 1 <= len(ranges) <= demo.MOST_BARS
    assert sum(ranges.values()) == pytest.approx(sum(batches.values()))
    assert len(demo.bars(ranges)) == len(ranges)


@given(st.lists(st.floats(0, 100) | st.floats(0, 1e5), min_size=1))
def test_any_latencies_are_at_most_eight_bars_that_count_each_once(milliseconds: list[float]) -> None:
    ranges = demo.latency_ranges(np.array(milliseconds))
    assert 1 <= len(ranges) <= demo.MOST_BARS
    assert sum(ranges.values()) == len(milliseconds)


def test_bars_are_as_long_as_their_share_and_never_vanish() -> None:
    assert demo.bars({"1 row": 1000.0, "2 rows": 1.0, "3 rows": 0.0}, width=10) == [
        "   1 row ██████████ 1000",
        "  2 rows █ 1",
        "  3 rows  0",
    ]


def test_the_program_is_named_as_it_can_be_started_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    named = demo.program()
    assert subprocess.run([*named.split(), "--version"], capture_output=True, check=False).returncode == 0
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin"]))
    assert demo.program() == "penstock"
