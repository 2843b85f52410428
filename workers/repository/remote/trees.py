"""Models' folders of hard links to cached objects: `trees/<sha256>/<model>/…`, named by their content.

A tree is built beside its place, and renamed when it is complete. Invariants: a tree never changes; a process that holds one keeps
a shared lock on `trees/<sha256>.lock`, which ends with the process however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from workers.repository.remote.cache import BUILDING, Cache, try_lock
from workers.repository.remote.keys import folders_of
from workers.system.file_lock import locked


class Held:
    """A tree in use by this process.

    Attributes:
        folder: it contains the model's folder, as a repository does.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    def release(self) -> None:
        """From now on it may be removed."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def tree_name(model: str, files: Mapping[str, str], folders: Collection[str]) -> str:
    """The name of a tree.

    Args:
        model: its name.
        files: SHA-256 by path.
        folders: that exist though they may be empty.
    """
    total = hashlib.sha256()
    for text in (model, *[f"{path}\0{digest}" for path, digest in sorted(files.items())], "", *sorted(folders)):
        raw = text.encode()
        total.update(len(raw).to_bytes(8) + raw)
    return total.hexdigest()


def hold(cache: Cache, name: str, make: Callable[[], None] | None = None) -> Held | None:
    """The tree of this name; it stays until it is released. None if there is none, and `make` does not make it.

    Args:
        make: called, while nobody can remove the tree, if there is none.
    """
    lock = cache.trees / f"{name}.lock"
    folder = cache.trees / name
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(fd).st_ino:
                if make is not None and not folder.is_dir():
                    make()
                if folder.is_dir():
                    os.utime(lock)
                    return Held(folder, fd)
                os.close(fd)
                return None
        os.close(fd)  # it was removed meanwhile


def drop_stale(cache: Cache) -> None:
    """Remove what processes that died were building."""
    for folder in cache.trees.glob(f"{BUILDING}*"):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if try_lock(fd):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)


class Builder:
    """A tree that is being built.

    Args:
        folder: of the tree; the model's folder is in it.
        model: its name.
    """

    def __init__(self, cache: Cache, folder: Path, model: str) -> None:
        self._cache = cache
        self._folder = folder
        self._model = model

    def add(self, path: str, sha256: str) -> bool:
        """Add a file; False if the cache does not have its content (any more)."""
        target = self._folder / self._model / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return self._cache.link(sha256, target)

    def finish(self, name: str, files: Collection[str], folders: Collection[str]) -> None:
        """Give it its place, unless another process did."""
        for path in folders_of(files, folders):
            (self._folder / self._model / path).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # there is one: its content is the same
            self._folder.rename(self._cache.trees / name)


@contextlib.contextmanager
def building(cache: Cache, model: str) -> Iterator[Builder]:
    """A tree to build; what is not finished is removed."""
    folder = cache.trees / f"{BUILDING}{os.getpid()}-{secrets.token_hex(8)}"
    (folder / model).mkdir(parents=True, mode=0o700)
    try:
        with locked(folder):
            yield Builder(cache, folder, model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
