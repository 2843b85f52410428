"""The heads of infer requests that were read and checked before: the same bytes need neither again.

Clients repeat their heads, and reading one costs more than reading its small body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from gateway.admission.budget import Budget, Share
from gateway.rest.routing import INFER

MAX_HEAD: Final = 1024
"""Longest head that is remembered, in bytes."""
MAX_BYTES: Final = 1024 * 1024
_ENTRY: Final = 1024
"""Bytes counted for a head besides four times its own: as key, names, values and their objects."""
END: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """A sound head of an infer request whose connection stays open and whose body has a length.

    Attributes:
        model, version: from the URL; version may be "".
        fields: headers by lower-case name; not to be changed.
        length: of the body.
        verb: from the URL: infer, generate or generate_stream.
    """

    model: str
    version: str
    fields: Mapping[bytes, bytes]
    length: int
    verb: str = INFER


class Heads:
    """Remembers heads by their bytes. They are short, name a known model, and are counted.

    Args:
        budget: the heads draw from it.
        known: whether a model of this name exists.
    """

    __slots__ = ("_heads", "_known", "_share", "find")

    def __init__(self, budget: Budget, known: Callable[[str], bool]) -> None:
        self._known = known
        self._share = Share(budget)
        self._heads: dict[bytes, Head] = {}
        self.find = self._heads.get

    def learn(self, raw: bytes, head: Head) -> None:
        """Remember a head; forget all others if it would be too much."""
        if len(raw) > MAX_HEAD or not self._known(head.model):
            return
        size = _ENTRY + 4 * len(raw)
        held = self._share.size + size
        if held > MAX_BYTES:
            self._heads.clear()
            held = size
        if self._share.hold(held):
            self._heads[raw] = head
