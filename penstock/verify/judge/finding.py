"""What the judge's rules find."""

from __future__ import annotations

import dataclasses
from typing import Final

HARMLESS: Final = frozenset({429, 499, 503, 504})
"""Statuses that a good request may end with: the fleet, its caller or the clock, and none blames the request."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One case that was looked at: broken, excused, or (neither) fine."""

    text: str = ""
    excused: bool = False
