"""Penstock's answers are Triton's, but for the differences that `differences.json` lists with their reasons.

`python -m tests.triton.compare --write` records a Triton's answers again. A case in `differences.json` has our own answer, which is
asserted, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.triton import judging, servers
from tests.triton.case import Answer, Case, RpcCase
from tests.triton.cases import cases
from tests.triton.playing import answer_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("triton")]

RECORDED = judging.recorded()
GROUPS = judging.groups()
OURS = {name: answer for group in GROUPS for name, answer in group["answers"].items()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """What an embedded fleet answers to every case, played in order."""
    with servers.penstock(tmp_path_factory.mktemp("triton")) as server:
        yield {case.name: answer_of(server, case) for case in cases()}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_answer_is_tritons(case: Case | RpcCase, answers: dict[str, Answer]) -> None:
    expected = OURS.get(case.name, RECORDED[case.name])

    assert judging.comparable(dataclasses.asdict(answers[case.name])) == judging.comparable(expected)


def test_every_case_is_recorded_and_every_difference_is_one() -> None:
    names = {case.name for case in cases()}
    assert set(RECORDED) == names
    assert set(OURS) <= names
    assert [
        name for name, answer in OURS.items() if judging.comparable(answer) == judging.comparable(RECORDED[name])
    ] == []
    assert all(group["why"] for group in GROUPS)
    assert sum(len(group["answers"]) for group in GROUPS) == len(OURS), "a case has two reasons"
