"""Twenty moments at which somebody presses Ctrl-C: each ends within two seconds, says so in sentences, and leaves nothing behind.

What is printed is in golden/interrupted.txt: `python -m tests.penstock.test_interrupt_moments` writes it, and a person reads it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.penstock.interrupt_moments import MOMENTS, Place, silent_server
from tests.penstock.interrupting import SECONDS, SLACK, Ended, golden, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def _tried(title: str, folder: Path) -> Ended:
    folder.mkdir()
    with silent_server() as (port, called):
        return MOMENTS[title](Place(folder, port, called))


def _problems(title: str, end: Ended) -> list[str]:
    found = [f"{process!r} is left" for process in end.left] + [f"{name} is left in /dev/shm" for name in end.shared]
    if end.seconds > SECONDS + SLACK:
        found.append(f"it took {end.seconds:.1f} s")
    if re.search("Traceback|Exception ignored|Warning:", end.said):
        found.append("it shows Python's insides")
    if _comparable(title, golden().get(title, "")) != _comparable(title, end.steady()):
        found.append(f"golden/interrupted.txt says:\n{golden().get(title)}")
    return found


def _comparable(title: str, text: str) -> list[str]:
    """The lines; those of several processes come in any order."""
    lines = text.splitlines()
    return sorted(lines) if "--processes" in title else lines


@pytest.mark.parametrize("title", MOMENTS)
def test_a_moment(title: str, tmp_path: Path) -> None:
    end = _tried(title, tmp_path / "first")
    if _problems(title, end):  # a busy machine may have been too slow once
        end = _tried(title, tmp_path / "second")

    assert _problems(title, end) == [], end.steady()


def test_there_are_twenty_of_them() -> None:
    assert len(MOMENTS) >= 20
    assert list(golden()) == list(MOMENTS)


def main() -> None:
    """Write the golden file."""
    sections = {}
    for title in MOMENTS:
        with tempfile.TemporaryDirectory() as folder:
            end = _tried(title, Path(folder) / "files")
        sections[title] = end.steady()
        print(f"== {title}: {end.seconds:.2f} s {end.left} {end.shared}\n{end.steady()}\n", file=sys.stderr, flush=True)
    write(sections)


if __name__ == "__main__":
    main()
