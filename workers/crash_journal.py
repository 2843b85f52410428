"""Records which requests run now, in a file that outlives the worker: after a crash exactly these are suspects.

The supervisor gives its worker an anonymous file, in memory where the system can (on a full disk a write would kill the worker);
both map it. Each instance that is a thread has a slot, and writes the names of its batch's requests there before it runs them.
After a crash the supervisor starts an attempt for each of them, in the store, before it gives the partitions away: the next owner
sees that the record was begun before, and runs it alone.

Invariants: a slot's length is written after its text and cleared first, so a reader of a dead process's journal sees whole notes;
names that do not fit into a slot are left out at its end; the file survives the death of the process that maps it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from typing import IO, Final

SLOTS: Final = 64
"""Instances that have a slot; requests of further ones are found only by their attempts."""
SLOT_BYTES: Final = 64 * 1024
"""Of a slot; the file is sparse, so only used pages take memory."""
FILE_BYTES: Final = SLOTS * SLOT_BYTES

_LENGTH: Final = struct.Struct("<I")
_ROOM: Final = SLOT_BYTES - _LENGTH.size


class JournalSlot:
    """Where one instance notes its batch; from any thread, one at a time."""

    __slots__ = ("_at", "_memory", "number")

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self.number = number
        self._memory = memory
        self._at = number * SLOT_BYTES

    def note(self, text: bytes) -> None:
        """These requests run now: their names, one a line."""
        if len(text) > _ROOM:
            text = text[: text.rfind(b"\n", 0, _ROOM)] if b"\n" in text[:_ROOM] else b""
        start = self._at + _LENGTH.size
        self._memory[start : start + len(text)] = text
        _LENGTH.pack_into(self._memory, self._at, len(text))

    def clear(self) -> None:
        """Nothing runs."""
        _LENGTH.pack_into(self._memory, self._at, 0)


class CrashJournal:
    """The journal, as the worker writes it.

    Args:
        descriptor: of the supervisor's file; it is closed here.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, FILE_BYTES)
        os.close(descriptor)
        self._free = list(range(SLOTS - 1, -1, -1))

    def open_slot(self) -> JournalSlot | None:
        """A slot; None if all are taken."""
        return JournalSlot(self._memory, self._free.pop()) if self._free else None

    def free_slot(self, slot: JournalSlot) -> None:
        """The instance is gone."""
        slot.clear()
        self._free.append(slot.number)


class CrashJournalReader:
    """The journal, as the supervisor reads it: the requests that a dead worker was running.

    Attributes:
        descriptor: of the file; the worker inherits it.
    """

    def __init__(self) -> None:
        self._file = _nameless()
        self.descriptor = self._file.fileno()
        os.ftruncate(self.descriptor, FILE_BYTES)

    def take_running(self) -> list[str]:
        """The names of the requests that were running; empties the journal."""
        found: dict[str, None] = {}
        for number in range(SLOTS):
            (length,) = _LENGTH.unpack(os.pread(self.descriptor, _LENGTH.size, number * SLOT_BYTES))
            if 0 < length <= _ROOM:
                text = os.pread(self.descriptor, length, number * SLOT_BYTES + _LENGTH.size)
                found.update(dict.fromkeys(text.decode(errors="replace").split("\n")))
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self.descriptor, FILE_BYTES)
        return list(found)

    def close(self) -> None:
        """Free the file."""
        self._file.close()


def _nameless() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("penstock-journal"), "w+b")
    return tempfile.TemporaryFile(prefix="penstock-journal-")
