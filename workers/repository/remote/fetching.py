"""Fetches objects into the cache: once per machine, resumed where it stopped, verified before anyone sees them.

Invariants: the holder of the lock on a partial file is its only writer; a partial file becomes an object under the SHA-256 of its
bytes, after its size and every digest that the store says have been compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, wait_random_exponential

from protocol.errors import ConfigError, quoted
from workers.repository.remote.address import Address
from workers.repository.remote.cache import Cache, Known, object_name
from workers.repository.remote.keys import RemoteObject
from workers.repository.remote.s3 import Body, Interrupted

ATTEMPTS: Final = 6
"""For an object, in a row without a byte of progress."""
_FIRST, _LONGEST = 0.2, 5.0
_CHUNK: Final = 1 << 20

log = structlog.get_logger(__name__)


class Store(Protocol):
    """Reads objects; see `S3Store`."""

    address: Address

    def objects(self) -> list[RemoteObject]:
        """See `S3Store.objects`."""

    def open(self, each: RemoteObject, start: int) -> contextlib.AbstractContextManager[Body]:
        """See `S3Store.open`."""


class Fetcher:
    """Fetches objects of one store.

    Args:
        store: to read.
        cache: to fill.

    Attributes:
        fetched: objects that this process has fetched.
        stopped: once it is set, a fetch ends with the next piece of a body; what came is kept.
    """

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self.fetched = 0
        self.stopped = threading.Event()

    def fetch(self, each: RemoteObject) -> str:
        """The SHA-256 of the object's content, which is then in the cache.

        Raises:
            Changed: the object is not the listed one any more.
            ConfigError: it cannot be fetched, or is not what the store says.
        """
        address, cache = self._store.address, self._cache
        name = object_name(address.endpoint, address.bucket, each.key)
        if found := self._here(name, each):
            return found
        partial = cache.partial / f"{object_name(name, each.etag)}.{each.size}"
        with self._writing(partial, each.size) as file:
            if found := self._here(name, each):  # another process had the lock
                with contextlib.suppress(FileNotFoundError):
                    partial.unlink()
                return found
            sha256 = self._download(file, each)
            os.fsync(file.fileno())
            cache.keep(partial, sha256)
            cache.remember(name, Known(each.etag, each.size, sha256))
        self.fetched += 1
        return sha256

    def _here(self, name: str, each: RemoteObject) -> str:
        known = self._cache.known(name)
        if known is None or not each.etag or (known.etag, known.size) != (each.etag, each.size):
            return ""
        return known.sha256 if self._cache.has(known) else ""

    @contextlib.contextmanager
    def _writing(self, partial: Path, size: int) -> Iterator[BinaryIO]:
        """The partial file, locked."""
        while True:
            with self._cache.locked():
                self._cache.reserve(partial, size)
                try:
                    file = partial.open("r+b")
                except FileNotFoundError:  # its writer has finished just now
                    continue
            with file:
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    same = partial.stat().st_ino == os.fstat(file.fileno()).st_ino
                except FileNotFoundError:
                    same = False
                if same:
                    yield file
                    return

    def _download(self, file: BinaryIO, each: RemoteObject) -> str:
        """Append what is missing, with retries; returns the SHA-256."""
        progress = [os.fstat(file.fileno()).st_size, 0]

        def gave_up(state: RetryCallState) -> bool:
            """After `ATTEMPTS` without progress."""
            size = os.fstat(file.fileno()).st_size
            progress[1] = 1 if size > progress[0] else progress[1] + 1
            progress[0] = size
            return progress[1] >= ATTEMPTS or state.attempt_number >= 20 * ATTEMPTS

        retrying = Retrying(
            stop=gave_up, retry=retry_if_exception_type((Interrupted, _Damaged)),
            wait=wait_random_exponential(_FIRST, _LONGEST), reraise=True, sleep=sleep_using_event(self.stopped),
        )  # fmt: skip
        try:
            return retrying(self._attempt, file, each)
        except (Interrupted, _Damaged) as error:
            raise ConfigError(
                f"object {quoted(each.key)} of {self._store.address.place} cannot be fetched: {error}"
            ) from None
        except OSError as error:
            raise ConfigError(f"the cache of model files cannot be written: {error.strerror}") from None

    def _attempt(self, file: BinaryIO, each: RemoteObject) -> str:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        if os.fstat(file.fileno()).st_size >= each.size:
            file.truncate(
                max(0, each.size - 1)
            )  # the last byte is fetched again, with what the store says of the whole
        file.seek(0)
        held = 0
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            held += len(chunk)
        with self._store.open(each, held) as body:
            if body.start != held:
                file.seek(0)
                file.truncate(0)
                sha256, md5, held = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
            try:
                for chunk in body.chunks:
                    if self.stopped.is_set():
                        raise ConfigError("this process is ending")
                    held += len(chunk)
                    if held > each.size:
                        break
                    file.write(chunk)
                    sha256.update(chunk)
                    md5.update(chunk)
            finally:
                file.flush()  # what came is kept for the next attempt
        self._verify(file, each, held, _Digests(sha256.hexdigest(), md5.hexdigest()), body)
        return sha256.hexdigest()

    def _verify(self, file: BinaryIO, each: RemoteObject, held: int, digests: _Digests, said: Body) -> None:
        if held < each.size:
            raise Interrupted(f"its body ended after {held} of {each.size} bytes")
        problem = ""
        if held > each.size:
            problem = f"its body has more than {each.size} bytes"
        elif said.sha256 and said.sha256 != digests.sha256:
            problem = f"its SHA-256 is {digests.sha256}, the store says {said.sha256}"
        elif said.md5 and said.md5 != digests.md5:
            problem = f"its MD5 is {digests.md5}, its ETag says {said.md5}"
        if problem:
            file.seek(0)
            file.truncate(0)
            raise _Damaged(problem)


class _Damaged(Exception):
    """The bytes are not those that the store says."""


class _Digests:
    __slots__ = ("md5", "sha256")

    def __init__(self, sha256: str, md5: str) -> None:
        self.sha256 = sha256
        self.md5 = md5
