"""One POSIX shared memory object, as `shm_open` opens it: by a key that cannot leave its folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from protocol.errors import InvalidArgument, NotFound, quoted
from protocol.tensors import Buffer

FOLDER: Final = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory
MAX_KEY: Final = 255
_RESERVED: Final = "triton_python_backend_shm_region_"
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_AT_ONCE: Final = 64
"""Pieces of one `pwritev`; the system allows 1024."""


def check_key(key: str) -> str:
    """The file's name for a key: leading slashes do not count, and no other is allowed.

    Raises:
        InvalidArgument: naming what is wrong.
    """
    name = key.lstrip("/")
    if not 0 < len(name.encode(errors="surrogateescape")) <= MAX_KEY:
        raise InvalidArgument(f"a shared memory key has 1 to {MAX_KEY} bytes, not {len(name)}")
    if "/" in name or "\0" in name or name in (".", "..") or not name.isprintable():
        raise InvalidArgument(
            f"shared memory key {quoted(key)} must be a name such as /my_region, without further slashes or control characters"
        )
    if name.startswith(_RESERVED):
        raise InvalidArgument(f"shared memory keys that begin with '{_RESERVED}' are reserved")
    return name


class Segment:
    """An open shared memory object.

    Attributes:
        writable: whether this process may write to it.

    Raises:
        NotFound: there is none with this key, or this process may not open it.
        InvalidArgument: it is not shared memory.
    """

    __slots__ = ("_file", "writable")

    def __init__(self, key: str, folder: Path = FOLDER) -> None:
        path = folder / check_key(key)
        self._file = -1
        try:
            self.writable = True
            try:
                self._file = os.open(path, os.O_RDWR | _FLAGS)
            except PermissionError:
                self.writable = False
                self._file = os.open(path, os.O_RDONLY | _FLAGS)
        except OSError:
            raise NotFound(f"Unable to open shared memory region: {quoted(key)}") from None
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            self.close()
            raise InvalidArgument(f"{quoted(key)} is not shared memory")

    @property
    def size(self) -> int:
        """Its size now, in bytes; its owner may change it at any time."""
        return os.fstat(self._file).st_size

    def read(self, at: int, size: int) -> bytes:
        """A copy of these bytes; fewer if it has become shorter."""
        data = os.pread(self._file, size, at)
        while 0 < len(data) < size:  # one call copies at most 2 GiB, and a signal may cut it short
            more = os.pread(self._file, size - len(data), at + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, at: int, data: Sequence[Buffer]) -> bool:
        """Write pieces, one after the other; whether all of them were written."""
        pieces = [memoryview(piece).cast("B") for piece in data if len(piece)]
        while pieces:
            try:
                done = os.pwritev(self._file, pieces[:_AT_ONCE], at)
            except OSError:
                return False
            at += done
            while pieces and done >= len(pieces[0]):
                done -= len(pieces.pop(0))
            if done:
                pieces[0] = pieces[0][done:]
        return True

    def close(self) -> None:
        """Close it; the object itself stays as long as its owner keeps it."""
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)
