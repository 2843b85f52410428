"""Penstock's answers are Triton's, but for the differences that `differences.json` lists with their reasons.

`python -m tests.triton.record URL` records a Triton's answers again. A case in `differences.json` has our own answer, which is
asserted, too.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for
from tests.triton.case import Answer, Case
from tests.triton.cases import cases
from tests.triton.playing import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HERE = Path(__file__).parent
RECORDED: dict[str, Any] = json.loads((HERE / "recorded.json").read_text())["answers"]
GROUPS: list[dict[str, Any]] = json.loads((HERE / "differences.json").read_text())
OURS: dict[str, Any] = {name: answer for group in GROUPS for name, answer in group["answers"].items()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """What an embedded fleet answers to every case, played in order."""
    folder = tmp_path_factory.mktemp("triton")
    shutil.copytree(HERE / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    flags = ("--model-repository", str(folder / "models"), "--no-exit-on-error")
    process = Process("serve", folder / "log", "serve", *flags)
    try:

        def loaded() -> bool:
            assert process.process.poll() is None, process.tail()
            with Client(process.url) as client:
                return client.ready()

        wait_for("the models", loaded, within=120)
        yield {case.name: play(process.url, case) for case in cases()}
    finally:
        process.stop()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_answer_is_tritons(case: Case, answers: dict[str, Answer]) -> None:
    expected = OURS.get(case.name, RECORDED[case.name])

    assert comparable(dataclasses.asdict(answers[case.name])) == comparable(expected)


def test_every_case_is_recorded_and_every_difference_is_one() -> None:
    assert set(RECORDED) == {case.name for case in cases()}
    assert set(OURS) <= set(RECORDED)
    assert [name for name, answer in OURS.items() if comparable(answer) == comparable(RECORDED[name])] == []
    assert all(group["why"] for group in GROUPS)


def comparable(answer: Any) -> Any:
    """The answer with numbers of FP32 as such: Triton writes them as doubles, with more digits."""
    body = answer["body"]
    if not isinstance(body, dict) or "outputs" not in body:
        return answer
    outputs = [output | {"data": _singles(output)} if "data" in output else output for output in body["outputs"]]
    return answer | {"body": body | {"outputs": outputs}}


def _singles(output: Any) -> Any:
    return [
        float(np.float32(item)) if output["datatype"] == "FP32" and isinstance(item, float) else item
        for item in output["data"]
    ]
