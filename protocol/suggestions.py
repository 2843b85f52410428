"""The known name that a mistyped one was probably meant to be. Pure.

Names come from strangers and from catalogues of any size: the work is bounded.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Final

MAX_LENGTH: Final = 100
"""Characters of a name for which there are suggestions."""
MAX_COMPARED: Final = 50_000
"""Pairs of letters that are compared: the time of a comparison grows with the product of two lengths."""
MAX_KNOWN: Final = 1_000
"""Known names that are looked at."""
_CUTOFF: Final = 0.65
_MIN_PREFIX: Final = 3
_LENGTHS: Final = 0.4
"""Difference of lengths, as a share of the longer one, above which two names are not compared."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is most like the word, whatever their case; "" if none is."""
    if not word or len(word) > MAX_LENGTH:
        return ""
    lower = word.lower()
    names = {name.lower(): name for name in itertools.islice(known, MAX_KNOWN) if name != word}
    if lower in names:
        return names[lower]
    alike = [name for name in names if abs(len(name) - len(word)) <= _LENGTHS * max(len(name), len(word))]
    longest = max(map(len, (*alike, lower)))
    if found := difflib.get_close_matches(lower, alike[: MAX_COMPARED // longest**2], 1, _CUTOFF):
        return names[found[0]]
    if len(lower) < _MIN_PREFIX:
        return ""
    return next((full for name, full in names.items() if name.startswith(lower)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `; did you mean 'digits'?`, or "" if no known name is like it."""
    found = nearest(word, known)
    return f"; did you mean '{found}'?" if found else ""
