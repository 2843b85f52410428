"""Record a Triton's answers: serve `tests/triton/models` with `--model-control-mode=none`, then

python -m tests.triton.record http://localhost:8000
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import time
from pathlib import Path

from tests.triton.case import UNANSWERED, Case
from tests.triton.cases import cases
from tests.triton.playing import play

RECORDED = Path(__file__).with_name("recorded.json")


def wait_until_loaded(url: str) -> None:
    """Return once the server has tried to load every model."""
    names = {folder.name for folder in Path(__file__).with_name("models").iterdir()}
    while True:
        index = play(url, Case("", "POST", "/v2/repository/index")).body
        if names == {entry["name"] for entry in index if entry.get("state") in ("READY", "UNAVAILABLE")}:
            return
        time.sleep(0.1)


def main() -> None:
    """Play all cases and write what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server's HTTP port")
    parser.add_argument("--output", type=Path, default=RECORDED)
    arguments = parser.parse_args()
    wait_until_loaded(arguments.url)
    version = play(arguments.url, Case("", "GET", "/v2")).body["version"]
    answers = {}
    for case in cases():
        try:
            answers[case.name] = dataclasses.asdict(play(arguments.url, case))
        except (OSError, http.client.HTTPException):
            answers[case.name] = dataclasses.asdict(UNANSWERED)
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(answer, ensure_ascii=True)}" for name, answer in answers.items()
    )
    arguments.output.write_text(f'{{"version": {json.dumps(version)}, "answers": {{\n{lines}\n}}}}\n')
    print(f"{len(answers)} answers of Triton {version} are in {arguments.output}")


if __name__ == "__main__":
    main()
