"""Loads, replaces and unloads model versions so that they follow the repository, and announces each change.

Invariants: a state changes only by `states.next_state`; a version is announced READY once its topic exists and all its instances
are warm; when its files change, the loaded version serves until its successor is ready; a version that cannot be loaded is
announced with the reason, unless another worker serves it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from protocol.errors import ConfigError, FleetError, NotFound
from protocol.messages import Announcement, ModelLoad
from protocol.ports import Directory
from workers.batching.lanes import LaneSettings
from workers.context import Context
from workers.instances.loaded import LoadedModel
from workers.lifecycle.announcer import Announcer
from workers.lifecycle.loader import Loader
from workers.lifecycle.states import Event, State, next_state, public_state
from workers.repository.digests import Digests
from workers.repository.model_files import require_distinct
from workers.repository.scan import ignored_folders, scan_file, scan_repositories
from workers.repository.version import ModelFolder, ModelVersion
from workers.serving.serving import Serving
from workers.settings import WorkerSettings
from workers.system import cpu_yield

Key = tuple[str, str]
"""(model, version)."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class VersionSlot:
    """One version that this worker has, had or should have.

    Attributes:
        digest: of the files at the last load, successful or not.
        reason: why it is unavailable.
        config: as announced.
        partitions: of its topic, once known.
        labels: as announced.
    """

    state: State = State.UNLOADED
    digest: str = ""
    reason: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    partitions: int = 1
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    serving: Serving | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPlan:
    """The loads and unloads that leave exactly the wanted versions."""

    load: tuple[Key, ...]
    unload: tuple[Key, ...]


def plan_loads(wanted: Mapping[Key, str], slots: Mapping[Key, VersionSlot]) -> LoadPlan:
    """Compare the wanted digests with the loaded ones. Pure.

    A version that failed is retried when its files change; one that is loading or unloading is left as it is.
    """
    load, unload = [], []
    for key, digest in wanted.items():
        slot = slots.get(key)
        if slot is None or (slot.state in (State.UNLOADED, State.READY, State.UNAVAILABLE) and slot.digest != digest):
            load.append(key)
    for key, slot in slots.items():
        if key not in wanted and slot.state in (State.READY, State.UNAVAILABLE):
            unload.append(key)
    return LoadPlan(tuple(load), tuple(unload))


