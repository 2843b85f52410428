"""Record a server's answers.

Of a Triton that serves `tests/triton/models` with `--model-control-mode=none`, all of them, into `recorded.json`:

    python -m tests.triton.record http://localhost:8000

Of a Penstock that serves the same (`penstock serve --no-exit-on-error`), those that `differences.json` lists, in their places;
read the diff before you commit it:

    python -m tests.triton.record http://localhost:8000 --ours
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import time
from pathlib import Path
from typing import Any

from tests.triton.case import UNANSWERED, Answer, Case
from tests.triton.cases import cases
from tests.triton.playing import play

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
DIFFERENCES = HERE / "differences.json"


def main() -> None:
    """Play all cases and write what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server's HTTP port")
    parser.add_argument("--ours", action="store_true", help="it is a Penstock")
    arguments = parser.parse_args()
    wait_until_loaded(arguments.url)
    version = play(arguments.url, Case("", "GET", "/v2")).body["version"]
    answers = {case.name: dataclasses.asdict(answer_of(arguments.url, case)) for case in cases()}
    if arguments.ours:
        groups = [
            {"why": group["why"], "answers": {name: answers[name] for name in group["answers"]}}
            for group in json.loads(DIFFERENCES.read_text())
        ]
        texts = [f'{{"why": {json.dumps(group["why"])}, "answers": {by_line(group["answers"])}}}' for group in groups]
        DIFFERENCES.write_text("[\n" + ",\n".join(texts) + "\n]\n")
    else:
        RECORDED.write_text(f'{{"version": {json.dumps(version)}, "answers": {by_line(answers)}}}\n')
    print(f"{len(answers)} answers of version {version}")


def answer_of(url: str, case: Case) -> Answer:
    """What the server says, if it says anything."""
    try:
        return play(url, case)
    except (OSError, http.client.HTTPException):
        return UNANSWERED


def wait_until_loaded(url: str) -> None:
    """Return once the server has tried to load every model."""
    names = {folder.name for folder in (HERE / "models").iterdir()}
    while True:
        index = play(url, Case("", "POST", "/v2/repository/index")).body
        if names == {entry["name"] for entry in index if entry.get("state") in ("READY", "UNAVAILABLE")}:
            return
        time.sleep(0.1)


def by_line(answers: dict[str, Any]) -> str:
    """The JSON of an object with one entry per line."""
    return (
        "{\n" + ",\n".join([f"  {json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]) + "\n}"
    )


if __name__ == "__main__":
    main()
