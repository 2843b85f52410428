"""Plants each bug of `patches` in a copy of the code, and runs the tests that must find it: `python -m tests.simulation.patching`.

A copy, because processes that a test starts must have the bug too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.simulation import patches_of_gateways, patches_of_transports, patches_of_workers
from tests.simulation.patches import PATCHES, ROOT, Patch

LISTS = (patches_of_gateways, patches_of_workers, patches_of_transports)
"""Imported for what they register."""
PAGE = ROOT / "docs" / "planted-bugs.md"
_COPIED = ("gateway", "workers", "protocol", "penstock", "loadtest", "infra", "examples", "tests", "docs")
_FILES = ("pyproject.toml", "README.md")
_BEGIN = "<!-- planted: written by python -m tests.simulation.patching --page -->\n"


@dataclasses.dataclass(frozen=True)
class Hunt:
    """Whether a planted bug was found, and its finders' output."""

    patch: Patch
    found: bool
    seconds: float
    said: str

    def __str__(self) -> str:
        state = "found " if self.found else "MISSED"
        return f"{state} {self.patch.name} ({self.seconds:.0f} s): {self.said}"


def hunt(patch: Patch) -> Hunt:
    """Plant the bug in a copy of the repository, and run its finders there: at least one test must fail, none may be missing."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-planted-") as folder:
        place = _copy(Path(folder))
        file = place / patch.file
        file.write_text(patch.planted(file.read_text()))
        line = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *patch.finders]
        done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False, timeout=600)
    failed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    said = failed[1] if failed else done.stdout.strip().rpartition("\n")[2]
    return Hunt(patch, done.returncode == 1 and failed is not None, time.monotonic() - started, said)


def _copy(folder: Path) -> Path:
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name)
    for name in _FILES:
        shutil.copy2(ROOT / name, folder)
    return folder


def chosen(parts: Sequence[str]) -> list[Patch]:
    """Patches with one of these in their name or file; all if none is given."""
    return [patch for patch in PATCHES if not parts or any(part in patch.name + patch.file for part in parts)]


def table(patches: Iterable[Patch]) -> str:
    """The list for the page."""
    lines = ["| bug | kind | where | found by | found at first |", "| --- | --- | --- | --- | --- |"]
    for patch in patches:
        finder = ", ".join(f"`{name.removeprefix('tests/')}`" for name in patch.finders)
        lines.append(
            f"| {patch.name} | {patch.kind} | `{patch.file}` | {finder} | {'yes' if patch.at_first else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the list as it is now."""
    missed = sum(not patch.at_first for patch in PATCHES)
    counted = f"{len(PATCHES)} bugs, {missed} of which no test found at first; all are found now.\n\n"
    return text.partition(_BEGIN)[0] + _BEGIN + "\n" + counted + table(PATCHES)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.patching", description="Hunt for planted bugs.")
    parser.add_argument("names", nargs="*", help="only bugs with this in their name or file")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--page", action="store_true", help=f"only write the list into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(PAGE.read_text()))
        return 0
    hunted = chosen(options.names)
    with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
        found = 0
        for result in pool.map(hunt, hunted):
            found += result.found
            print(result, flush=True)
    print(f"{found} of {len(hunted)} planted bugs were found")
    return 0 if found == len(hunted) else 1


if __name__ == "__main__":
    sys.exit(main())
