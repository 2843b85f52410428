"""The copied definitions of custom resources."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent


def files() -> list[Path]:
    """One file for each definition, sorted by name."""
    return sorted(HERE.glob("*.yaml"))
