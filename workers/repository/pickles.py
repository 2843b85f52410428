"""What torch.save wrote: weights, a checkpoint with weights in it, or a pickled module. Pure: opcodes are read, none is obeyed.

Invariant: at most `MAX_OPCODES` opcodes are looked at, whatever the file claims.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import pickletools
from collections.abc import Iterator
from typing import Final

MAX_PICKLE: Final = 4 * 1024 * 1024
"""Bytes that are looked at; the weights themselves are outside the pickle, or after it."""
MAX_OPCODES: Final = 400_000
_LEGACY_HEADERS: Final = 3
"""Pickles in front of the object in torch.save's older format."""
_STRINGS: Final = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8"})
_HARMLESS: Final = (
    "torch._utils",
    "torch.storage",
    "collections",
    "builtins",
    "__builtin__",
    "numpy",
    "copyreg",
    "_codecs",
)
_DICT: Final = "collections OrderedDict"


class Content(enum.Enum):
    """What a pickle describes."""

    TENSOR = "a tensor"
    STATE_DICT = "tensors by name"
    CHECKPOINT = "a dict with a state dict in it"
    MODULE = "an object of a class"
    OTHER = "something else"


@dataclasses.dataclass(frozen=True, slots=True)
class PickleSummary:
    """What was seen.

    Attributes:
        content: the kind.
        name: of a module, its class; of a checkpoint, the key of its state dict.
    """

    content: Content
    name: str = ""


def summary(pickle: bytes, *, legacy: bool = False) -> PickleSummary:
    """Look at a pickle's opcodes, as far as they are there.

    Args:
        pickle: the beginning of the file, or `data.pkl` of an archive.
        legacy: whether it is torch.save's older format, in which other pickles come first.
    """
    seen = _Seen()
    for opcode, argument in _opcodes(pickle, _LEGACY_HEADERS if legacy else 0):
        seen.add(opcode, argument)
    return seen.summary()


def _opcodes(pickle: bytes, skip: int) -> Iterator[tuple[str, object]]:
    stream, left = io.BytesIO(pickle[:MAX_PICKLE]), MAX_OPCODES
    try:
        for number in range(skip + 1):
            for opcode, argument, _ in pickletools.genops(stream):
                left -= 1
                if left < 0:
                    return
                if number == skip:
                    yield opcode.name, argument
    except Exception:  # damaged or cut: `genops` raises many types; what was seen counts
        return


class _Seen:
    """Collects what distinguishes the kinds."""

    def __init__(self) -> None:
        self._first = ""
        self._classes: list[str] = []
        self._module = False
        self._strings: list[str] = []
        self._key = ""
        self._tensors = False

    def add(self, opcode: str, argument: object) -> None:
        if opcode in _STRINGS:
            text = str(argument)
            self._module = self._module or text == "_modules"
            self._strings = [*self._strings[-1:], text]
        elif opcode in ("EMPTY_DICT", "DICT"):
            self._first = self._first or "dict"
        elif opcode == "GLOBAL":
            self._add_class(str(argument))
        elif opcode == "STACK_GLOBAL":
            self._add_class(" ".join(self._strings[-2:]))
        if opcode in ("BINPERSID", "PERSID"):
            self._tensors = True

    def _add_class(self, name: str) -> None:
        if name == _DICT and self._first == "dict" and not self._key and self._strings:
            self._key = self._strings[-1]
        self._first = self._first or name
        if not name.startswith(_HARMLESS) and not name.startswith("torch ") and name not in self._classes:
            self._classes.append(name)

    def summary(self) -> PickleSummary:
        if self._module and self._classes:
            return PickleSummary(Content.MODULE, self._classes[0].replace(" ", "."))
        if self._first.startswith("torch._utils _rebuild"):
            return PickleSummary(Content.TENSOR)
        if self._first == _DICT and self._tensors:
            return PickleSummary(Content.STATE_DICT)
        if self._first == "dict" and self._key and self._tensors:
            return PickleSummary(Content.CHECKPOINT, self._key)
        if self._first == "dict" and self._tensors and not self._classes:
            return PickleSummary(Content.STATE_DICT)
        return PickleSummary(Content.OTHER)
