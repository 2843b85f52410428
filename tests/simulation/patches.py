"""Bugs planted as changes of source text, each with the test that finds it; see `patching` for how they are planted.

`planting` swaps methods to see whether the simulation finds a bug; these are slips in one line, of other kinds, and any test may
find them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Patch:
    """One planted bug.

    Attributes:
        name: the wrong behaviour.
        kind: of slip.
        file: where, from the repository's root.
        changes: (right, wrong) texts; each right one occurs in the file once.
        finders: tests that fail with it, as pytest names them.
        at_first: the tests found it as they were when it was planted.
    """

    name: str
    kind: str
    file: str
    changes: tuple[tuple[str, str], ...]
    finders: tuple[str, ...]
    at_first: bool = True

    def planted(self, text: str) -> str:
        """The file's text with the bug in it.

        Raises:
            ValueError: the right text does not occur exactly once: the code has changed, and the patch must too.
        """
        for right, wrong in self.changes:
            if text.count(right) != 1:
                raise ValueError(f"{self.name}: {right!r} is {text.count(right)} times in {self.file}")
            text = text.replace(right, wrong)
        return text


PATCHES: list[Patch] = []


def patch(
    name: str, kind: str, file: str, *changes: tuple[str, str], finders: tuple[str, ...] = (), at_first: bool = True
) -> None:
    """Add a patch to the list."""
    PATCHES.append(Patch(name, kind, file, changes, finders, at_first))
