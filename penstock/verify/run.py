"""One run: starts the fleet on the given servers, carries out the plan, returns the history. The only module that knows all
parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from penstock.verify import model
from penstock.verify.faults.injection import FaultInjector
from penstock.verify.fleet import watchdog
from penstock.verify.fleet.fleet import Fleet
from penstock.verify.fleet.processes import ServerAddresses
from penstock.verify.observe import memory
from penstock.verify.observe.history import History
from penstock.verify.observe.log_watch import LogWatch
from penstock.verify.observe.raw import TROUBLE, RawKafka, RawRedis
from penstock.verify.observe.traffic import Traffic
from penstock.verify.plan.plan import GATEWAYS, MODELS, WORKERS, Call, Fault, Plan
from protocol.errors import Unavailable
from protocol.transport.settings import TransportSettings

Say = Callable[[str], None]

DRAINED_WITHIN: Final = 20.0
"""Seconds after the run until a process that has not ended is killed."""


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a run takes place.

    Attributes:
        transport: the servers; the prefix is the run's own.
        arguments: the same as flags of `penstock gateway` and `penstock worker`, without the Redis URL.
        commands: the user's own faults, by name.
        settle: seconds that the lag may take to reach zero after the last fault.
        keep: do not delete topics, keys and logs.
    """

    transport: TransportSettings
    arguments: tuple[str, ...]
    commands: Mapping[str, str]
    settle: float
    keep: bool = False


def fresh_prefix() -> str:
    """A prefix that only this run uses."""
    return f"verify-{secrets.token_hex(4)}"


async def run(plan: Plan, site: Site, say: Say) -> History:
    """Carry out a plan.

    Raises:
        FleetError: the servers or the fleet did not start.
    """
    with contextlib.ExitStack() as stack:
        if site.keep:
            folder = Path(tempfile.mkdtemp(prefix="penstock-verify-"))
            say(f"logs and accounts are kept in {folder}, topics and keys under {site.transport.prefix}")
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-verify-")))
        return await _Run(plan, site, folder, say).carry_out()


class _Run:
    """The parts of one run."""

    def __init__(self, plan: Plan, site: Site, folder: Path, say: Say) -> None:
        names = site.transport.names
        self._plan, self._site, self._folder, self._say = plan, site, folder, say
        self._account = folder / "runs"
        self._names = names
        self._log = RawKafka(site.transport, [names.infer_topic(name, "1") for name in MODELS])
        self._store = RawRedis(site.transport)
        security = site.transport.kafka_security.get("security_protocol") or ""
        backing = ServerAddresses(
            site.transport.redis, site.transport.kafka, str(security).endswith("SSL"), site.arguments
        )
        self._token = site.transport.prefix
        self._fleet = Fleet(backing, folder / "models", folder, self._token)
        self._history = History(settle=site.settle)
        self._ahead = 0.0

    def _clock(self) -> float:
        return time.time() + self._ahead

    async def carry_out(self) -> History:
        guard = watchdog.start(self._token, None if self._site.keep else self._folder)
        try:
            return await self._guarded()
        finally:
            if guard.stdin is not None:
                guard.stdin.close()  # it kills the rest of the run, as it does when we are killed
            await asyncio.to_thread(guard.wait)

    async def _guarded(self) -> History:
        model.write_models(self._folder / "models", self._account)
        patience = DRAINED_WITHIN
        try:
            try:
                await self._log.open()
                await self._store.mark(self._clock())
                self._ahead = await self._store.ahead()
                self._history.store_version = await self._store.version()
            except TROUBLE as error:
                raise Unavailable(f"Kafka or Redis cannot be reached: {error}") from error
            self._say(f"starting {GATEWAYS} gateways and {WORKERS} workers")
            await self._fleet.start()
            await self._log.follow(self._log.topics)
            await self._break_and_send()
            return self._history
        except asyncio.CancelledError:  # by a person, who does not wait
            patience = 0.0
            raise
        finally:
            await self._clean_up(patience)

    async def _break_and_send(self) -> None:
        history, plan = self._history, self._plan
        traffic = Traffic(self._fleet.urls, self._log, self._names, self._clock, history)
        injector = FaultInjector(self._fleet, self._account, self._site.commands, self._store, self._clock, history)
        watch = LogWatch(self._log, self._store, self._names, self._clock, history)
        self._say(f"{len(plan.calls)} requests and {len(plan.faults)} faults in {plan.seconds:.0f} s")
        watching = asyncio.create_task(watch.run())
        weighing = asyncio.create_task(memory.sample_memory(self._fleet, self._clock, history.memory))
        begun = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                items: list[Call | Fault] = [*plan.calls, *plan.faults]
                for item in sorted(items, key=lambda item: item.at):
                    await asyncio.sleep(max(0.0, begun + item.at - time.monotonic()))
                    group.create_task(self._one(item, traffic, injector))
        finally:
            await traffic.close()
            for task in (watching, weighing):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task  # raises the error that ended it early, if any
        # On a slow machine callers are late, and still send after the last fault.
        quiet = [*(fault.ended for fault in history.faults), *(seen.sent for seen in history.seen)]
        history.quiet_at = max(quiet, default=self._clock())
        await self._settle(watch)
        history.runs = model.read_executions(self._account, self._clock() - time.monotonic())

    @staticmethod
    async def _one(item: Call | Fault, traffic: Traffic, injector: FaultInjector) -> None:
        await (injector.inject(item) if isinstance(item, Fault) else traffic.make_call(item))

    async def _settle(self, watch: LogWatch) -> None:
        """Wait until the lag was zero twice, or the time is over."""
        end, zeros = self._clock() + self._site.settle, 0
        while zeros < 2 and self._clock() < end:
            with contextlib.suppress(*TROUBLE):
                sample = await watch.sample()
                zeros = zeros + 1 if sample.ends and sample.lag == 0 else 0
            await asyncio.sleep(0.3)
        for _ in range(20):
            with contextlib.suppress(*TROUBLE):
                await watch.look_at_all()
                return
            await asyncio.sleep(0.5)
        raise Unavailable("Redis could not be read at the end of the run, so nothing can be judged")

    async def _clean_up(self, patience: float) -> None:
        await self._fleet.stop(patience)
        if not self._site.keep:
            with contextlib.suppress(*TROUBLE):
                await self._store.forget()
            with contextlib.suppress(*TROUBLE):
                await self._log.forget()
        await self._store.close()
        await self._log.close()
