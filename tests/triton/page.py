"""`python -m tests.triton.page` writes the measured differences into docs/from-triton.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.triton import judging
from tests.triton.case import RpcCase
from tests.triton.cases import cases

PAGE = Path(__file__).parents[2] / "docs" / "from-triton.md"
MARKED = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- end of measured -->)", re.DOTALL)


def measured() -> str:
    """The counts, and a table of the reasons with an example each."""
    played, groups = cases(), judging.groups()
    different = sum(len(group["answers"]) for group in groups)
    over_grpc = sum(isinstance(case, RpcCase) for case in played)
    lines = [
        f"Of {len(played)} requests, {over_grpc} of them over gRPC, {len(played) - different} are answered as by Triton: status,",
        f"body, headers, statistics and metrics. The other {different} differ for these reasons:",
        "",
        "| cases | reason | for example: the request, Triton's status and ours |",
        "| --- | --- | --- |",
    ]  # fmt: skip
    theirs = judging.recorded()
    for group in sorted(groups, key=lambda group: -len(group["answers"])):
        name, ours = next(iter(group["answers"].items()))
        shown = name.replace("|", "\\|")
        lines.append(f"| {len(group['answers'])} | {group['why']} | {shown}: {status(theirs[name])}, {status(ours)} |")
    return "\n".join(lines) + "\n"


def status(answer: dict[str, object]) -> str:
    return "none" if answer["body"] == "no answer" else str(answer["status"])


def main() -> None:
    PAGE.write_text(MARKED.sub(lambda found: found[1] + measured() + found[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