class Models:
    """All versions of one worker.

    Args:
        context: the worker's.
        settings: name the repositories and models.
        loader: makes instances.
        directory: knows which other workers serve a version.

    Attributes:
        slots: by key.
        announcer: of their states.
    """

    def __init__(self, context: Context, settings: WorkerSettings, loader: Loader, directory: Directory) -> None:
        self.slots: dict[Key, VersionSlot] = {}
        self.announcer = Announcer(context, directory)
        self._context = context
        self._settings = settings
        self._loader = loader
        self._folders: dict[str, ModelFolder] = {}
        self._digests = Digests()
        self._warned: set[tuple[str, ...]] = set()
        self._changing = asyncio.Lock()

    # --- state -------------------------------------------------------------------------------------------------------

    def serving(self) -> list[Serving]:
        """Every version that takes requests."""
        return [slot.serving for slot in list(self.slots.values()) if slot.serving is not None]

    def problems(self) -> list[str]:
        """One sentence for each version that should be served and is not."""
        return [
            f"model '{model}' version {version} is {slot.state}" + (f": {slot.reason}" if slot.reason else "")
            for (model, version), slot in list(self.slots.items())
            if slot.state in (State.LOADING, State.UNAVAILABLE)
        ]

    async def loads(self) -> list[ModelLoad]:
        """Each version's load, for the heartbeat."""
        loads = []
        for (model, version), slot in list(self.slots.items()):
            if slot.serving is not None:
                loads.append(await slot.serving.load(public_state(slot.state)))
            elif slot.state is not State.UNLOADED:
                loads.append(ModelLoad(model, version, public_state(slot.state)))
        return loads

    # --- following the repository ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the versions that the settings name.

        Raises:
            ConfigError: with `exit_on_error`, naming every version that could not be loaded.
        """
        chosen = self._settings.load_model if self._settings.model_control_mode == "explicit" else ("*",)
        failures = await self._reconcile(await self._scan(), chosen)
        if failures and self._settings.exit_on_error:
            raise ConfigError("; ".join(failures) + " (serve the rest with --no-exit-on-error)")

    async def poll(self) -> None:
        """Scan the repositories again and follow the changes."""
        try:
            wanted = await self._scan()
        except ConfigError as exc:
            log.warning("the model repository cannot be read; the loaded models stay", error=exc.message)
            return
        await self._reconcile(wanted, ("*",))

    async def load_model(self, name: str) -> None:
        """Load the versions of a model that its policy selects (explicit control).

        Raises:
            NotFound: there is no such model.
            ConfigError: naming the versions that could not be loaded.
        """
        wanted = await self._scan()
        if name not in self._folders and not any(model == name for model, _ in wanted):
            raise NotFound(f"failed to load '{name}', failed to poll from model repository")
        loaded = {model for (model, _), slot in self.slots.items() if slot.state is State.READY}
        failures = await self._reconcile(wanted, (*loaded, name))
        if failures:
            raise ConfigError(f"load failed for model '{name}': " + "; ".join(failures))

    async def unload_model(self, name: str) -> None:
        """Unload all versions of a model, if there are any."""
        async with self._changing:
            await asyncio.gather(*[self._unload(key) for key in list(self.slots) if key[0] == name])

    async def _scan(self) -> dict[Key, ModelVersion]:
        folders = await asyncio.to_thread(scan_repositories, self._settings.model_repository, known=self._digests)
        self._folders = {folder.name: folder for folder in folders}
        for line in await asyncio.to_thread(ignored_folders, self._settings.model_repository):
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

    async def _reconcile(self, wanted: Mapping[Key, ModelVersion], chosen: Sequence[str]) -> list[str]:
        """Load and unload; returns one sentence for each failure."""
        there = {key: version for key, version in wanted.items() if "*" in chosen or key[0] in chosen}
        async with self._changing:
            failures = await self._refuse_broken(chosen)
            todo = plan_loads({key: version.digest for key, version in there.items()}, self.slots)
            results = await asyncio.gather(*[self._load(there[key]) for key in todo.load])
            broken = {name for name, folder in self._folders.items() if folder.reason}
            await asyncio.gather(*[self._unload(key) for key in todo.unload if key[0] not in broken])
        return failures + [failure for failure in results if failure]

    async def _refuse_broken(self, chosen: Sequence[str]) -> list[str]:
        """Mark models whose folders are broken as unavailable, unless a version is loaded: it continues to serve."""
        failures = []
        for name, folder in self._folders.items():
            if not folder.reason or not ("*" in chosen or name in chosen):
                continue
            failures.append(f"model '{name}' cannot be served: {folder.reason}")
            key = (name, "1")
            if not any(model == name and slot.state is State.READY for (model, _), slot in self.slots.items()):
                slot = self.slots.setdefault(key, VersionSlot())
                if slot.reason != folder.reason:
                    log.error("a model cannot be served", model=name, reason=folder.reason)
                    slot.state, slot.reason = next_state(slot.state, Event.FAILED), folder.reason
                    await self._announce(key, slot)
        known = {*self._folders, "*"} | {file.name for file in self._settings.model_file}
        return failures + [
            f"failed to load '{name}', failed to poll from model repository" for name in chosen if name not in known
        ]

    # --- one version -------------------------------------------------------------------------------------------------

    async def _load(self, version: ModelVersion) -> str:
        """Load or reload it; returns the failure, or ""."""
        key = (version.model, str(version.version))
        slot = self.slots.setdefault(key, VersionSlot())
        slot.state = next_state(slot.state, Event.LOAD)
        slot.digest = version.digest
        log.info("loading", model=key[0], version=key[1])
        try:
            loaded = await self._loader.load(version)
        except FleetError as exc:
            return await self._failed(key, slot, exc.message)
        await self._serve(key, slot, loaded)
        return ""

    async def _failed(self, key: Key, slot: VersionSlot, reason: str) -> str:
        log.error("a model cannot be loaded", model=key[0], version=key[1], reason=reason)
        if slot.state is State.READY:
            log.warning("the loaded version continues to serve", model=key[0], version=key[1])
        else:
            slot.state = next_state(slot.state, Event.FAILED)
            slot.reason = reason
            await self._announce(key, slot)
        return f"model '{key[0]}' version {key[1]} cannot be loaded: {reason}"

    async def _serve(self, key: Key, slot: VersionSlot, loaded: LoadedModel) -> None:
        """Announce it and take requests; a predecessor first answers the requests that it has."""
        context, former = self._context, slot.serving
        batch = LaneSettings(self._settings.batch_lane_max_ms / 1000.0, self._settings.batch_lane_share)
        serving = Serving(context, loaded, self._settings.max_queued_bytes, batch)
        slot.config, slot.labels = loaded.version.config.to_json(), loaded.labels
        slot.partitions = await context.retry.call(
            "create topic", lambda: context.bus.ensure_topic(serving.topic, self._settings.partitions)
        )
        if former is not None:
            await former.finish(self._settings.drain_grace)
            await former.close(evict=False)
        else:
            slot.state = next_state(slot.state, Event.LOADED)
        slot.serving, slot.reason = serving, ""
        await self._announce(key, slot)
        cpu_yield.end()  # from here on callers wait for this process
        await serving.open()
        log.info(
            "ready", model=key[0], version=key[1], seconds=round(loaded.seconds, 3), instances=len(loaded.executors),
            partitions=slot.partitions,
        )  # fmt: skip

    async def _unload(self, key: Key) -> None:
        """Take no new calls, serve or refuse the requests in the topic, and free the instances."""
        slot = self.slots[key]
        if slot.state not in (State.READY, State.UNAVAILABLE):
            return
        slot.state = next_state(slot.state, Event.UNLOAD)
        serving = slot.serving
        if serving is not None:
            await self._announce(key, slot)
            await serving.empty(self._settings.unload_grace)
            await serving.finish(self._settings.drain_grace)
            await serving.close()
            slot.serving = None
            slot.state = next_state(slot.state, Event.UNLOADED)
        slot.reason = "unloaded"
        await self._announce(key, slot)
        log.info("unloaded", model=key[0], version=key[1])
        del self.slots[key]

    async def _announce(self, key: Key, slot: VersionSlot) -> None:
        now = self._context.clock()
        entry = Announcement(
            *key, public_state(slot.state), slot.config, slot.digest, slot.reason, now, slot.partitions, slot.labels
        )
        await self.announcer.announce(entry)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, grace: float) -> None:
        """Fetch nothing more and answer the requests in flight. Nothing is announced: other workers may serve the same versions."""
        await asyncio.gather(*[serving.finish(grace) for serving in self.serving()])

    async def close(self) -> None:
        """Leave all groups and free all instances."""
        await asyncio.gather(*[serving.close() for serving in self.serving()])
        for slot in self.slots.values():
            slot.serving = None

    def abandon(self) -> None:
        """Stop at once, as a crash would."""
        for serving in self.serving():
            serving.abandon()
