"""Loads and unloads models on the whole fleet.

Invariants: a load is answered when every live worker that follows the desired state is done with it, or its time is over; if none
could do it, the record before it is restored; files that no record names any more are deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog

from gateway.calls.service import Service
from gateway.catalogue.heartbeats import is_sound
from gateway.repository import progress
from gateway.repository.parameters import LoadCall, LoadOptions, failed_to_poll, load_record
from protocol.control import FILE, MAX_PART, MODEL, ControlTable, DesiredModel, encode_desired, file_key
from protocol.errors import Code, DeadlineExceeded, Exhausted, FleetError, InvalidArgument, Unavailable
from protocol.heartbeat_parts import facts_of
from protocol.messages import ANONYMOUS, Heartbeat
from protocol.ports import Record
from protocol.runtime.tasks import BackgroundTasks
from protocol.suggestions import did_you_mean

MAX_MODELS: Final = 10_000
"""Models with a record."""
UNLOAD_WITHIN: Final = 5.0
"""Seconds that an unload call waits until no gateway sends requests to the model any more."""
KEEP_FILES: Final = 600.0
"""Seconds after which a file that no record names is deleted: a load call writes its files before its record."""
WAKE_AGAIN: Final = 5.0
"""Seconds after which a model that still sleeps is woken again."""
LATELY: Final = 60.0
"""Seconds for which a worker that went silent is still shown."""
_PAUSES: Final = (0.01, 0.5)
"""Shortest and longest pause between two looks at the workers, in seconds."""
_NOT_EXPLICIT: Final = "explicit model load / unload is not allowed if polling is enabled"

_log = structlog.get_logger("gateway.repository")


class RepositoryControl:
    """Loads, unloads, and says how far the workers are. Raises `FleetError`s with Triton's words.

    Args:
        service: of this gateway.

    Attributes:
        table: the desired state, as this gateway has read it.
    """

    def __init__(self, service: Service) -> None:
        self.table = ControlTable()
        service.scaling.follow(self.table)
        self._service = service
        self._beats: list[Heartbeat] = []
        self._changing: dict[str, asyncio.Lock] = {}
        self._tasks = BackgroundTasks("repository")
        self._woken: dict[str, float] = {}
        service.catalogue.sleeping = self.sleeping
        service.arrivals.wake = self.wake
        service.control.handle(MODEL, self._apply)
        service.control.handle(FILE, self._apply)

    def observe(self, beats: Iterable[Heartbeat]) -> None:
        """Note the workers' newest heartbeats."""
        self._beats = list(beats)

    async def close(self) -> None:
        """End work that no caller waits for."""
        await self._tasks.close()

    # --- what is ------------------------------------------------------------------------------------------------------

    def index(self, ready_only: bool = False) -> list[dict[str, Any]]:
        """The repository index as Triton writes it: what was announced, what loads, and models that are not loaded."""
        entries = self._service.catalogue.index(ready_only=ready_only)
        if not ready_only:
            progress.add_workers(entries, self._live(self._beats))
        return entries

    def lately(self) -> list[Heartbeat]:
        """The newest heartbeats of workers that were live within `LATELY`, those that drain too; half a second old at most."""
        since = self._service.clock() - LATELY
        return [beat for beat in self._beats if beat.at >= since]

    def status(self, model: str) -> dict[str, Any]:
        """What is desired of a model, and what each live worker makes of it; half a second old at most.

        Raises:
            NotFound: nobody knows the model.
        """
        live, wish = self._live(self._beats), self.table.models.get(model)
        here = any(
            model in beat.unloaded or any(load.model == model for load in facts_of(beat.models)) for beat in live
        )
        if wish is None and not here and not self._service.catalogue.known(model):
            raise self._service.catalogue.unknown(model)
        return progress.status(model, wish, live)

    # --- changes ------------------------------------------------------------------------------------------------------

    async def load(
        self,
        model: str,
        config: str = "",
        files: Mapping[str, bytes] | None = None,
        principal: str = ANONYMOUS,
        options: LoadOptions | None = None,
    ) -> None:
        """Make every worker that should serve the model load it; returns when all are done. Old versions serve until then.

        Args:
            model: its name.
            config: JSON of a configuration that replaces the repository's, until the model is unloaded.
            files: by path, such as `1/model.onnx`; the model is made of these files alone.
            principal: the caller.
            options: what a fleet offers beyond Triton.

        Raises:
            InvalidArgument: the call is wrong, or a worker could not load the model.
            FleetError: INTERNAL as in Triton: no worker has the model.
            Unavailable: no worker takes load calls.
            DeadlineExceeded: the workers are still at it.
        """
        service = self._service
        service.names.infer_topic(model, "1")
        call = LoadCall(model, config, files or {}, options or LoadOptions(), principal)
        await self._followers()
        async with self._lock(model):
            before = self.table.models.get(model)
            if before is None and len(self.table.models) >= MAX_MODELS:
                raise Exhausted(
                    f"{MAX_MODELS} models have a desired state, the limit; unload some, or use another prefix"
                )
            record = load_record(call, None if before is None else before.entry, service.clock())
            generation = await self._write(record, call.files)
            _log.info("load", model=model, generation=generation, by=principal)
            verdict, followers = await self._judged(model, generation)
            if (
                not verdict.ready and call.options.digests is None
            ):  # a list of digests forbids others whatever comes of it
                await self._take_back(model, generation, before.entry if before is not None else None)
            self._require_loaded(model, verdict)
            await self._visible(model, followers)

    async def unload(self, model: str, dependents: bool = False, principal: str = ANONYMOUS) -> None:
        """Unload a model everywhere; it stays so after restarts. Returns when no requests go to it any more.

        Args:
            model: its name; an unknown one changes nothing.
            dependents: also the models that an ensemble consists of; there are no ensembles yet.
            principal: the caller.

        Raises:
            Unavailable: no worker takes unload calls.
        """
        service = self._service
        followers = await self._followers()
        async with self._lock(model):
            before = self.table.models.get(model)
            served = any(load.model == model for beat in followers for load in facts_of(beat.models))
            if before is None and not served and not service.catalogue.known(model):
                return
            allowed = () if before is None else before.entry.digests
            record = DesiredModel(model, False, digests=allowed, at=service.clock(), by=principal)
            generation = await self._write(record, {})
            _log.info("unload", model=model, generation=generation, by=principal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNLOAD_WITHIN):
                    await self._unloaded(model, generation)

    # --- eviction -----------------------------------------------------------------------------------------------------

    def sleeping(self, model: str) -> bool:
        """Whether a model was evicted because nobody used it: a call for it waits while it is loaded again."""
        model = self._behind(model)
        wish = self.table.models.get(model)
        if wish is None or not wish.entry.idle_after or not wish.entry.loaded or self._ready(model):
            return False
        ended = 0 < wish.entry.lease_until <= self._service.clock()
        return not ended and not progress.judge(model, wish.generation, self._following(self._beats)).failed

    def wake(self, model: str) -> None:
        """Have an evicted model loaded, unless that was just asked for: its record is written again with the time of now."""
        now, model = self._service.clock(), self._behind(model)
        if now >= self._woken.get(model, -WAKE_AGAIN) + WAKE_AGAIN:
            self._woken = {name: at for name, at in self._woken.items() if at + WAKE_AGAIN > now} | {model: now}
            self._tasks.spawn(self._wake(model))

    def _behind(self, name: str) -> str:
        """The model that an alias stands for."""
        redirect = self._service.aliases.named(name)
        return name if redirect is None else redirect.model

    async def _wake(self, model: str) -> None:
        with contextlib.suppress(FleetError):
            async with self._lock(model):
                wish = self.table.models.get(model)
                if wish is not None and self.sleeping(model):
                    entry = dataclasses.replace(wish.entry, at=self._service.clock())
                    await self._service.control.write(*encode_desired(entry))

    async def _write(self, record: DesiredModel, files: Mapping[str, bytes]) -> int:
        """Write the files, then the record; returns its generation once this gateway follows it."""
        control = self._service.control
        for path, digest in record.files.items():
            content = files.get(path)
            if content is None:
                continue  # of an earlier call
            for number, at in enumerate(range(0, max(len(content), 1), MAX_PART)):
                await control.write(file_key(digest, number), content[at : at + MAX_PART])
        generation = await control.write(*encode_desired(record))
        self._tasks.spawn(self._delete_unused())
        return generation

    async def _delete_unused(self) -> None:
        with contextlib.suppress(FleetError):
            for digest, number in self.table.unused(self._service.clock() - KEEP_FILES):
                await self._service.control.write(file_key(digest, number), b"")

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _judged(self, model: str, generation: int) -> tuple[progress.Verdict, list[Heartbeat]]:
        """Wait until the workers are done; what they have made of it, and their heartbeats.

        Raises:
            DeadlineExceeded: they are still at it.
        """
        within = self._service.settings.model_load_timeout
        end = self._service.clock() + within
        pause, longest = _PAUSES
        while True:
            followers = self._following(await self._look())
            verdict = progress.judge(model, generation, followers)
            if followers and not verdict.waiting:
                return verdict, followers
            if self._service.clock() > end:
                raise DeadlineExceeded(
                    f"model '{model}' is not loaded after {within:g} s (--model-load-timeout); not done: "
                    f"{_listed(verdict.waiting)}; the load goes on, see the model's status"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _require_loaded(self, model: str, verdict: progress.Verdict) -> None:
        """Raise what a load call is answered if not all went well; see `load`."""
        if verdict.failed:
            raise InvalidArgument(f"load failed for model '{model}': {progress.reasons(verdict.failed, verdict.ready)}")
        if verdict.ready:
            return
        if verdict.refused:
            raise InvalidArgument(f"load failed for model '{model}': {progress.reasons(verdict.refused, ())}")
        if verdict.absent:
            raise FleetError(failed_to_poll(model) + self._meant(model), code=Code.INTERNAL)
        raise Unavailable(f"another call has changed model '{model}' meanwhile; ask for its status", retry_after=1.0)

    def _meant(self, model: str) -> str:
        """The model of the repositories that may have been meant."""
        return (
            did_you_mean(model, (entry["name"] for entry in self.index())) if self._service.catalogue.suggests else ""
        )

    async def _visible(self, model: str, followers: Iterable[Heartbeat]) -> None:
        """Wait until this gateway has read that the versions are ready, so that the caller's next request finds them."""
        ready = {
            load.version
            for beat in followers
            for load in facts_of(beat.models)
            if load.model == model and load.state == "READY"
        }
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNLOAD_WITHIN):
                while not ready <= self._ready(model):  # noqa: ASYNC110  # the catalogue has no event per model
                    await asyncio.sleep(_PAUSES[0])

    async def _unloaded(self, model: str, generation: int) -> None:
        while True:
            followers = self._following(await self._look())
            elsewhere = {
                load.model
                for beat in self._live(self._beats)
                if beat.mode != "explicit"
                for load in facts_of(beat.models)
            }
            gone = model in elsewhere or not self._ready(model)
            if progress.noted(model, generation, followers) and gone:
                return
            await asyncio.sleep(_PAUSES[0])

    def _ready(self, model: str) -> set[str]:
        if not self._service.catalogue.known(model):
            return set()
        return {served.version for served in self._service.catalogue.versions(model) if served.ready}

    async def _take_back(self, model: str, generation: int, before: DesiredModel | None) -> None:
        """Restore the record before one that no worker could do, unless there is a newer one."""
        wish = self.table.models.get(model)
        if wish is not None and wish.generation == generation:
            key, value = encode_desired(wish.entry if before is None else before)
            await self._service.control.write(key, b"" if before is None else value)

    # --- workers ------------------------------------------------------------------------------------------------------

    async def _look(self) -> list[Heartbeat]:
        self._beats = [beat for beat in await self._service.heartbeats.poll() if is_sound(beat)]
        return self._beats

    async def _followers(self) -> list[Heartbeat]:
        """The live workers that follow the desired state.

        Raises:
            Unavailable: there is none.
        """
        live = self._live(await self._look())
        if not live:
            raise Unavailable("no worker is live that could load or unload a model; start one", retry_after=1.0)
        followers = self._following(live)
        if not followers:
            raise Unavailable(_NOT_EXPLICIT)
        return followers

    def _live(self, beats: Iterable[Heartbeat]) -> list[Heartbeat]:
        since = self._service.clock() - self._service.settings.worker_timeout
        return [beat for beat in beats if beat.at >= since and not beat.draining]

    def _following(self, beats: Iterable[Heartbeat]) -> list[Heartbeat]:
        return [beat for beat in self._live(beats) if beat.mode == "explicit"]

    def _lock(self, model: str) -> asyncio.Lock:
        """One call at a time for each model."""
        if len(self._changing) > MAX_MODELS:
            self._changing = {name: lock for name, lock in self._changing.items() if lock.locked()}
        return self._changing.setdefault(model, asyncio.Lock())

    def _apply(self, record: Record) -> None:
        self.table.apply_record(record)


def _listed(workers: Iterable[str]) -> str:
    names = sorted(workers)
    if not names:
        return "no worker is live"
    return f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
