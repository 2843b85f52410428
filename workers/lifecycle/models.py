"""Loads, replaces and unloads model versions so that they follow the repository, and announces each change.

Invariants: a state changes only by `states.next_state`; a version is announced READY once all its instances
are warm and its topic's partitions are assigned; when its files change, the loaded version serves until its successor is ready;
a version that cannot be loaded is announced with the reason, unless another worker serves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from protocol.errors import ConfigError, FleetError
from protocol.messages import Announcement, ModelLoad
from protocol.ports import Directory
from protocol.runtime.logs import SAID_LAST
from protocol.texts import first_line
from workers.backends.tracebacks import traced
from workers.batching.lanes import LaneSettings
from workers.context import Context
from workers.instances.loaded import LoadedModel
from workers.lifecycle.announcer import Announcer
from workers.lifecycle.load_progress import reporting
from workers.lifecycle.loader import Loader
from workers.lifecycle.repositories import Repositories
from workers.lifecycle.slots import Key, Order, VersionSlot, plan_loads
from workers.lifecycle.states import Event, State, next_state, public_state
from workers.repository.version import ModelFolder, ModelVersion
from workers.serving.memory import QueueMemory
from workers.serving.serving import Serving
from workers.settings import WorkerSettings
from workers.system import cpu_yield

LONGEST_JOIN: Final = 10.0
"""Seconds: after a longer join the version is announced all the same, and its requests wait in the topic."""

log = structlog.get_logger(__name__)


def _together(failures: Sequence[str], *, others: bool) -> str:
    """The failures as one text; with `others`, how to serve those."""
    pasted = any("\n" in failure for failure in failures)
    hint = "(serve the rest with --no-exit-on-error)"
    return ("\n" if pasted else "; ").join(failures) + (("\n" if pasted else " ") + hint if others else "")


class Models:
    """All versions of one worker.

    Args:
        context: the worker's.
        settings: name the repositories and models.
        loader: makes instances.
        directory: knows which other workers serve a version.

    Attributes:
        slots: by key.
        repositories: what can be served.
        announcer: of their states.
    """

    def __init__(self, context: Context, settings: WorkerSettings, loader: Loader, directory: Directory) -> None:
        self.slots: dict[Key, VersionSlot] = {}
        self.repositories = Repositories(settings, self._folders_in_use)
        self.announcer = Announcer(context, directory)
        self._context = context
        self._settings = settings
        self._memory = QueueMemory(settings.max_queued_bytes)
        self._loader = loader
        self._changing: dict[str, asyncio.Lock] = {}
        self._ends_with_failures = False

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

    async def loads(self, *, statistics: bool = False) -> list[ModelLoad]:
        """Each version's load, for the heartbeat; with its statistics, if they are asked for."""
        loads = []
        for (model, version), slot in list(self.slots.items()):
            if slot.serving is not None:
                loads.append(await slot.serving.load(public_state(slot.state), statistics=statistics))
            elif slot.state is not State.UNLOADED:
                loads.append(ModelLoad(model, version, public_state(slot.state)))
        return loads

    def _folders_in_use(self) -> list[Path]:
        return [serving.loaded.version.folder for serving in self.serving()]

    # --- following the repository ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load all versions; under explicit control, `control.Control.begin` does so instead.

        Raises:
            ConfigError: with `exit_on_error`, naming every version that could not be loaded.
        """
        self._ends_with_failures = self._settings.exit_on_error
        failures = await self._reconcile(await self.repositories.scan())
        self._ends_with_failures = False
        if failures and self._settings.exit_on_error:
            raise ConfigError(_together(failures, others=bool(self.serving())))

    async def poll(self) -> None:
        """Scan the repositories again and follow the changes."""
        try:
            wanted = await self.repositories.scan()
        except ConfigError as exc:
            log.warning("the model repository cannot be read; the loaded models stay", error=exc.message)
            return
        await self._reconcile(wanted)

    async def settle_folder(self, folder: ModelFolder, order: Order) -> dict[Key, str]:
        """Serve the versions of a model that was scanned; see `settle`."""
        if folder.reason:
            await self._refuse(folder)
            return {(folder.name, ""): folder.reason}
        return await self.settle(folder.name, {(v.model, str(v.version)): v for v in folder.versions}, order)

    async def settle(
        self, model: str, wanted: Mapping[Key, ModelVersion], order: Order | None = None
    ) -> dict[Key, str]:
        """Serve exactly these versions of a model. While some of it serves, a load that fails in part changes nothing.

        Returns:
            Why versions could not be loaded.
        """
        order = order or Order()
        async with self._changing.setdefault(model, asyncio.Lock()):
            slots = {key: slot for key, slot in self.slots.items() if key[0] == model}
            if order.retry:
                for slot in slots.values():
                    slot.digest = "" if slot.serving is None else slot.serving.loaded.version.digest
            serving = any(slot.state is State.READY for slot in slots.values())
            todo = plan_loads({key: version.digest for key, version in wanted.items()}, slots)
            made = dict(
                zip(
                    todo.load,
                    await asyncio.gather(*[self._prepare(wanted[key], order) for key in todo.load]),
                    strict=True,
                )
            )
            failures = {key: each for key, each in made.items() if isinstance(each, str)}
            follow_up = self._abandon if failures and serving else self._serve
            await asyncio.gather(*[follow_up(key, each) for key, each in made.items() if isinstance(each, LoadedModel)])
            leave = () if failures else todo.unload
            banned = [
                key
                for key, slot in slots.items()
                if slot.serving is not None and not self._may_serve(slot.serving, order)
            ]
            await asyncio.gather(*[self._unload(key, order) for key in {*leave, *banned}])
            return failures

    async def _reconcile(self, wanted: Mapping[Key, ModelVersion]) -> list[str]:
        """Load and unload; returns one sentence for each failure."""
        by_model: dict[str, dict[Key, ModelVersion]] = {model: {} for model, _ in self.slots}
        for key, version in wanted.items():
            by_model.setdefault(key[0], {})[key] = version
        failures = []
        for name, folder in self.repositories.folders.items():
            if folder.reason:
                failures.append(f"model '{name}' cannot be served: {folder.reason}")
                await self._refuse(folder)
                by_model.pop(name, None)  # what is loaded of it serves on
        results = await asyncio.gather(*[self.settle(model, versions) for model, versions in by_model.items()])
        return failures + [
            f"model '{model}' version {version} cannot be loaded: "
            + reason.replace(f" of model '{model}' version {version} ", " ", 1)
            for failed in results
            for (model, version), reason in failed.items()
        ]

    async def _refuse(self, folder: ModelFolder) -> None:
        """Mark a model whose folder is broken as unavailable, unless a version is loaded: it continues to serve."""
        name, key = folder.name, (folder.name, "1")
        if not any(model == name and slot.state is State.READY for (model, _), slot in self.slots.items()):
            slot = self.slots.setdefault(key, VersionSlot())
            if slot.reason != folder.reason:
                alone = len(self.repositories.folders) + len(self._settings.model_file) == 1
                more = self._said_last(slot) if alone else {}
                log.error("a model cannot be served", model=name, reason=folder.reason, **more)
                slot.state, slot.reason = next_state(slot.state, Event.FAILED), folder.reason
                await self._announce(key, slot)

    # --- one version -------------------------------------------------------------------------------------------------

    async def _prepare(self, version: ModelVersion, order: Order) -> LoadedModel | str:
        """Load it beside what serves; returns the failure instead if there is one."""
        key = (version.model, str(version.version))
        slot = self.slots.setdefault(key, VersionSlot())
        slot.state = next_state(slot.state, Event.LOAD)
        slot.digest = version.digest
        if order.digests and version.digest not in order.digests:
            return await self._failed(key, slot, f"its digest {version.digest} is not among the allowed ones")
        if not self.repositories.permits(version):
            return await self._failed(
                key, slot, f"its digest {version.digest} is not in '{self._settings.allowed_digests}' (allowed_digests)"
            )
        log.info("loading", model=key[0], version=key[1])
        try:
            async with reporting(*key, self._context.clock, step=lambda: self._loader.step(version)):
                return await self._loader.load(version)
        except FleetError as exc:
            return await self._failed(key, slot, exc.message, traced(exc))

    def _may_serve(self, serving: Serving, order: Order) -> bool:
        """Whether neither the order nor the operator's list of digests has ruled it out since it was loaded."""
        return order.allows(serving) and self.repositories.permits(serving.loaded.version)

    async def _failed(self, key: Key, slot: VersionSlot, reason: str, trace: Mapping[str, str] | None = None) -> str:
        more = {**(trace or {}), **self._said_last(slot)}
        log.error("a model cannot be loaded", model=key[0], version=key[1], reason=first_line(reason), **more)
        if slot.state is State.READY:
            log.warning("the loaded version continues to serve", model=key[0], version=key[1])
        else:
            slot.state = next_state(slot.state, Event.FAILED)
            slot.reason = reason
            await self._announce(key, slot)
        return reason

    def _said_last(self, failed: VersionSlot) -> dict[str, bool]:
        """A mark for the record of a failure that ends this process at once: unless others still load, which may take long."""
        others = any(slot.state is State.LOADING for slot in self.slots.values() if slot is not failed)
        return {SAID_LAST: True} if self._ends_with_failures and not others else {}

    async def _abandon(self, key: Key, loaded: LoadedModel) -> None:
        """Drop a version that was loaded together with one that failed."""
        await loaded.close()
        await self._failed(key, self.slots[key], "another version of the same load failed")

    async def _serve(self, key: Key, loaded: LoadedModel) -> None:
        """Take requests and announce it; a predecessor first answers the requests that it has.

        A new version is announced when its group has given out the partitions: a first join takes the broker's
        group.initial.rebalance.delay.ms, and callers who are sent to the version earlier would wait that long.
        """
        slot = self.slots[key]
        context, former = self._context, slot.serving
        batch = LaneSettings(self._settings.batch_lane_max_ms / 1000.0, self._settings.batch_lane_share)
        serving = Serving(context, loaded, self._memory, batch)
        slot.config, slot.labels = loaded.version.config.to_json(), loaded.labels
        slot.partitions = await context.retry.call(
            "create topic", lambda: context.bus.ensure_topic(serving.topic, self._settings.partitions)
        )
        if former is not None:
            await former.finish(self._settings.drain_grace)
            await former.close(evict=False)
        slot.serving, slot.reason, slot.since = serving, "", context.clock()
        cpu_yield.end()  # from here on callers wait for this process
        await serving.open()
        if former is None:
            await serving.joined(LONGEST_JOIN)
            slot.state = next_state(slot.state, Event.LOADED)
        await self._announce(key, slot)
        log.info(
            "ready", model=key[0], version=key[1], seconds=round(loaded.seconds, 3), instances=len(loaded.executors),
            partitions=slot.partitions,
        )  # fmt: skip

    async def repartitioned(self, key: Key, topic: str, partitions: int) -> None:
        """A topic of a version has so many partitions now: gateways learn of its interactive one by a new announcement."""
        slot = self.slots.get(key)
        if slot is not None and slot.serving is not None and slot.serving.topic == topic:
            slot.partitions = partitions
            if slot.state is State.READY:
                await self._announce(key, slot)

    async def _unload(self, key: Key, order: Order) -> None:
        """Take no new calls, serve or refuse the requests in the topic, and free the instances."""
        slot = self.slots[key]
        if slot.state not in (State.READY, State.UNAVAILABLE):
            return
        slot.state = next_state(slot.state, Event.UNLOAD)
        serving = slot.serving
        if serving is not None:
            await self._announce(key, slot, order)
            await serving.empty(self._settings.unload_grace)
            await serving.finish(self._settings.drain_grace)
            await serving.close()
            slot.serving = None
            slot.state = next_state(slot.state, Event.UNLOADED)
        slot.reason = order.reason
        await self._announce(key, slot, order)
        log.info("unloaded", model=key[0], version=key[1])
        del self.slots[key]

    async def _announce(self, key: Key, slot: VersionSlot, order: Order | None = None) -> None:
        now = self._context.clock()
        entry = Announcement(
            *key, public_state(slot.state), slot.config, slot.digest, slot.reason, now, slot.partitions, slot.labels
        )
        await self.announcer.announce(entry, everywhere=order is not None and order.everywhere)

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
