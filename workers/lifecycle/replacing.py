"""Models whose configuration or files come from a load call instead of the repository.

Files are written once per machine, into a folder of the cache that is named by their digests: first into a folder beside it, each
file checked against its digest, then renamed. So a folder that is there is whole, whoever wrote it, and it is checked again before
each load.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from protocol.control import ControlTable, DesiredModel, check_path
from protocol.errors import FleetError, Unavailable
from protocol.ports import Bus
from workers.repository.digests import Digests, content_digest
from workers.repository.scan import scan_replaced
from workers.repository.version import ModelFolder, ModelVersion
from workers.system.file_lock import locked

FORGOTTEN: Final = 24 * 3600.0
"""Seconds after which a folder of the cache that no load has used is removed."""

log = structlog.get_logger(__name__)


def folder_name(files: Mapping[str, str]) -> str:
    """The name of a cache folder: a digest of the paths and digests of its files."""
    listed = "\n".join(f"{digest} {path}" for path, digest in sorted(files.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


def bytes_of(version: ModelVersion) -> int:
    """Bytes of a version's files: the estimate of the memory that it needs."""
    if version.path.parent == version.folder and version.path.is_file():
        return _size(version.path)
    top = version.folder / str(version.version)
    return sum(_size(Path(root) / name) for root, _, names in os.walk(top) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Replacements:
    """Makes the folder of a model that a load call replaces in part.

    Args:
        bus: has the files.
        topic: of control.
        cache: folder of this machine's model files.
    """

    def __init__(self, bus: Bus, topic: str, cache: Path) -> None:
        self._bus = bus
        self._topic = topic
        self._cache = cache / "loads" / topic
        self._digests = Digests()

    async def folder(self, entry: DesiredModel, found: ModelFolder | None, table: ControlTable) -> ModelFolder:
        """The model with the configuration and files of the load call; with a `reason` if it cannot be served.

        Args:
            entry: names them.
            found: the model in the repository, if it is there.
            table: knows where the files' records are.
        """
        try:
            if entry.files:
                path = await self._written(entry.files, table)
            elif found is not None:
                path = found.path
            else:
                return ModelFolder(entry.model, self._cache, reason="it is not in the model repository")
        except OSError as error:
            return ModelFolder(
                entry.model,
                self._cache,
                reason=f"'{error.filename or self._cache}' cannot be written: {error.strerror}",
            )
        except FleetError as error:
            return ModelFolder(entry.model, self._cache, reason=error.message)
        return await asyncio.to_thread(scan_replaced, entry.model, path, entry.config or "{}", self._digests)

    def forget(self, table: ControlTable, now: float) -> None:
        """Remove folders that no load names and that are old.

        Raises:
            OSError: the cache cannot be read.
        """
        kept = {folder_name(wish.entry.files) for wish in table.models.values() if wish.entry.files}
        if not self._cache.is_dir():
            return
        for path in self._cache.iterdir():
            if path.name not in kept and path.stat().st_mtime + FORGOTTEN < now:
                shutil.rmtree(path, ignore_errors=True)

    async def _written(self, files: Mapping[str, str], table: ControlTable) -> Path:
        """The folder with these files, checked.

        Raises:
            FleetError: a path is not allowed, or a file is not whole in the topic.
            OSError: the cache cannot be written.
        """
        for path in files:
            check_path(path)
        target = self._cache / folder_name(files)
        if await asyncio.to_thread(_is_whole, target, files):
            os.utime(target)
            return target
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._cache / f"new-{secrets.token_hex(8)}"
        try:
            for path, digest in files.items():
                await self._write(beside / path, digest, table)
            await asyncio.to_thread(_publish, beside, target, files)
        finally:
            await asyncio.to_thread(shutil.rmtree, beside, True)
        return target

    async def _write(self, path: Path, digest: str, table: ControlTable) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = hashlib.sha256()
        with path.open("wb") as file:
            parts = table.files.get(digest, {})
            for number in range(len(parts)):
                part = parts.get(number)
                record = None if part is None else await self._bus.read_record(self._topic, 0, part.offset)
                if record is None:
                    break
                await asyncio.to_thread(file.write, record.value)
                await asyncio.to_thread(content.update, record.value)
        if content.hexdigest() != digest:
            raise Unavailable(
                f"the file with digest {digest} is not whole in topic {self._topic}; load the model again"
            )


def _is_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether the folder has exactly these files."""
    with contextlib.suppress(OSError):
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        there = {path for path in there if "__pycache__" not in path}
        return there == set(files) and all(content_digest(folder / path).hex() == files[path] for path in files)
    return False


def _publish(beside: Path, target: Path, files: Mapping[str, str]) -> None:
    """Rename, unless another worker has meanwhile: a folder that is whole stays, because that worker may be loading from it."""
    with locked(target.parent):
        if _is_whole(target, files):
            return
        damaged = target.with_name(f"old-{secrets.token_hex(8)}")
        with contextlib.suppress(FileNotFoundError):
            target.rename(damaged)
        beside.rename(target)
    shutil.rmtree(damaged, ignore_errors=True)
