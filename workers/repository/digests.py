"""Digests of model files' content. Unchanged files are not read again.

A polled repository holds gigabytes and rarely changes. A file counts as unchanged while its inode, size and times are the same
(including ctime, which cannot be set back). Invariant: a digest is cached only if the file had not changed for `SETTLED` seconds
when it was read; a file that is written twice within the clock's resolution would look unchanged.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

SETTLED: Final = 2.0
"""Seconds; the coarsest timestamps of file systems in use (FAT, some network file systems)."""
_CHUNK: Final = 1 << 20

_Stamp = tuple[int, int, int, int, int]


class Digests:
    """A cache of digests by file. From any thread: concurrent scans at worst read a file twice.

    Args:
        now: seconds since the epoch.
        read: the digest of one file's content.
    """

    def __init__(self, now: Callable[[], float] = time.time, read: Callable[[Path], bytes] | None = None) -> None:
        self._now = now
        self._read = read or content_digest
        self._known: dict[Path, tuple[_Stamp, bytes]] = {}
        self._met: set[Path] = set()

    def digest_of(self, files: Iterable[Path], base: Path, config: bytes) -> str:
        """SHA-256, in hex, of the configuration and, for each file, its name below `base` and its content. Two different trees
        never have the same input.

        Raises:
            OSError: a file cannot be read.
        """
        total = hashlib.sha256(len(config).to_bytes(8) + config)
        for path in files:
            name = os.fsencode(path.relative_to(base).as_posix())
            total.update(len(name).to_bytes(8) + name + self._content(path))
        return total.hexdigest()

    def forget_others(self) -> None:
        """Forget files that were not digested since the last call: they are gone."""
        met, self._met = self._met, set()
        for path in tuple(self._known):
            if path not in met:
                self._known.pop(path, None)

    def _content(self, path: Path) -> bytes:
        self._met.add(path)
        began = self._now()
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = self._read(path)
        _, _, _, *times = stamp
        if max(times) / 1e9 < began - SETTLED and _stamp(path) == stamp:
            self._known[path] = stamp, digest
        return digest


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_digest(path: Path) -> bytes:
    """SHA-256 of a file's content."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.digest()
