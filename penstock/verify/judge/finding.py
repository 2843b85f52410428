"""The findings of the judge's rules. Pure."""

from __future__ import annotations

import dataclasses
from typing import Final

HARMLESS: Final = frozenset({429, 499, 503, 504})
"""Statuses that a good request may get, because they do not blame the request."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One judged case: broken if it has a text, unless it is excused; otherwise fine."""

    text: str = ""
    excused: bool = False
