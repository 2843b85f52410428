"""What the repositories of a worker have, and which of it may be served."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from workers.lifecycle.replacing import bytes_of
from workers.lifecycle.slots import Key
from workers.repository.allow_list import read_digests
from workers.repository.digests import Digests
from workers.repository.model_files import require_distinct
from workers.repository.scan import ignored_folders, scan_file, scan_repositories
from workers.repository.sources import Sources
from workers.repository.version import ModelFolder, ModelVersion
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Repositories:
    """The repositories, and the files that are served by themselves.

    Args:
        settings: name them.
        in_use: the folders of what is served, which stay in the cache of this machine.

    Attributes:
        folders: by model, as the last scan found it; with a `reason` where it cannot be served.
    """

    def __init__(self, settings: WorkerSettings, in_use: Callable[[], Sequence[Path]]) -> None:
        self.folders: dict[str, ModelFolder] = {}
        self._settings = settings
        self._in_use = in_use
        self._digests = Digests()
        self._sources = Sources(
            settings.model_repository, settings.remote_repository, settings.model_cache_dir, settings.model_cache_bytes
        )
        self._allowed: frozenset[str] | None = None
        self._warned: set[tuple[str, ...]] = set()
        self._found: dict[Key, ModelVersion] = {}
        self._sizes: dict[str, int] = {}
        self._elsewhere: Mapping[str, int] = {}

    def permits(self, version: ModelVersion) -> bool:
        """Whether the operator's list of digests has it, if there is one."""
        return self._allowed is None or version.digest in self._allowed

    async def scan(self, needed: Callable[[str], bool] = lambda name: True) -> dict[Key, ModelVersion]:
        """Read the repositories; returns the versions that their policies choose.

        Args:
            needed: whether a model of a remote repository may be served: only then its files are fetched.

        Raises:
            ConfigError: a repository cannot be read.
        """
        if (allowed := self._settings.allowed_digests) is not None:
            self._allowed = await asyncio.to_thread(read_digests, allowed)
        try:
            sources = await asyncio.to_thread(self._sources.refresh, needed)
        except asyncio.CancelledError:
            self._sources.stop()
            raise
        self._sources.release(self._in_use())
        read = functools.partial(scan_repositories, known=self._digests, config_name=self._settings.model_config_name)
        folders = await asyncio.to_thread(read, sources.folders)
        self.folders = {folder.name: folder for folder in folders}
        self._elsewhere = sources.sizes
        for name, reason in sources.refused.items():
            self.folders[name] = ModelFolder(name, Path(name), reason=reason)
        for line in (*sources.ignored, *await asyncio.to_thread(ignored_folders, sources.folders)):
            self._warn(line)
        for folder in folders:
            for warning in folder.warnings:
                self._warn(warning, model=folder.name)
        wanted = {(v.model, str(v.version)): v for folder in folders for v in folder.versions}
        require_distinct(self._settings.model_file, [folder.name for folder in folders])
        for file in self._settings.model_file:
            version = await asyncio.to_thread(scan_file, file, self._digests)
            wanted[version.model, str(version.version)] = version
        self._digests.forget_others()
        return wanted

    def _warn(self, text: str, **about: str) -> None:
        """Log a warning once: every poll of a repository finds it again."""
        if (key := (text, *about.values())) not in self._warned:
            self._warned.add(key)
            log.warning(text, **about)

    async def measure(self, needed: Callable[[str], bool] = lambda name: True) -> None:
        """Scan, and remember what was found, and its sizes; see `available` and `found`.

        Raises:
            ConfigError: as `scan`.
        """
        found = await self.scan(needed)
        sizes = dict.fromkeys(self.folders, 0) | dict(self._elsewhere)
        for (model, _), version in found.items():
            sizes[model] = sizes.get(model, 0) + await asyncio.to_thread(bytes_of, version)
        self._found, self._sizes = found, sizes

    def available(self) -> Mapping[str, int]:
        """By model that the repositories had when they were last measured, the bytes of its chosen versions' files."""
        return self._sizes

    def found(self, name: str) -> ModelFolder | None:
        """A model as it was last measured; None if it was not there, or not fetched."""
        if (folder := self.folders.get(name)) is not None:
            return folder
        versions = tuple(version for (model, _), version in self._found.items() if model == name)
        return ModelFolder(name, versions[0].folder, versions) if versions else None
