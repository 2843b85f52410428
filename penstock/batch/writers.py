"""Writing the output and the errors: appended, made durable at checkpoints, and cut back to one of them after a kill."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Final

from protocol.errors import ConfigError, quoted

STANDARD: Final = "-"


class Appender:
    """One file that is written at its end, or standard output.

    Args:
        path: of the file; `-` is standard output, "" none at all.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._file: BinaryIO | None = None
        self._unsynced = False

    def open(self, size: int, *, fresh: bool) -> None:
        """Open the file and cut it to `size` bytes.

        Args:
            size: what a checkpoint says is written.
            fresh: the job begins: the file must not be there yet, or be empty.

        Raises:
            OSError: it cannot be opened, is there already (`FileExistsError`) or cannot be cut.
            ConfigError: it is shorter than that.
        """
        self.size = size
        if self.path == STANDARD:
            self._file = sys.stdout.buffer
            return
        if not self.path:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        handle = os.open(self.path, flags | (os.O_EXCL if fresh and not self._empty() else 0), 0o666)
        file = open(handle, "wb", buffering=0, closefd=True)  # noqa: PTH123, SIM115  # closed by `close`
        if self.is_regular(handle):
            there = os.fstat(handle).st_size
            if there < size:
                file.close()
                raise ConfigError(
                    f"{quoted(self.path)} has {there} bytes, and the job had written {size}: somebody has cut it; --force starts "
                    "the job again"
                )
            os.ftruncate(handle, size)
            os.lseek(handle, size, os.SEEK_SET)
        self._file = file

    def _empty(self) -> bool:
        """Whether the path is something that may be written at the begin of a job: an empty file, a device or a pipe."""
        try:
            found = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return False
        return not stat.S_ISREG(found.st_mode) or found.st_size == 0

    @staticmethod
    def is_regular(handle: int) -> bool:
        """Whether the handle is of a file that can be cut and synced."""
        return stat.S_ISREG(os.fstat(handle).st_mode)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: the disk is full, or the reader of standard output has gone.
        """
        if self._file is None or not data:
            return
        view = memoryview(data)
        while view:
            try:
                count = self._file.write(view)
            except OSError as error:
                error.filename = error.filename or self.path
                raise
            view = view[count:]
            self.size += count
        self._unsynced = True

    def sync(self) -> None:
        """Make what was written survive a power loss.

        Raises:
            OSError: the disk is full.
        """
        if self._file is None or not self._unsynced:
            return
        self._unsynced = False
        self._file.flush()
        if self.path != STANDARD and self.is_regular(self._file.fileno()):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._file is not None and self.path != STANDARD:
            self._file.close()
        self._file = None


def check_place(path: str, what: str) -> None:
    """Check that a file can be made there.

    Raises:
        ConfigError: its folder is missing or not a folder, it is a folder itself, or it cannot be written.
    """
    if path in ("", STANDARD):
        return
    place = Path(path)
    if place.is_dir():
        raise ConfigError(f"{what} {quoted(path)} is a folder; name a file in it")
    if not place.parent.is_dir():
        raise ConfigError(f"{what} {quoted(path)} cannot be written: there is no folder {quoted(str(place.parent))}")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise ConfigError(f"{what} {quoted(path)} cannot be written: permission denied")
