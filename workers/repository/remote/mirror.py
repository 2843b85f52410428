"""Keeps local folders of the models of one remote repository: a listing per refresh, and only what has changed is fetched.

Invariants: a model's folder has the files of one listing, all of them; after something was fetched the store is listed again, and a
model whose objects changed meanwhile waits for the next refresh. A fault in one model is its reason and keeps no other from being
served.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import structlog

from protocol.errors import ConfigError, quoted
from protocol.model_config import ModelConfig, pbtxt
from workers.repository.folders import CONFIG_FILE
from workers.repository.remote.cache import Cache
from workers.repository.remote.fetching import Fetcher, Store
from workers.repository.remote.keys import RemoteListing, RemoteModel, RemoteObject, chosen_versions, models_of
from workers.repository.remote.s3 import Changed
from workers.repository.remote.trees import Held, building, drop_stale, hold, tree_name

_ROUNDS: Final = 3
"""Listings of one refresh, while objects change."""
_EVICTED: Final = 3
"""Attempts to link a file that another process removes for want of room."""
_AT_ONCE: Final = 4
"""Objects of a model that are fetched at once."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Mirrored:
    """The models of a repository.

    Attributes:
        folders: each contains one model's folder, as a repository of its own.
        refused: why a model cannot be served, by name.
        ignored: a line for each key that is in no model.
        sizes: bytes that the models that were not wanted would take, by name.
    """

    folders: tuple[Path, ...]
    refused: Mapping[str, str]
    ignored: tuple[str, ...]
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class _Tree:
    """A model as it was last completed.

    Attributes:
        listed: its objects then.
    """

    listed: dict[str, RemoteObject]
    held: Held


