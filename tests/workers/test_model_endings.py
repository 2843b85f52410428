"""However a model ends or fails, while it is imported, loaded or run: one error record, one sentence, and the author's own line."""

from __future__ import annotations

import itertools
import re
import signal
import textwrap
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from protocol.errors import ConfigError
from protocol.texts import MAX_TEXT
from tests.workers.fleet import fleet, write_model

CONFIG: Final = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
parameters { key: "instance_isolation" value { string_value: "%s" } }
"""
CODE: Final = """
    import ctypes, os, subprocess, sys

    def bad():
        ACT

    if WHEN == "import":
        bad()

    class Model:
        def __init__(self):
            if WHEN == "load":
                bad()

        def predict(self, X):
            if WHEN == "run" and X[0, 0] == 13:
                bad()
            return {"Y": X}
"""
RAISED: Final = {
    "sys.exit(3)": "exited with code 3",
    "sys.exit('no licence')": "exited with code 1: no licence",
    "raise MemoryError()": "MemoryError",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "f = lambda n: f(n + 1); f(0)": "RecursionError: maximum recursion depth exceeded",
    "raise type('Bad', (Exception,), {'__str__': lambda self: 1 / 0})()": "Bad: (its text cannot be made: ZeroDivisionError)",
    "raise type('Bad', (Exception,), {'__str__': lambda self: sys.exit(4)})()": "Bad: (its text cannot be made: SystemExit)",
    "raise ValueError('x' * 10_000_000)": "ValueError: xxx",
    "raise type('Odd', (BaseException,), {})('odd')": "Odd: odd",
    "raise ExceptionGroup('some', [ValueError('one'), KeyError('two')])": "some (2 sub-exceptions); ValueError: one; KeyError",
    "subprocess.run([sys.executable, '-c', 'exit(3)'], check=True)": "CalledProcessError: Command",
    "raise ValueError('first\\nsecond')": "ValueError: first",
}
DIED: Final = {
    "os._exit(5)": "exited with code 5",
    "ctypes.string_at(0)": "SIGSEGV",
    "os.abort()": "SIGABRT",
}


def write(folder: Path, when: str, act: str, isolation: str = "process") -> None:
    """A model that ends like this."""
    code = textwrap.dedent(CODE).replace("ACT", act.replace("\n", "\\n")).replace("WHEN", repr(when))
    write_model(folder, "m", CONFIG % isolation, {"model.py": code})


async def refused(folder: Path) -> tuple[str, list[dict[str, object]]]:
    """Why a worker does not start, and its error records."""
    with capture_logs() as logs, pytest.raises(ConfigError) as found:
        async with fleet(folder) as built:
            await built.worker()
    return found.value.message, [dict(line) for line in logs if line["log_level"] == "error"]


@pytest.mark.parametrize(
    ("when", "isolation", "act"),
    [
        *[("load", "thread", act) for act in RAISED],
        *[("import", "process" if number % 2 else "thread", act) for number, act in enumerate(RAISED)],
    ],
)
async def test_a_failed_load_is_one_record_and_one_line(tmp_path: Path, when: str, act: str, isolation: str) -> None:
    write(tmp_path, when, act, isolation)
    message, (record,) = await refused(tmp_path)

    assert message.startswith("model 'm' version 1 cannot be loaded: ")
    assert RAISED[act] in message
    assert message.isprintable(), "it is one line"
    assert re.search(r"/m/1/model\.py:5, in (bad|<lambda>)", message)
    assert len(message) < MAX_TEXT + 300
    assert record["event"] == "a model cannot be loaded"
    trace = str(record["exception"]).splitlines()
    assert any(f'File "{tmp_path}/m/1/model.py", line 5, in bad' in line for line in trace)
    assert not [line for line in trace if "/workers/" in line], "the framework's own frames are left out"


@pytest.mark.parametrize(("when", "act"), [("import", "os._exit(5)"), ("load", "ctypes.string_at(0)")])
async def test_a_process_that_dies_in_a_load_is_one_record_with_its_place(tmp_path: Path, when: str, act: str) -> None:
    write(tmp_path, when, act)
    message, (record,) = await refused(tmp_path)

    assert DIED[act] in message
    assert f"{tmp_path}/m/1/model.py:5, in bad" in message
    assert f'File "{tmp_path}/m/1/model.py", line 5 in bad' in str(record["exception"])


async def answered(folder: Path) -> tuple[str, list[dict[str, object]]]:
    """Why a worker's model gave no answer, and the worker's error records."""
    with capture_logs() as logs:
        async with fleet(folder) as built:
            await built.worker()
            caller = await built.caller()
            (reply,) = await caller.ask(caller.request(13.0))
    assert reply.failure is not None
    return reply.failure.message, [dict(line) for line in logs if line["log_level"] == "error"]


@pytest.mark.parametrize(("act", "isolation"), list(zip(RAISED, itertools.cycle(["process", "thread"]), strict=False)))
async def test_what_a_run_raises_is_one_record_and_the_answer_has_the_line(
    tmp_path: Path, act: str, isolation: str
) -> None:
    write(tmp_path, "run", act, isolation)
    message, (record,) = await answered(tmp_path)

    assert RAISED[act] in message
    assert f"{tmp_path}/m/1/model.py(5): " in message
    assert len(message) < MAX_TEXT + 300
    assert (record["model"], record["version"], record["request"]) == ("m", "1", "r0")
    assert f'{tmp_path}/m/1/model.py", line 5, in bad' in str(record["exception"])


@pytest.mark.parametrize("act", DIED)
async def test_a_run_that_dies_is_one_record_for_each_death(tmp_path: Path, act: str) -> None:
    write(tmp_path, "run", act)
    message, records = await answered(tmp_path)

    assert DIED[act] in message
    assert f"({tmp_path}/m/1/model.py:5, in bad)" in message
    assert {line["event"] for line in records} == {"an instance died with a batch"}
    assert {line["request"] for line in records} == {"r0"}
    assert ["exception" in line for line in records] == [True, False, False], "the same stack is printed once"


async def test_a_model_that_fails_on_every_request_does_not_flood_the_log(tmp_path: Path) -> None:
    write(tmp_path, "run", "raise ValueError('no')")
    with capture_logs() as logs:
        async with fleet(tmp_path) as built:
            await built.worker()
            caller = await built.caller()
            for _ in range(60):
                await caller.ask(caller.request(13.0))

    records = [line for line in logs if line["event"] == "batch failed"]
    assert 20 <= len(records) < 40


async def test_a_crash_of_a_process_that_the_model_started_is_one_record_and_the_model_prints_on(
    tmp_path: Path,
) -> None:
    crash = f"import faulthandler, os; faulthandler.enable(); os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    act = f"subprocess.run([sys.executable, '-c', {crash!r}]); print('it goes on')"
    write(tmp_path, "run", act)
    with capture_logs() as logs:
        async with fleet(tmp_path) as built:
            await built.worker()
            caller = await built.caller()
            (reply,) = await caller.ask(caller.request(13.0))

    assert reply.failure is None
    (record,) = [line for line in logs if line["log_level"] == "error"]
    assert record["event"] == "a process of the model crashed"
    assert "Segmentation fault" in record["exception"]
    assert [line["event"] for line in logs if line["event"] == "it goes on"]
