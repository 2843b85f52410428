"""Send every case to a real Triton and to Penstock, in one run, and report what differs:

    TRITON_VENV=.venv-triton python -m tests.triton.compare

Each difference that `differences.json` does not list, with its reason, is shown; then it ends with 1. `--write` records Triton's
answers for CI (`recorded.json`) and our own of the listed differences: read the diff before you commit it. The virtual environment
has nvidia-pytriton (`make bench` makes one).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.triton import judging, servers
from tests.triton.case import Case, RpcCase
from tests.triton.cases import cases
from tests.triton.playing import Server, answer_of, play

SHOWN = 600


def main() -> None:
    """Play, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the answers")
    parser.add_argument("--recorded", action="store_true", help="compare with the recorded answers, without a Triton")
    parser.add_argument("--save", type=Path, help="write what differs, as JSON")
    arguments = parser.parse_args()
    played = cases()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("ours", "theirs"):
            (folder / name).mkdir()
        if arguments.recorded:
            theirs, version = judging.recorded(), "as recorded"
        else:
            with servers.triton(folder / "theirs", Path(os.environ["TRITON_VENV"])) as server:
                version = play(server.http, Case("", "GET", "/v2")).body["version"]
                theirs = answers_of(server, played)
        with servers.penstock(folder / "ours") as server:
            ours = answers_of(server, played)
    if arguments.write:
        if not arguments.recorded:
            judging.write_recorded(version, theirs)
        judging.write_differences([refreshed(group, ours, theirs) for group in judging.groups()])
    sys.exit(report(played, ours, theirs, version, arguments.save))


def answers_of(server: Server, played: list[Case | RpcCase]) -> dict[str, Any]:
    return {case.name: dataclasses.asdict(answer_of(server, case)) for case in played}


def refreshed(group: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """A group with our present answers, without those that are Triton's now."""
    names = [name for name in group["answers"] if name in ours and differs(ours[name], theirs[name])]
    return {"why": group["why"], "answers": {name: ours[name] for name in names}}


def differs(ours: Any, theirs: Any) -> bool:
    return bool(judging.comparable(ours) != judging.comparable(theirs))


def report(
    played: list[Case | RpcCase], ours: dict[str, Any], theirs: dict[str, Any], version: str, save: Path | None
) -> int:
    """Print the counts by reason and what is not documented; returns the exit code."""
    names = [case.name for case in played]
    different = [name for name in names if differs(ours[name], theirs[name])]
    listed = {name: group["why"] for group in judging.groups() for name in group["answers"]}
    surprising = [name for name in different if name not in listed]
    for name in surprising:
        print(f"{name}\n  Triton: {shown(theirs[name])}\n  ours:   {shown(ours[name])}")
    if save is not None:
        save.write_text(json.dumps({name: [theirs[name], ours[name]] for name in surprising}, indent=1))
    over_grpc = sum(isinstance(case, RpcCase) for case in played)
    print(f"{len(names)} cases against Triton {version}, {over_grpc} of them over gRPC:")
    print(f"  {len(names) - len(different)} equal, {len(different)} different ({len(different) / len(names):.1%})")
    for group in judging.groups():
        count = sum(name in group["answers"] for name in different)
        print(f"  {count:5} {group['why']}")
    print(f"  {len(surprising):5} without a reason in differences.json")
    return 1 if surprising else 0


def shown(answer: Any) -> str:
    return json.dumps(answer)[:SHOWN]


if __name__ == "__main__":
    main()
