"""What survives a kill: an append-only file of checksummed lines, one per checkpoint.

A line is the CRC-32 of its JSON in eight hexadecimal digits, a space and the JSON. The first describes the job (`begin`); each
further one adds to what is known. Reading stops at the first line that is torn or damaged, and writing goes on from there.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from penstock.batch.job import Known
from penstock.batch.records import Mark
from penstock.batch.spans import read_spans
from protocol.errors import CodecError, InvalidArgument, quoted

FILE: Final = "journal"


@dataclasses.dataclass(slots=True)
class Saved:
    """What a journal says.

    Attributes:
        begin: the job's description.
        known: lines and records.
        mark: where reading begins.
        places: by partition of the batch topic, the first offset whose records are not accounted for here.
        answers: by partition of the topic of answers, where reading begins.
        output, errors: bytes that are written.
        answered, failed: lines that are written.
        read: lines that were read.
        rate: lines per second when it was written.
        end: "done", "cancelled", "sent" (not waited for), or "" while it runs or was stopped.
        at: when the newest line was written, in seconds since the epoch.
        size: bytes of the journal that are intact.
    """

    begin: dict[str, Any] = dataclasses.field(default_factory=dict)
    known: Known = dataclasses.field(default_factory=Known)
    mark: Mark = dataclasses.field(default_factory=Mark)
    places: dict[int, int] = dataclasses.field(default_factory=dict)
    answers: dict[int, int] = dataclasses.field(default_factory=dict)
    output: int = 0
    errors: int = 0
    answered: int = 0
    failed: int = 0
    read: int = 0
    rate: float = 0.0
    end: str = ""
    at: float = 0.0
    size: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            CodecError: it is not a journal's.
        """
        try:
            self.begin = dict(entry["begin"]) if "begin" in entry else self.begin
            for name in ("done", "sent", "alone"):
                getattr(self.known, name).update(read_spans(entry.get(name, ())))
            self.known.logged.update(map(str, entry.get("logged", ())))
            if "mark" in entry:
                line, offset = entry["mark"]
                self.mark = Mark(int(line), int(offset))
            for name in ("places", "answers"):
                getattr(self, name).update(_places(entry.get(name, {})))
            for name in ("output", "errors", "answered", "failed", "read"):
                setattr(self, name, int(entry.get(name, getattr(self, name))))
            self.rate = float(entry.get("rate", 0.0))
            self.end = str(entry.get("end", ""))
            self.at = float(entry.get("at", self.at))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CodecError(f"not a line of a journal: {error!r}") from None


def _places(value: Mapping[str, Any]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in value.items()}


def line_of(entry: Mapping[str, Any]) -> bytes:
    """A line of the journal."""
    text = orjson.dumps(entry, option=orjson.OPT_NON_STR_KEYS)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def read_journal(path: Path) -> Saved | None:
    """What the journal says; None if there is none, or not even its first line is intact.

    Raises:
        InvalidArgument: it was written by another program.
    """
    saved = Saved()
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        for line in file:
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                break
            try:
                saved.add(orjson.loads(text))
            except (orjson.JSONDecodeError, CodecError, TypeError) as error:
                raise InvalidArgument(
                    f"the journal {quoted(str(path))} cannot be read: {error}; delete its folder"
                ) from None
            saved.size += len(line)
    return saved if saved.begin else None


class Journal:
    """Appends to a journal.

    Args:
        path: of the file.
        size: of it that is intact; the rest is cut off.
    """

    def __init__(self, path: Path, size: int) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(handle, size)
        os.lseek(handle, size, os.SEEK_SET)
        self._file: BinaryIO = open(handle, "wb", buffering=0)  # noqa: PTH123, SIM115  # closed by `close`

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append a line, which survives a power loss from then on.

        Raises:
            OSError: the disk is full.
        """
        view = memoryview(line_of(entry))
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
