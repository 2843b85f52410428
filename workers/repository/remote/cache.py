"""The objects that this machine keeps, by the SHA-256 of their content, and what is removed to make room.

    objects/<sha256>             content, read-only; hard links to it are the files of models
    index/<name>.json            which content an object of a store has: ETag, size, SHA-256
    partial/<name>.<size>        an object that is being fetched, or was when its process died
    trees/<sha256>/<model>/…     a model's folder, complete (`trees`)

Processes of one machine share the folder. Invariants: what has a name in `objects` is complete; a file in use by a process of this
machine is not removed; the declared sizes of objects and partial files are at most the limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson
import structlog

from protocol.errors import ConfigError
from workers.repository.digests import content_digest
from workers.system import file_lock

LOCK: Final = ".lock"
"""Suffix of the file that processes lock while they use a tree."""
BUILDING: Final = "building-"
"""Prefix of trees that are not complete."""
_MODE: Final = 0o700

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The content of an object that was fetched before."""

    etag: str
    size: int
    sha256: str


class Cache:
    """One folder of one machine.

    Args:
        folder: created if there is none.
        limit: bytes of objects; 0 for no limit.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self.folder = folder
        self.limit = limit
        self.objects, self.partial, self.trees = folder / "objects", folder / "partial", folder / "trees"
        self._index = folder / "index"
        try:
            folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
            for part in (self.objects, self.partial, self.trees, self._index):
                part.mkdir(mode=_MODE, exist_ok=True)
            (folder / "lock").touch(mode=0o600)
        except OSError as error:
            raise ConfigError(
                f"the cache of model files '{folder}' cannot be used: {error.strerror}; choose another --model-cache-dir"
            ) from None

    # --- what is there ------------------------------------------------------------------------------------------------

    def known(self, name: str) -> Known | None:
        """The content that an object had when it was fetched."""
        try:
            entry = orjson.loads((self._index / f"{name}.json").read_bytes())
            return Known(str(entry["etag"]), int(entry["size"]), str(entry["sha256"]))
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    def remember(self, name: str, known: Known) -> None:
        """Note an object's content."""
        fresh = self._index / f".{name}.{os.getpid()}"
        fresh.write_bytes(orjson.dumps(dataclasses.asdict(known)))
        fresh.replace(self._index / f"{name}.json")

    def has(self, known: Known) -> bool:
        """Whether the content is here and undamaged: it is read."""
        path = self.objects / known.sha256
        try:
            if path.stat().st_size == known.size and content_digest(path).hex() == known.sha256:
                return True
            log.warning("a cached file is damaged; it is fetched again", file=str(path))
            path.unlink()
        except FileNotFoundError:
            pass
        return False

    def keep(self, partial: Path, sha256: str) -> None:
        """Make a partial file, which is complete, an object; its name in `partial` is gone."""
        partial.chmod(0o444)
        with contextlib.suppress(FileExistsError):
            os.link(partial, self.objects / sha256)
        partial.unlink()

    def link(self, sha256: str, target: Path) -> bool:
        """Make `target` the content; False if it is not here."""
        try:
            os.link(self.objects / sha256, target)
        except FileNotFoundError:
            return False
        return True

    # --- room ---------------------------------------------------------------------------------------------------------

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """While no other process makes room or removes anything."""
        return file_lock.locked(self.folder / "lock")

    def reserve(self, path: Path, size: int) -> None:
        """Create a partial file of this declared size, after making room for it; call it under `locked`.

        Raises:
            ConfigError: there is no room.
        """
        if self.limit and not path.exists():
            room = self.limit - self.used()
            if room < size:
                room += self._evict(size - room)
            if room < size:
                raise ConfigError(
                    f"the cache of model files has room for {max(room, 0)} more bytes besides the models in use, and the object "
                    f"has {size}: raise --model-cache-bytes, which is {self.limit}"
                )
        path.touch(mode=0o600)

    def used(self) -> int:
        """Bytes of objects, and declared bytes of partial files."""
        total = sum(_size(entry) for entry in _entries(self.objects))
        return total + sum(int(entry.name.rpartition(".")[2]) for entry in _entries(self.partial))

    def _evict(self, needed: int) -> int:
        """Remove what nobody uses, the longest unused first; returns the bytes freed."""
        freed = self._drop_partials()
        freed += self._drop_objects()
        trees = [path for path in self.trees.iterdir() if path.suffix != LOCK and not path.name.startswith(BUILDING)]
        for tree in sorted(trees, key=lambda path: _age(path.with_suffix(LOCK))):
            if freed >= needed:
                break
            if _drop_tree(tree):
                freed += self._drop_objects()
        return freed

    def _drop_partials(self) -> int:
        freed = 0
        for entry in list(_entries(self.partial)):
            with contextlib.suppress(FileNotFoundError), open(entry.path, "rb") as file:  # noqa: PTH123  # of a DirEntry
                if try_lock(file.fileno()):
                    os.unlink(entry.path)  # noqa: PTH108
                    freed += int(entry.name.rpartition(".")[2])
        return freed

    def _drop_objects(self) -> int:
        """Remove objects that no tree has."""
        freed = 0
        for entry in list(_entries(self.objects)):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(entry.path)  # noqa: PTH116
                if status.st_nlink == 1:
                    os.unlink(entry.path)  # noqa: PTH108
                    freed += status.st_size
        return freed


def _drop_tree(tree: Path) -> bool:
    """Remove a tree that no process holds; whether it is gone."""
    lock = tree.with_suffix(LOCK)
    with lock.open("ab") as file:
        if not try_lock(file.fileno()):
            return False
        shutil.rmtree(tree, ignore_errors=True)
        lock.unlink(missing_ok=True)
    return True


def try_lock(fd: int) -> bool:
    """Take an exclusive lock, if no other has one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def object_name(*parts: str) -> str:
    """A file name for an object of a store."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