class Mirror:
    """One repository. Not thread-safe.

    Args:
        store: has the objects.
        cache: of this machine.

    Attributes:
        fetcher: counts what was fetched.
    """

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self.fetcher = Fetcher(store, cache)
        self._trees: dict[str, _Tree] = {}
        self._sizes: dict[str, tuple[dict[str, RemoteObject], int]] = {}
        self._former: list[Held] = []
        self._moved = False
        drop_stale(cache)

    def refresh(self, wanted: Callable[[str], bool] = lambda name: True) -> Mirrored:
        """List the store, and complete the folders of the wanted models. Of the others only the configurations are fetched.

        Raises:
            ConfigError: the store is away or refuses, or the repository cannot be one.
        """
        listing = self._list()
        refused: dict[str, str] = {}
        for _ in range(_ROUNDS):
            before, self._moved = self.fetcher.fetched, False
            refused = self._complete(listing, wanted)
            if self.fetcher.fetched == before and not self._moved:
                break
            former, listing = listing, self._list()
            if former.models == listing.models:
                break
        else:
            for name in self._moving(listing):
                refused.setdefault(
                    name, "its objects keep changing while they are fetched; it is tried again at the next poll"
                )
        self._forget({name for name in listing.models if wanted(name)} - refused.keys())
        others = {name: model for name, model in listing.models.items() if not wanted(name)}
        refused |= {name: model.reason for name, model in others.items() if model.reason}
        self._sizes = {
            name: (model.files, self._size(name, model)) for name, model in others.items() if not model.reason
        }
        return Mirrored(
            tuple(tree.held.folder for _, tree in sorted(self._trees.items())),
            refused,
            listing.ignored,
            {name: size for name, (_, size) in self._sizes.items()},
        )

    def release(self, in_use: Collection[Path]) -> None:
        """Let go of former folders, except those above these paths."""
        kept = [held for held in self._former if any(held.folder in path.parents for path in in_use)]
        for held in self._former:
            if held not in kept:
                held.release()
        self._former = kept

    def stop(self) -> None:
        """End a refresh that runs in another thread; models that are not complete are refused."""
        self.fetcher.stopped.set()

    def close(self) -> None:
        """Let go of all folders."""
        self._forget(set())
        self.release(())

    def _list(self) -> RemoteListing:
        return models_of(self._store.objects(), self._store.address.prefix)

    def _moving(self, listing: RemoteListing) -> list[str]:
        return [
            name
            for name, tree in self._trees.items()
            if name in listing.models and tree.listed != listing.models[name].files
        ]

    def _complete(self, listing: RemoteListing, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Complete every model that has changed; returns the reasons of those that cannot be."""
        refused: dict[str, str] = {}
        for name, model in sorted(listing.models.items()):
            if not wanted(name):
                continue
            known = self._trees.get(name)
            if model.reason:
                refused[name] = model.reason
            elif known is None or known.listed != model.files:
                try:
                    held = self._build(name, model)
                except Changed as error:
                    self._moved = True
                    refused[name] = f"its objects change while they are fetched ({quoted(str(error))})"
                except ConfigError as error:
                    refused[name] = error.message
                else:
                    self._replace(name, _Tree(model.files, held))
        return refused

    def _build(self, name: str, model: RemoteModel) -> Held:
        """The model's folder, complete."""
        with building(self._cache, name) as tree:
            digests: dict[str, str] = {}

            def add(path: str, each: RemoteObject) -> tuple[str, str]:
                for _ in range(_EVICTED):
                    digest = self.fetcher.fetch(each)
                    if tree.add(path, digest):
                        return path, digest
                raise ConfigError("the cache of model files is too small: raise --model-cache-bytes")

            if CONFIG_FILE in model.files:
                digests |= [add(CONFIG_FILE, model.files[CONFIG_FILE])]
            needed = chosen_versions(model, self._config(name, digests))
            self._require_room(needed)
            rest = {path: each for path, each in needed.items() if path not in digests}
            with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
                digests |= pool.map(add, rest.keys(), rest.values())
            tree_id = tree_name(name, digests, model.folders)
            held = hold(self._cache, tree_id, lambda: tree.finish(tree_id, digests, model.folders))
        if held is None:
            raise ConfigError(f"the folder of model '{name}' could not be made in '{self._cache.trees}'")
        return held

    def _size(self, name: str, model: RemoteModel) -> int:
        """Bytes of the versions that would be served."""
        known = self._sizes.get(name)
        if known is not None and known[0] == model.files:
            return known[1]
        file = model.files.get(CONFIG_FILE)
        try:
            config = self._config(name, {} if file is None else {CONFIG_FILE: self.fetcher.fetch(file)})
        except (Changed, ConfigError):
            config = None
        needed = model.files if config is None else chosen_versions(model, config)
        return sum(each.size for path, each in needed.items() if "/" in path)

    def _config(self, name: str, digests: Mapping[str, str]) -> ModelConfig | None:
        """The configuration, which selects versions; None if it cannot be read, which `scan` will say."""
        if CONFIG_FILE not in digests:
            return ModelConfig(name=name)
        try:
            with (self._cache.objects / digests[CONFIG_FILE]).open("rb") as file:
                return pbtxt.parse(file.read(pbtxt.MAX_BYTES + 1), CONFIG_FILE, name)
        except (ConfigError, OSError):
            return None

    def _require_room(self, needed: Mapping[str, RemoteObject]) -> None:
        size = sum(each.size for each in needed.values())
        if self._cache.limit and size > self._cache.limit:
            raise ConfigError(
                f"its files have {size} bytes, and the cache of model files holds at most {self._cache.limit}: "
                "raise --model-cache-bytes"
            )

    def _replace(self, name: str, tree: _Tree) -> None:
        former = self._trees.get(name)
        self._trees[name] = tree
        if former is not None:
            self._former.append(former.held)

    def _forget(self, names: Collection[str]) -> None:
        """Drop the folders of all other models."""
        for name in [name for name in self._trees if name not in names]:
            self._former.append(self._trees.pop(name).held)
