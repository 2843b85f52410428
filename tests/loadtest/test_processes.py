from __future__ import annotations

import os
import sys

import pytest

from loadtest.processes import Meter, ServerProcess, cores, on_core
from protocol.errors import Unavailable

BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\nimport signal; signal.pause()"


def test_the_window_holds_what_a_child_burnt_and_nothing_of_ours() -> None:
    process = ServerProcess(["-c", "import signal; print('up', flush=True); signal.pause()"], None)
    try:
        while "up" not in process.log():  # starting Python takes CPU time itself
            process.check()
        meter = Meter({"child": process.pid, "ours": os.getpid()})
        with meter.window() as spent:
            sum(index * index for index in range(2_000_000))
        assert spent["ours"] > 0.03
        assert spent["child"] < 0.03
        assert 1 < meter.memory_mib()["child"] < 200
    finally:
        process.stop()


def test_children_count_with_their_root() -> None:
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    process = ServerProcess(["-c", script], None)
    try:
        meter = Meter({"tree": process.pid})
        while "burnt" not in process.log():
            process.check()
        assert meter.cpu_seconds()["tree"] >= 0.25
    finally:
        process.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins processes to cores")
def test_a_child_starts_on_its_core_and_we_stay_on_ours() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    process = ServerProcess(
        ["-c", "import os; print(os.sched_getaffinity(0), flush=True); import signal; signal.pause()"], core
    )
    try:
        while "}" not in process.log():
            process.check()
        assert f"{{{core}}}" in process.log()
        assert os.sched_getaffinity(0) == before
    finally:
        process.stop()


def test_without_a_core_nothing_moves() -> None:
    with on_core(None):
        pass
    server, load = cores()
    assert (server is None and load is None) or server != load


def test_a_server_that_ends_says_why() -> None:
    process = ServerProcess(["-c", "raise SystemExit('no such repository')"], None)
    with pytest.raises(Unavailable, match="no such repository"):  # noqa: PT012  # it takes a while to end
        while True:
            process.check()
    process.stop()
