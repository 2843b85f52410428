"""What newcomers type wrong: everything that is printed then is in a golden file that a person has read for sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.penstock import wrong_commands


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_is_printed_is_what_somebody_read(tmp_path: Path) -> None:
    played = wrong_commands.all_played(tmp_path)

    assert played.split("\n$ ") == wrong_commands.GOLDEN.read_text().split("\n$ "), (
        "python -m tests.penstock.wrong_commands writes it again; then read it"
    )
    assert "Traceback" not in played
