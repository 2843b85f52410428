"""Poison records, run in a child that really dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from penstock.dead import reproducer
from penstock.dead.letters import ReadLetter, read_letter
from penstock.dead.reproduce_child import find_version
from penstock.dead.reproducer import Case
from penstock.dead.reproduction import reproduce_case
from penstock.dead.reproduction_result import ModelUnusable, ReproductionResult, RunEnd, difference, result_of
from protocol.errors import ConfigError, FleetError, NotFound
from protocol.ports import Record
from tests.integration.repositories import write_model
from tests.penstock.dead_letters import Pairs, evidence, request

ROOT = Path(__file__).parents[2]
MODEL = """
    import ctypes, os, sys, time

    class Model:
        inputs = {"X": ("FP32", [-1])}
        outputs = {"Y": ("FP32", [-1])}
        max_batch_size = 4

        def predict(self, X):
            kind = X[0, 0]
            if kind == 11:
                print("about to crash", file=sys.stderr)
                ctypes.string_at(0)
            if kind == 12:
                time.sleep(600)
            if kind == 13:
                raise ValueError("thirteen")
            if kind == 14:
                os._exit(3)
            return {"Y": X * 2}
"""
"""Behaves as the first number of its input says."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_model(tmp_path / "models", "m", MODEL)
    return tmp_path / "models"


def case(first: float, marks: Pairs | None = None, value: bytes | None = None) -> Case:
    made, headers = request(values=[first, 1.0])
    made = made if value is None else value
    letter = read_letter(Record("penstock.dead.m", 0, 0, 1.7e9, made, (*headers, *(marks or evidence()))), "m")
    assert isinstance(letter, ReadLetter)
    return Case(letter, "1", made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "end", "signal", "text"),
    [
        (11, RunEnd.CRASHED, "SIGSEGV", "ended by SIGSEGV while running the request"),
        (13, RunEnd.FAILED, "", "ValueError: thirteen"),
        (14, RunEnd.CRASHED, "", "exit code 3"),
        (1, RunEnd.SUCCEEDED, "", "answered"),
    ],
)
def test_a_record_does_to_the_child_what_it_did_to_the_worker(
    repository: Path, first: float, end: RunEnd, signal: str, text: str
) -> None:
    outcome = reproduce_case(case(first), [repository], "1", 60)

    assert (outcome.end, outcome.signal) == (end, signal)
    assert text in outcome.text
    assert outcome.reproduced == (end is not RunEnd.SUCCEEDED)
    if first == 11:
        assert "about to crash" in outcome.trace
        assert "in predict" in outcome.trace
    if first == 1:
        assert outcome.outputs[0]["first_values"] == [2.0, 2.0]


def test_the_models_own_modules_come_before_ours_as_in_a_worker(repository: Path) -> None:
    beside = repository / "m" / "1"
    (beside / "protocol.py").write_text("FACTOR = 3\n")
    code = (beside / "model.py").read_text()
    (beside / "model.py").write_text(
        code.replace("import ctypes", "import protocol, ctypes").replace("X * 2", "X * protocol.FACTOR")
    )

    outcome = reproduce_case(case(1), [repository], "1", 60)

    assert outcome.outputs[0]["first_values"] == [3.0, 3.0], outcome


@pytest.mark.slow
def test_a_record_that_hangs_is_killed(repository: Path) -> None:
    outcome = reproduce_case(case(12), [repository], "1", 6)

    assert outcome.end is RunEnd.HUNG
    assert "did not end within 6 s" in outcome.text


def test_a_record_that_nobody_can_read_is_refused_again(repository: Path) -> None:
    outcome = reproduce_case(case(1, evidence("undecodable"), b"\xc1rubbish"), [repository], "1", 60)

    assert (outcome.end, "not a msgpack value" in outcome.text) == (RunEnd.REFUSED, True)


@pytest.mark.parametrize(
    ("name", "version", "code", "text"),
    [
        ("other", "1", "", "has no model 'm'"),
        ("m", "9", "class Model: pass", "no version 9 of model 'm', only 1"),
        ("m", "1", "raise OSError('no weights')", "no weights"),
        ("m", "1", "import os; os.abort()", "SIGABRT while loading the model"),
    ],
)
def test_where_the_model_cannot_be_loaded_nothing_is_said_of_the_record(
    tmp_path: Path, name: str, version: str, code: str, text: str
) -> None:
    write_model(tmp_path / "models", name, code or MODEL)

    with pytest.raises(ModelUnusable, match=text):
        reproduce_case(case(1), [tmp_path / "models"], version, 60)


def test_a_reproducer_is_the_record_byte_for_byte_and_runs_by_itself(repository: Path, tmp_path: Path) -> None:
    made, target = case(13), tmp_path / "case"
    reproducer.write_case(target, made, find_version([repository], "m", "1", digests=False))

    loaded = reproducer.load_case(target)
    done = subprocess.run(
        [sys.executable, str(target / "reproduce.py"), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert loaded == made
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["end"] == "failed"


def test_a_reproducer_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")

    with pytest.raises(ConfigError, match="not empty"):
        reproducer.write_case(tmp_path, case(1))


def test_what_is_no_reproducer_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no dead letter"):
        reproducer.load_case(tmp_path)
    reproducer.write_case(tmp_path / "case", case(1))
    (tmp_path / "case" / reproducer.LETTER).write_text('{"form": 1, "model": 3}')
    with pytest.raises(ConfigError, match="damaged"):
        reproducer.load_case(tmp_path / "case")


def test_a_run_is_compared_with_the_evidence() -> None:
    crashed = ReproductionResult(RunEnd.CRASHED, "", "SIGSEGV", digest="ab")

    assert difference(crashed, case(1, evidence(signal="SIGSEGV", model_digest="ab")).letter) == ""
    assert "died of SIGABRT" in difference(crashed, case(1, evidence(signal="SIGABRT")).letter)
    assert "not those that were served" in difference(crashed, case(1, evidence(model_digest="cd")).letter)
    assert "batch of 3" in difference(ReproductionResult(RunEnd.SUCCEEDED, ""), case(1, evidence(batch="a,b")).letter)


def test_a_child_that_says_nothing_says_nothing_of_the_record() -> None:
    with pytest.raises(ModelUnusable, match="exit code 1 while starting"):
        result_of([], 1, textwrap.dedent("boom"), 5)
    with pytest.raises(FleetError, match="did not end within 5 s while loading"):
        result_of([{"stage": "loading the model"}], None, "", 5)
