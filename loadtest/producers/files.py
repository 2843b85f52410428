"""A file through the fleet, against a plain loop over the same file: servers, submitter and loop all on one core."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtest import systems
from loadtest.models import ALL
from loadtest.payloads import build
from loadtest.processes import cores, on_core
from loadtest.producers.rows import write_jsonl
from protocol.errors import Unavailable

LOOP_BATCH: Final = 32
"""Rows that the plain loop runs at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileRound:
    """One round, in rows per second.

    Attributes:
        loop: the plain loop, from its first row on; its model is loaded, as the server's is.
        submit: `penstock batch submit`, the whole process from its start to its end.
    """

    loop: float
    submit: float

    @property
    def share(self) -> float:
        """Of the loop's rate."""
        return self.submit / self.loop


def run_rounds(
    cache: Path, model: str, rows: int, rounds: int, say: Callable[[str], None], options: Sequence[str] = ()
) -> list[FileRound]:
    """Alternate loop and submission over one file of `rows` rows.

    Args:
        cache: a model repository of benchmark models, and the files beside it.
        options: of `penstock batch submit`.
    """
    source = write_jsonl(cache / "rows" / f"{model}-{rows}.jsonl", model, rows)
    core, _ = cores()
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="penstock-files-") as folder,
        systems.embedded(cache, core, model, build(ALL[model].inputs, 8)) as system,
    ):
        for turn in range(rounds):
            target = Path(folder) / f"loop-{turn}.jsonl"
            loop, said = rate(
                ["-m", "loadtest.producers.loop", str(cache / model), str(source), str(target), str(LOOP_BATCH)],
                core, rows, target,
            )  # fmt: skip
            loop = rows / json.loads(said)["seconds"]
            target = Path(folder) / f"submit-{turn}.jsonl"
            line = ["-m", "penstock", "batch", "submit", model, str(source), "-o", str(target)]
            submit, _ = rate(
                [*line, "--url", f"http://127.0.0.1:{system.port}", "--json", *options], core, rows, target
            )
            found.append(FileRound(loop, submit))
            say(f"{model}: loop {loop:,.0f} rows/s, submitted {submit:,.0f} rows/s ({found[-1].share:.2f})")
    return found


def rate(arguments: Sequence[str], core: int | None, rows: int, target: Path) -> tuple[float, str]:
    """Rows per second of one process on one core, whose output must have a line for each row, and what it printed.

    Raises:
        Unavailable: it failed, or lines are missing; with the end of what it wrote.
    """
    begin = time.perf_counter()
    with on_core(core):
        done = subprocess.run(  # noqa: S603  # the command line is ours
            [sys.executable, *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
    seconds = time.perf_counter() - begin
    with target.open("rb") as file:
        lines = sum(1 for line in file if json.loads(line).get("outputs"))
    if done.returncode or lines != rows:
        raise Unavailable(f"{arguments[1]} ended with {done.returncode}, {lines} of {rows} rows: {done.stderr[-2000:]}")
    return rows / seconds, done.stdout
