"""The repositories of a worker as folders: local ones as they are, remote ones mirrored into a cache of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from protocol.errors import ConfigError
from workers.repository.remote.address import parse
from workers.repository.remote.cache import Cache
from workers.repository.remote.mirror import Mirror, Mirrored
from workers.repository.remote.s3 import S3Store


def default_cache() -> Path:
    """Where model files are cached unless a setting says otherwise: `$XDG_CACHE_HOME/penstock/models`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "penstock" / "models"
    except RuntimeError:  # a user without a home
        raise ConfigError("there is no home folder for the cache of model files: set --model-cache-dir") from None


class Sources:
    """Repositories. From any thread.

    Args:
        local: folders.
        remote: URLs.
        cache_dir: where the files of remote ones are kept; None for `default_cache`.
        cache_bytes: that they may have there; 0 for no limit.

    Raises:
        ConfigError: a URL is not one of a repository.
    """

    def __init__(
        self, local: Sequence[Path], remote: Sequence[str] = (), cache_dir: Path | None = None, cache_bytes: int = 0
    ) -> None:
        self._local = tuple(local)
        self._addresses = [parse(url) for url in remote]
        self._cache_dir = cache_dir
        self._cache_bytes = cache_bytes
        self._mirrors: list[Mirror] = []
        self._lock = threading.Lock()

    def refresh(self, wanted: Callable[[str], bool] = lambda name: True) -> Mirrored:
        """All folders to scan; what has changed in remote repositories is fetched first.

        Args:
            wanted: whether a model of a remote repository is needed.

        Raises:
            ConfigError: a store is away at the first call or refuses, the cache cannot be used, or boto3 is missing.
        """
        with self._lock:
            if self._addresses and not self._mirrors:
                cache = Cache(self._cache_dir or default_cache(), self._cache_bytes)
                self._mirrors = [Mirror(S3Store(address), cache) for address in self._addresses]
            found = [mirror.refresh(wanted) for mirror in self._mirrors]
        return Mirrored(
            (*self._local, *[folder for each in found for folder in each.folders]),
            {name: reason for each in found for name, reason in each.refused.items()},
            tuple(line for each in found for line in each.ignored),
            {name: size for each in found for name, size in each.sizes.items()},
        )

    def stop(self) -> None:
        """End a refresh that runs in another thread; the process ends."""
        for mirror in list(self._mirrors):
            mirror.stop()

    def release(self, in_use: Collection[Path]) -> None:
        """Let the cache remove former folders, except those above these paths."""
        with self._lock:
            for mirror in self._mirrors:
                mirror.release(in_use)
