"""Names beside one that does not exist: reads a folder, and never more than a few hundred entries."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from protocol.suggestions import nearest

LOOKED_AT: Final = 300
"""Entries of a folder that are looked at."""


def similar(path: Path) -> str:
    """`; did you mean 'models'?` for a path that does not exist, with a name beside it that is like its own; or "".

    A suffix that two names share makes them no more alike.
    """
    beside = entries(path.parent)
    stems = {entry.stem: entry.name for entry in beside if entry.suffix == path.suffix}
    name = stems.get(nearest(path.stem, stems), "") or nearest(
        path.name, (entry.name for entry in beside if entry.suffix != path.suffix)
    )
    return f"; did you mean '{path.parent / name}'?" if name else ""


def entries(folder: Path) -> list[Path]:
    """Its visible entries, sorted; none if it cannot be read."""
    try:
        return sorted(
            entry for entry in itertools.islice(folder.iterdir(), LOOKED_AT) if not entry.name.startswith(".")
        )
    except OSError:
        return []
