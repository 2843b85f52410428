"""Follows the fleet's desired state and applies what `desired` decides, one task per model.

Invariants: only a worker with explicit control follows; it reads the topic to its end before it loads anything; a model is worked
on by one task at a time, always towards the newest decision; a decision that did not change is not applied again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from protocol.control import ControlTable
from protocol.errors import ConfigError, FleetError, Unavailable, described
from protocol.heartbeat_parts import facts_of
from protocol.messages import MAX_UNLOADED, ControlProgress, Heartbeat, ModelLoad, ModelState, Outcome
from protocol.ports import Directory
from protocol.runtime.tasks import BackgroundTasks
from workers.context import Context
from workers.lifecycle.announcer import LIVE
from workers.lifecycle.desired import UNLOADED, Decision, Peer, Situation, absent, decide
from workers.lifecycle.models import Models
from workers.lifecycle.replacing import Replacements
from workers.lifecycle.slots import Key, Order
from workers.lifecycle.states import State
from workers.repository.sources import default_cache
from workers.repository.version import ModelFolder
from workers.settings import WorkerSettings

TICK: Final = 0.5
"""Seconds between decisions while no record arrives: leases end, models become idle, and workers come and go."""
READ_WITHIN: Final = 30.0
"""Seconds in which, while the topic is read at start, the next records must come."""

GIVES_WAY: Final = frozenset({Outcome.ABSENT, Outcome.REFUSED})

log = structlog.get_logger(__name__)


class Control:
    """One worker under explicit control.

    Args:
        context: the worker's.
        settings: name the models that are served without a record.
        models: loads and unloads.
        directory: knows the other workers.
    """

    def __init__(self, context: Context, settings: WorkerSettings, models: Models, directory: Directory) -> None:
        self._context = context
        self._settings = settings
        self._models = models
        self._directory = directory
        self._topic = context.names.control_topic
        self._table = ControlTable()
        self._caught_up = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks = BackgroundTasks("control", worker=context.worker)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._decided: dict[str, Decision] = {}
        self._progress: dict[str, ControlProgress] = {}
        self._failures: dict[str, str] = {}
        self._scanned: int | None = None
        self._stopped = False
        self._replacements = Replacements(context.bus, self._topic, settings.model_cache_dir or default_cache())

    @property
    def memory(self) -> tuple[int, int]:
        """(bytes that the models may need, bytes that they need); (0, 0) without a limit."""
        limit = self._settings.model_memory_limit
        return (limit, sum(self._held().values())) if limit else (0, 0)

    def progress(self) -> tuple[ControlProgress, ...]:
        """How far this worker is with every model that has a record."""
        return tuple(self._progress[name] for name in self._table.models if name in self._progress)

    def unloaded(self) -> tuple[str, ...]:
        """Models of the repositories that are not served."""
        loaded = {model for (model, _), slot in self._models.slots.items() if slot.serving is not None}
        return tuple(sorted(set(self._models.repositories.available()) - loaded)[:MAX_UNLOADED])

    # --- following ---------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read the topic from its start, and on. Does not return while the bus is open."""
        table, bus = ControlTable(), self._context.bus
        await bus.ensure_topic(self._topic, 1, compacted=True)
        async for records in bus.follow(self._topic):
            for problem in table.apply(records):
                log.warning("a record of the desired state cannot be read", problem=problem)
            if not records:
                self._table = table
                self._caught_up.set()
            self._changed.set()

    async def begin(self) -> None:
        """Wait until the topic was read, then load what should be served.

        Raises:
            ConfigError: with `exit_on_error`, naming every model that the settings name and that could not be loaded.
            Unavailable: the topic could not be read.
        """
        try:
            while not self._caught_up.is_set():
                self._changed.clear()
                async with asyncio.timeout(READ_WITHIN):
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(f"the desired state could not be read from topic {self._topic}") from None
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._replacements.forget, self._table, self._context.clock())
        missing = await self._turn()
        await self._tasks.join()
        own = [text for name, text in self._failures.items() if name not in self._table.models]
        if (missing or own) and self._settings.exit_on_error:
            raise ConfigError("; ".join([*missing, *own]) + " (serve the rest with --no-exit-on-error)")

    async def work(self) -> None:
        """Decide once, after a change or a tick."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK):
                await self._changed.wait()
        self._changed.clear()
        if not self._stopped:
            await self._turn()

    def stop(self) -> None:
        """Begin no more loads and unloads: the worker drains."""
        self._stopped = True

    async def close(self) -> None:
        """Stop working on models."""
        self._stopped = True
        await self._tasks.close()

    async def _turn(self) -> list[str]:
        """Decide, and start what is to be done; returns a sentence for each named model that is nowhere."""
        table = self._table
        newest = max([wish.generation for wish in table.models.values()], default=-1)
        if self._scanned is None or newest > self._scanned:
            await self._scan(table, newest)
        decisions = dict.fromkeys(self._decided, Decision(False, reason=UNLOADED, everywhere=True))
        decisions |= decide(await self._situation(table))
        for name, decision in decisions.items():
            if decision != self._decided.get(name):
                self._decided[name] = decision
                if name not in self._working:
                    self._working[name] = self._tasks.spawn(self._settle(name))
        known = {*decisions, "*"}
        return [absent(name, known) for name in self._settings.load_model if name not in known]

    async def _scan(self, table: ControlTable, newest: int) -> None:
        """Read the repositories for changes up to this generation. Later than at start, what was read before stays."""
        named = {*self._settings.load_model}
        asked = {name for name, wish in table.models.items() if wish.entry.loaded and not wish.entry.files}
        held = {model for (model, _), slot in self._models.slots.items() if slot.serving is not None}
        try:
            await self._models.repositories.measure(lambda name: "*" in named or name in named | asked | held)
        except ConfigError as error:
            if self._scanned is None:
                raise
            log.warning("the model repository cannot be read; what was read before stays", error=error.message)
        self._scanned = newest

    # --- what is known -----------------------------------------------------------------------------------------------

    async def _situation(self, table: ControlTable) -> Situation:
        beats: list[Heartbeat] = []
        if any(wish.entry.replicas or wish.entry.idle_after for wish in table.models.values()):
            since = self._context.clock() - LIVE
            beats = [beat for beat in await self._directory.workers() if beat.at >= since and not beat.draining]
        others = [beat for beat in beats if beat.worker != self._context.worker and beat.mode == "explicit"]
        wishes = table.models
        return Situation(
            self._context.worker,
            self._models.repositories.available(),
            self._settings.load_model,
            wishes,
            {
                name: sum(table.size_of(digest) for digest in wish.entry.files.values())
                for name, wish in wishes.items()
                if wish.entry.files
            },
            [_peer(beat) for beat in others],
            self._held(),
            {model for (model, _), slot in self._models.slots.items() if slot.state is State.READY},
            self._used_at(others),
            self._settings.model_memory_limit,
            self._context.clock(),
        )

    def _held(self) -> dict[str, int]:
        """By model that has instances or gets some, the bytes that it counts as."""
        sizes, table = self._models.repositories.available(), self._table
        held = {}
        for model, _ in [
            key for key, slot in self._models.slots.items() if slot.serving or slot.state is State.LOADING
        ]:
            wish = table.models.get(model)
            brought = sum(map(table.size_of, wish.entry.files.values())) if wish is not None else 0
            held[model] = brought or sizes.get(model, 0)
        return held

    def _used_at(self, others: Iterable[Heartbeat]) -> dict[str, float]:
        used: dict[str, float] = {}
        for (model, _), slot in self._models.slots.items():
            if slot.serving is not None:
                last = max(slot.since, slot.serving.statistics.last_inference)
                used[model] = max(used.get(model, 0.0), last)
                if slot.serving.runner.in_flight:
                    used[model] = self._context.clock()
        for beat in others:
            for load in beat.models:
                used[load.model] = max(used.get(load.model, 0.0), _last_inference(load))
        return used

    # --- one model ---------------------------------------------------------------------------------------------------

    async def _settle(self, name: str) -> None:
        """Work on a model until it is as decided."""
        try:
            done: Decision | None = None
            while (decision := self._decided[name]) is not done:
                await self._apply(name, decision, retry=done is None or decision.generation != done.generation)
                done = decision
        finally:
            self._working.pop(name, None)

    async def _apply(self, name: str, decision: Decision, *, retry: bool) -> None:
        order = Order(
            () if decision.entry is None else decision.entry.digests, retry, decision.reason, decision.everywhere
        )
        if not decision.serve:
            await self._leave(name, decision, order)
            return
        self._note(name, decision, ModelState.LOADING)
        try:
            failed = await self._models.settle_folder(await self._folder(name, decision), order)
        except FleetError as error:
            failed = {(name, ""): error.message}
        except Exception as error:
            log.exception("a model cannot be settled", model=name)
            failed = {(name, ""): described(error)}
        reason = _reason(failed)
        self._failures.pop(name, None)
        if failed:
            self._failures[name] = f"model '{name}' cannot be loaded: {reason.strip()}"
        if failed:
            self._note(name, decision, ModelState.UNAVAILABLE, reason, Outcome.FAILED, done=True)
        else:
            self._note(name, decision, ModelState.READY, done=True)

    async def _leave(self, name: str, decision: Decision, order: Order) -> None:
        """Unload; of a model without a record, a failure stays to be seen."""
        slots = [slot for (model, _), slot in self._models.slots.items() if model == name]
        if any(slot.serving is not None for slot in slots) or (slots and decision.entry is not None):
            self._note(name, decision, ModelState.UNLOADING)
            await self._models.settle(name, {}, order)
        self._note(name, decision, ModelState.UNAVAILABLE, decision.reason, decision.outcome, done=True)

    async def _folder(self, name: str, decision: Decision) -> ModelFolder:
        found, entry = self._models.repositories.found(name), decision.entry
        if entry is not None and (entry.config or entry.files):
            return await self._replacements.folder(entry, found, self._table)
        return found or ModelFolder(
            name,
            Path(name),
            reason="its files were not fetched: the model repository could not be read; load it again",
        )

    def _note(
        self, name: str, decision: Decision, state: ModelState, reason: str = "", outcome: Outcome = Outcome.NONE, *,
        done: bool = False,
    ) -> None:  # fmt: skip
        if decision.entry is not None:
            self._progress[name] = ControlProgress(name, decision.generation, state, reason, done, outcome)
        else:
            self._progress.pop(name, None)


def _last_inference(load: ModelLoad) -> float:
    """When the model last ran there; a worker of wire version 1 says so in its statistics."""
    last: object = load.last_inference
    if not last and isinstance(load.statistics, Mapping):
        last = load.statistics.get("last_inference", 0)
        return last / 1e3 if isinstance(last, int | float) else 0.0
    return last if isinstance(last, int) else 0.0


def _peer(beat: Heartbeat) -> Peer:
    return Peer(
        beat.worker,
        frozenset(load.model for load in facts_of(beat.models) if load.state is ModelState.READY),
        {entry.model: entry.generation for entry in beat.control if entry.outcome in GIVES_WAY},
    )


def _reason(failed: dict[Key, str]) -> str:
    """Failures of versions in Triton's form."""
    return "".join(
        f"version {version} is at UNAVAILABLE state: {reason};\n" if version else f"{reason}\n"
        for (_, version), reason in failed.items()
    )


def with_control(beat: Heartbeat, mode: str, control: Control | None) -> Heartbeat:
    """The heartbeat with what it says about control."""
    if control is None:
        return dataclasses.replace(beat, mode=mode)
    return dataclasses.replace(
        beat, mode=mode, control=control.progress(), memory=control.memory, unloaded=control.unloaded()
    )
