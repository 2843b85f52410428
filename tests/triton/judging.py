"""Whether two answers are equal, and which differences are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
DIFFERENCES = HERE / "differences.json"


def recorded() -> dict[str, Any]:
    """The answers of a real Triton by the name of the case."""
    answers: dict[str, Any] = json.loads(RECORDED.read_text())["answers"]
    return answers


def groups() -> list[dict[str, Any]]:
    """The known differences: a reason, and our own answers by the name of the case."""
    found: list[dict[str, Any]] = json.loads(DIFFERENCES.read_text())
    return found


def comparable(answer: Any) -> Any:
    """The answer with numbers of FP32 as such: Triton writes them as doubles, with more digits."""
    body = answer["body"]
    if not isinstance(body, dict) or not isinstance(body.get("outputs"), list):
        return answer
    outputs = [output | {"data": _singles(output)} if "data" in output else output for output in body["outputs"]]
    return answer | {"body": body | {"outputs": outputs}}


def _singles(output: Any) -> Any:
    return [
        float(np.float32(item)) if output["datatype"] == "FP32" and isinstance(item, float) else item
        for item in output["data"]
    ]


def write_recorded(version: str, answers: dict[str, Any]) -> None:
    RECORDED.write_text(f'{{"version": {json.dumps(version)}, "answers": {by_line(answers)}}}\n')


def write_differences(reasons: list[dict[str, Any]]) -> None:
    """Write the groups; empty ones are left out."""
    texts = [
        f'{{"why": {json.dumps(group["why"])}, "answers": {by_line(group["answers"])}}}'
        for group in reasons
        if group["answers"]
    ]
    DIFFERENCES.write_text("[\n" + ",\n".join(texts) + "\n]\n")


def by_line(answers: dict[str, Any]) -> str:
    """The JSON of an object with one entry per line."""
    return (
        "{\n" + ",\n".join([f"  {json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]) + "\n}"
    )
