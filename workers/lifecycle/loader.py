"""From a version's folder to loaded, warmed-up instances; none of the work runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from protocol.errors import FleetError
from workers.backends import load_backend, usable_gpus
from workers.backends.base import Backend
from workers.backends.opening import load_version, open_version
from workers.backends.tracebacks import LoadError, sentence_of, trace_of, whole_trace_of
from workers.instances.batching_check import CheckFailed, RowsInfluence, try_batching
from workers.instances.executor import ThreadExecutor, call_apart
from workers.instances.limited import LimitedChild, LimitedThread, Place, RateLimit
from workers.instances.loaded import LoadedModel
from workers.instances.process import commands
from workers.instances.process.child import Child
from workers.instances.process.executor import ChildExecutor, is_isolated
from workers.instances.process.pool import ChildPool
from workers.instances.warmup import samples, warm_up
from workers.lifecycle.row_checks import RowChecks, in_child, warn_of_failed_check
from workers.repository import model_file_check
from workers.repository.agents import run_agents
from workers.repository.completion import SILENT_BACKENDS, BackendMetadata, as_stated, complete
from workers.repository.labels import read_labels
from workers.repository.placement import Placement, expected_place, place
from workers.repository.row_influence import batching_is_guessed, unbatched
from workers.repository.version import ModelVersion
from workers.system import cpu_yield

CANCELLED: Final = 0.5
"""Seconds that a cancelled load has to close what it has loaded; a thread that loads a model cannot be interrupted."""

log = structlog.get_logger(__name__)


async def _give_up(loaded: LoadedModel, error: BaseException) -> None:
    """Close what was loaded; after a cancellation it kills processes and waits only briefly for threads."""
    if not isinstance(error, asyncio.CancelledError):
        await loaded.close()
        return
    for executor in loaded.executors:
        executor.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCELLED):
            await loaded.close()


class Loader:
    """Loads model versions; a backend is created once, for its first model.

    Args:
        gpus: numbers of the GPUs of this worker.
        cores: CPU cores to divide among instances.
        default_max_batch_size: see `completion.complete`; None completes nothing from the model.
        at_once: versions that load at the same time.
        clock: for the instances.
        rate_limit: the resources that instances wait for; None if they run whenever they can.

    Attributes:
        check_batching: whether to try if rows may share a batch, where only the model's file suggests it.
    """

    def __init__(
        self,
        gpus: Sequence[int],
        cores: int,
        default_max_batch_size: int | None,
        at_once: int,
        clock: Callable[[], float],
        rate_limit: RateLimit | None = None,
    ) -> None:
        self.check_batching = True
        self._rate_limit = rate_limit
        self._gpus = gpus
        self._cores = cores
        self._default_max_batch_size = default_max_batch_size
        self._at_once = asyncio.Semaphore(at_once)
        self._clock = clock
        self._backends: dict[str, Backend] = {}
        self._children = ChildPool()
        self._row_checks = RowChecks()

    def step(self, version: ModelVersion) -> str:
        """What a load does now, if that is worth a word."""
        return self._row_checks.step(version)

    async def load(self, version: ModelVersion) -> LoadedModel:
        """Complete the configuration, place, load and warm up every instance.

        Raises:
            FleetError: naming what is wrong with the model; other exceptions become a `ConfigError`.
        """
        async with self._at_once:
            started = self._clock()
            try:
                return await self._load(version, started)
            except FleetError:
                raise
            except Exception as exc:
                raise LoadError(sentence_of(exc), trace_of(exc) or whole_trace_of(exc)) from exc

    async def _load(self, version: ModelVersion, started: float) -> LoadedModel:
        labels = await asyncio.to_thread(_check_before_import, version)
        backend = await self._backend(version.config.backend)
        gpus: Sequence[int] = ()
        isolated = is_isolated(version.config)
        if not isolated:
            gpus = await asyncio.to_thread(cpu_yield.call, usable_gpus, backend, self._gpus)
            isolated = is_isolated(version.config, place(version.config, gpus, self._cores))
        loads = functools.partial(self._load_children if isolated else self._load_threads, backend, gpus=gpus)
        try:
            loaded = await loads(version, check=self.check_batching)
        except CheckFailed as failed:
            warn_of_failed_check(version, failed)
            loaded = await loads(version, check=False)
        except RowsInfluence as found:
            loaded = await loads(dataclasses.replace(version, config=unbatched(version.config)), check=False)
            loaded.shapes = found.verdict.shapes
        loaded.seconds, loaded.labels = self._clock() - started, labels
        return loaded

    async def _load_threads(
        self, backend: Backend, version: ModelVersion, *, gpus: Sequence[int], check: bool
    ) -> LoadedModel:
        metadata, opened = None, None
        if self._default_max_batch_size is not None:
            expected = expected_place(version.config, gpus, cores=self._cores)
            opening = functools.partial(cpu_yield.call, open_version, backend, version, expected)
            metadata, opened = await call_apart(f"open {version.model}", opening)
        guessed = check and batching_is_guessed(version.config, metadata)
        alone = functools.partial(self._without_batching, version, metadata, gpus)
        version, placements = self._complete(version, metadata, gpus)
        warmups = await asyncio.to_thread(cpu_yield.call, samples, version.config, str(version.version), version.folder)
        executors = [
            ThreadExecutor(placement.name, self._clock)
            if place is None
            else LimitedThread(place, placement.name, self._clock)
            for placement, place in zip(placements, self._places(version, placements), strict=True)
        ]
        loaded = LoadedModel(version, executors, 0.0)
        try:
            for executor, placement in zip(executors, placements, strict=True):
                load = functools.partial(cpu_yield.call, load_version, backend, loaded.version, placement, opened)
                opened = None
                instance = await executor.load(load)
                del load  # it holds what was opened
                if guessed and version.config.batching and executor is executors[0]:
                    trial = functools.partial(cpu_yield.call, try_batching, instance, version.config)
                    await self._row_checks.run(loaded, executors, executor.call(trial), alone)
                if warmups:
                    await executor.call(functools.partial(cpu_yield.call, warm_up, instance, version.config, warmups))
                await executor.watch(version.model)
        except BaseException as exc:
            await _give_up(loaded, exc)
            raise
        return loaded

    async def _load_children(
        self, _: Backend, version: ModelVersion, *, gpus: Sequence[int], check: bool
    ) -> LoadedModel:
        """Load in children: none of the model's code runs in this process. The first child inspects and becomes the first
        instance."""
        name = version.config.backend
        self._children.hold(name)
        child: Child | None = self._children.take(name)
        assert child is not None
        child.about = {"model": version.model, "version": version.version}
        loaded = LoadedModel(version, (), 0.0)
        try:
            share = self._share(version)
            inspected = functools.partial(commands.inspect, metadata=self._default_max_batch_size is not None)
            metadata, gpus = await asyncio.to_thread(inspected, child, version, self._gpus, share)
            guessed = check and batching_is_guessed(version.config, metadata)
            alone = functools.partial(self._without_batching, version, metadata, gpus)
            version, placements = self._complete(version, metadata, gpus)
            executors = [
                ChildExecutor(self._clock, self._children, version, placement)
                if place is None
                else LimitedChild(place, self._clock, self._children, version, placement)
                for placement, place in zip(placements, self._places(version, placements), strict=True)
            ]
            loaded = LoadedModel(version, executors, 0.0)
            for executor in executors:
                first, child = child, None
                await executor.load(first)
                if guessed and version.config.batching and executor is executors[0]:
                    await self._row_checks.run(loaded, executors, in_child(executor, version), alone)
        except BaseException as exc:
            if child is not None:
                child.kill()
                await asyncio.to_thread(child.stop, 0.0)
            await _give_up(loaded, exc)
            raise
        finally:
            await asyncio.to_thread(self._children.release, name)
        return loaded

    def _places(self, version: ModelVersion, placements: Sequence[Placement]) -> Sequence[Place | None]:
        """Where each instance waits for its resources; None for one that takes none."""
        if self._rate_limit is None:
            return [None] * len(placements)
        return self._rate_limit.admit(version.config, placements)

    def _share(self, version: ModelVersion) -> int:
        """CPU threads of an instance, estimated before the backend has said which GPUs it can use."""
        expected = expected_place(version.config, self._gpus, cores=self._cores)
        return self._cores if expected is None else expected.threads

    def _complete(
        self, version: ModelVersion, metadata: BackendMetadata | None, gpus: Sequence[int]
    ) -> tuple[ModelVersion, tuple[Placement, ...]]:
        """The version with its complete configuration, and the placement of its instances."""
        if self._default_max_batch_size is not None:
            config = complete(version.config, metadata, self._default_max_batch_size)
        else:
            config = as_stated(version.config)
        return dataclasses.replace(version, config=config), place(config, gpus, self._cores)

    def _without_batching(
        self, version: ModelVersion, metadata: BackendMetadata | None, gpus: Sequence[int]
    ) -> ModelVersion:
        """The version, as stated, completed as one that does not batch."""
        return self._complete(dataclasses.replace(version, config=unbatched(version.config)), metadata, gpus)[0]

    async def _backend(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is None:  # importing a framework takes seconds
            backend = self._backends[name] = await asyncio.to_thread(cpu_yield.call, load_backend, name)
        return backend


def _check_before_import(version: ModelVersion) -> Mapping[str, tuple[str, ...]]:
    """Refuse what can be refused before a framework is imported, which takes seconds to minutes; returns the outputs' labels.

    Raises:
        ConfigError: an agent refuses the files, the file is not what the backend loads, the configuration lacks
            something that the file never states, or a label file cannot be read.
    """
    run_agents(version.config, version.folder)
    model_file_check.require_loadable(
        version.path, version.config.backend, single_file=version.path.parent == version.folder
    )
    if version.config.backend in SILENT_BACKENDS:
        complete(version.config, None)
    return read_labels(version.config, version.folder)
