"""Machines of a simulated fleet: real supervisors, and real served models in workers that are processes of the simulation."""

from __future__ import annotations

import asyncio

from protocol.errors import FleetError
from protocol.messages import Heartbeat, ModelState
from protocol.transport import Transport
from tests.simulation.fleet import FENCE_TTL, NAMES, TOPIC, Fleet
from tests.simulation.instances import VERSION, SimChild, SimJournal, SimThread
from workers.context import Context
from workers.instances.job import Executor
from workers.instances.loaded import LoadedModel
from workers.retry import Retry
from workers.serving.memory import QueueMemory
from workers.serving.serving import Serving
from workers.supervision.supervisor import Supervisor
from workers.system.backoff import Backoff


class WorkerProcess:
    """One worker: a served model, as `workers.lifecycle.models` puts it together, and its heartbeat."""

    def __init__(self, fleet: Fleet, host: Host) -> None:
        self.fleet = fleet
        self.host = host
        self.process = fleet.process(host.name)
        self.ended: asyncio.Future[int] = fleet.loop.create_future()
        self.serving: Serving | None = None
        self.executors: list[Executor] = []
        self.clock = fleet.clock(self.process)
        self.process.on_death.append(lambda: self.end(-9))
        fleet.loop.spawn(self.process, self._run())

    def end(self, code: int) -> None:
        if not self.ended.done():
            self.fleet.history.ended(self.process, code)
            self.process.alive = False
            self.ended.set_result(code)

    async def _run(self) -> None:
        fleet = self.fleet
        try:
            await asyncio.sleep(fleet.dice.choice((0.05, 0.3, 1.0)))  # loading
            transport = fleet.transport(self.process)
            await self.clock.resync(transport.results.now)
            journal = None if fleet.isolated else self.host.journal
            context = Context(
                self.host.name, self.process.name, NAMES, self.clock, transport.bus, transport.results, Retry(), FENCE_TTL,
                journal=journal, topic_fence_ttl=FENCE_TTL,  # type: ignore[arg-type]  # it is one
            )  # fmt: skip
            kind = SimChild if fleet.isolated else SimThread
            self.executors = [kind(self, f"m_{n}") for n in range(fleet.dice.choice((1, 1, 2)))]
            self.serving = Serving(context, LoadedModel(VERSION, self.executors, 0.0), QueueMemory(2**20))
            await self.serving.open()
        except FleetError as error:
            fleet.history.note("start failed", self.process, error.message)
            self.end(1)
            return
        await self._beat(transport)

    async def _beat(self, transport: Transport) -> None:
        assert self.serving is not None
        turn = 0
        while True:
            load = await self.serving.load(ModelState.READY)
            members = {TOPIC: self.serving.intake.member}
            self.host.supervisor.heard(
                Heartbeat(self.host.name, self.process.name, "h", 1, self.clock(), (load,), members)
            )
            await asyncio.sleep(0.5)
            turn += 1
            if turn % 20 == 0:
                try:
                    await self.clock.resync(transport.results.now)
                except FleetError:
                    continue

    async def drain(self) -> None:
        """SIGTERM."""
        if self.serving is not None:
            await self.serving.finish(5.0)
            await self.serving.close()
        self.end(0)


class SimSupervisor(Supervisor):
    """The real one, but it starts processes of the simulation."""

    def __init__(self, fleet: Fleet, host: Host, transport: Transport) -> None:
        super().__init__(host.name, (), {}, transport, 5.0)
        self._fleet = fleet
        self._host = host

    @property
    def pid(self) -> int | None:
        worker = self._host.worker
        return 1 if worker is not None and worker.process.alive else None

    def heard(self, beat: Heartbeat) -> None:
        self._beat = beat

    async def _restart_forever(self) -> int:
        self._journal.close()
        self._journal = self._host.journal  # type: ignore[assignment]  # it is one
        backoff = Backoff(self._fleet.dice)
        while True:
            started = self._fleet.loop.now
            code = await self._run_once()
            if code == 0:
                return code
            await asyncio.sleep(backoff.after(self._fleet.loop.now - started))

    async def _run_once(self) -> int:
        self._host.worker = WorkerProcess(self._fleet, self._host)
        code = await self._host.worker.ended
        last, self._beat = self._beat, None
        await self._name_suspects("" if last is None else last.incarnation)
        if last is not None:
            await self._evict(last)
        return code


class Host:
    """A machine: a supervisor and its worker.

    Attributes:
        worker: the current or last one.
        journal: of its running requests; gone with the machine.
    """

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.worker: WorkerProcess | None = None
        self.start()
        fleet.hosts[name] = self

    def start(self) -> None:
        """Power on."""
        self.process = self.fleet.process(f"supervisor-{self.name}")
        self.journal = SimJournal()
        self.supervisor = SimSupervisor(self.fleet, self, self.fleet.transport(self.process))
        self.fleet.loop.spawn(self.process, self.supervisor.run())

    def fail(self) -> None:
        """Power off."""
        self.fleet.loop.kill(self.process)
        if self.worker is not None:
            self.fleet.loop.kill(self.worker.process)
