"""Processes of a simulated fleet: real gateways (without their HTTP door), real served models and real supervisors."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from gateway.claims import Claims
from gateway.dispatcher import Dispatcher
from gateway.metrics import GatewayMetrics
from gateway.requests import Requests
from gateway.service import Service
from gateway.settings import GatewaySettings
from gateway.upkeep import Upkeep
from protocol.clock import Clock
from protocol.errors import Code, FleetError
from protocol.messages import Announcement, Failure, Heartbeat, InferRequest, ModelState
from protocol.naming import Names
from protocol.pbtxt import parse
from protocol.ports import OutRecord
from protocol.presence import encode_announcement
from protocol.tensors import Array
from protocol.transport import Transport
from tests.simulation.history import History
from tests.simulation.kafka import Kafka, SimBus
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.redis import Redis, SimStore
from tests.simulation.weather import EPOCH, Network, Weather
from workers.backends.base import Outcome
from workers.backends.tensor_instance import TensorInstance
from workers.backoff import Backoff
from workers.completion import complete
from workers.context import Context
from workers.execution import Completions, Executor, Job, ThreadExecutor
from workers.loading import LoadedModel
from workers.patience import Patience
from workers.repository import ModelVersion
from workers.serving import Serving
from workers.supervisor import Supervisor

T = TypeVar("T")

NAMES = Names("sim")
TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")
PARTITIONS = 4
RESULT_TTL = 3600.0
FENCE_TTL = 300.0
SECONDS = (0.001, 0.004, 0.02, 0.2) * 4 + (2.5,)
"""That a batch may run."""
MAX_ATTEMPTS = 1000
"""Nothing kills a worker here but the plan: whoever was begun often is innocent."""
BAD = 1.0
"""A request whose second value is this has no output: the model refuses it, alone."""
WORSE = 2.0
"""With this one the whole batch fails, and the worker has to find out whose fault it was."""
CONFIG = complete(
    parse(
        """
        backend: "identity" max_batch_size: 4
        input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
        dynamic_batching { max_queue_delay_microseconds: 3000 }
        """,
        "config.pbtxt",
        "m",
    ),
    None,
)
VERSION = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), CONFIG, "digest")


class ConnectionLost(Exception):
    """The gateway died with the call in it."""


class SimInstance(TensorInstance):
    """Gives its input back."""

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        if (inputs["X"][:, 1] == WORSE).any():
            raise RuntimeError("a row that no batch survives")
        return {"Y": inputs["X"]}

    def split(self, requests: Sequence[InferRequest], raw: Mapping[str, Array]) -> Sequence[Outcome]:
        outcomes = list(super().split(requests, raw))
        for index, request in enumerate(requests):
            if request.inputs[0].array().flat[1] == BAD:
                outcomes[index] = Failure(Code.MODEL_FAILED, "a bad row")
        return outcomes


class SimExecutor(ThreadExecutor):
    """The real one's run, at a virtual time and for a virtual while, without its thread."""

    def __init__(self, worker: WorkerProcess, name: str) -> None:
        self.name = name
        self.held = 0
        self.anywhere = False
        self.isolated = False
        self.restarts = 0
        self._worker = worker
        self._clock = worker.clock
        self._instance = SimInstance(CONFIG)
        self._completions: Completions | None = None
        self._jobs: collections.deque[Job] = collections.deque()
        self._running = False

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        if not self._running:
            self._next()

    def _next(self) -> None:
        if not self._jobs:
            return
        job = self._jobs.popleft()
        self._running = True
        self._run(job)
        seconds = 0.0
        if not job.stale:
            self._worker.fleet.history.ran(self._worker.process, job.entries, self._clock())
            seconds = self._worker.fleet.dice.choice(SECONDS)
        self._worker.fleet.loop.call_later(seconds, self._over, job)

    def _over(self, job: Job) -> None:
        self._running = False
        if not job.stale:
            job.compute_end = self._clock()
        assert self._completions is not None
        self._completions.push(job)
        self._next()

    async def close(self) -> None:
        pass


@dataclasses.dataclass
class Fleet:
    """Everything of one simulation.

    Attributes:
        dice: decides what the fleet's surroundings do.
        gateways: those that serve.
        hosts: machines with a supervisor and a worker, by worker id.
    """

    loop: VirtualLoop
    dice: random.Random
    weather: Weather
    network: Network
    kafka: Kafka
    redis: Redis
    history: History
    gateways: dict[str, GatewayProcess] = dataclasses.field(default_factory=dict)
    hosts: dict[str, Host] = dataclasses.field(default_factory=dict)
    incarnations: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def process(self, name: str) -> Process:
        """A new one, with a clock of its own."""
        self.incarnations += 1
        return Process(f"{name}#{self.incarnations}", skew=self.dice.uniform(-30, 30))

    def transport(self, process: Process) -> Transport:
        store = SimStore(self.redis, self.network, process)
        return Transport(SimBus(self.kafka, self.network, process), store, store)

    def clock(self, process: Process) -> Clock:
        drift = 1 + self.dice.uniform(-5e-5, 5e-5)
        loop = self.loop
        return Clock(lambda: loop.now * drift + process.skew, lambda: EPOCH + loop.now + process.skew)

    async def persist(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Try until a server is there, as a process does at its start."""
        while True:
            try:
                return await make()
            except FleetError:
                await asyncio.sleep(0.2)

    def announce(self) -> None:
        """The catalogue knows the model; topics are there."""
        process = self.process("announcer")

        async def say() -> None:
            bus = self.transport(process).bus
            await bus.ensure_topic(NAMES.catalogue_topic, 1, compacted=True)
            await bus.ensure_topic(TOPIC, PARTITIONS)
            await bus.ensure_topic(DEAD, 1)
            entry = Announcement("m", "1", ModelState.READY, CONFIG.to_json(), "digest", "", EPOCH, PARTITIONS)
            key, value = encode_announcement(entry)
            await bus.publish(NAMES.catalogue_topic, [OutRecord(value, (), key)])

        self.loop.spawn(process, say())


class GatewayProcess:
    """One gateway, from its start to `kill -9`.

    Attributes:
        up: it takes calls.
    """

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.process = fleet.process(name)
        self.up = False
        self._asked: dict[asyncio.Future[Any], None] = {}
        self.process.on_death.append(self._died)
        fleet.gateways[name] = self
        fleet.loop.spawn(self.process, self._run())

    async def _run(self) -> None:
        fleet = self.fleet
        transport = fleet.transport(self.process)
        clock = fleet.clock(self.process)
        await fleet.persist(lambda: clock.resync(transport.results.now))
        settings = GatewaySettings(
            gateway=self.process.name.replace("#", "-"), claim_lease=3.0, result_ttl=RESULT_TTL, trim_bytes=400
        )
        self.service = Service(settings, transport, NAMES, clock, GatewayMetrics(CollectorRegistry()))
        self.service.new_id = lambda: f"{fleet.dice.getrandbits(128):032x}"  # type: ignore[assignment]  # a seed's ids
        self.dispatcher = Dispatcher(self.service)
        self.upkeep = Upkeep(self.service, self.dispatcher)
        self.claims = Claims(self.service)
        self.requests = Requests(self.service, self.claims)
        await fleet.persist(self.dispatcher.start)
        await fleet.persist(self.upkeep.start)
        self.up = True
        fleet.history.note("up", self.process)

    async def ask(self, work: Callable[[GatewayProcess], Coroutine[Any, Any, T]]) -> T:
        """Do it in the gateway.

        Raises:
            ConnectionLost: the gateway died.
        """
        answer: asyncio.Future[T] = self.fleet.loop.create_future()
        self._asked[answer] = None

        async def serve() -> None:
            try:
                result = await work(self)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.fleet.loop.spawn(self.process, serve())
        try:
            return await answer
        finally:
            self._asked.pop(answer, None)

    def _died(self) -> None:
        self.up = False
        self.fleet.history.note("died", self.process)
        for answer in list(self._asked):
            if not answer.done():
                answer.set_exception(ConnectionLost(self.name))


class WorkerProcess:
    """One worker: a served model, as `workers.models` puts it together, and its heartbeat."""

    def __init__(self, fleet: Fleet, host: Host) -> None:
        self.fleet = fleet
        self.host = host
        self.process = fleet.process(host.name)
        self.ended: asyncio.Future[int] = fleet.loop.create_future()
        self.serving: Serving | None = None
        self.clock = fleet.clock(self.process)
        self.process.on_death.append(lambda: self.end(-9))
        fleet.loop.spawn(self.process, self._run())

    def end(self, code: int) -> None:
        if not self.ended.done():
            self.fleet.history.note("ended", self.process, code)
            self.process.alive = False
            self.ended.set_result(code)

    async def _run(self) -> None:
        fleet = self.fleet
        try:
            await asyncio.sleep(fleet.dice.choice((0.05, 0.3, 1.0)))  # loading
            transport = fleet.transport(self.process)
            await self.clock.resync(transport.results.now)
            context = Context(
                self.host.name, self.process.name, NAMES, self.clock, transport.bus, transport.results, Patience(), FENCE_TTL,
                MAX_ATTEMPTS,
            )  # fmt: skip
            executors: list[Executor] = [SimExecutor(self, f"m_{n}") for n in range(fleet.dice.choice((1, 1, 2)))]
            self.serving = Serving(context, LoadedModel(VERSION, executors, 0.0), 2**20)
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
    """The real one; only what it starts is a process of the simulation."""

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
        self._legacy.close()  # the journal of a worker process; there is none
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
        if last is not None:
            await self._evict(last)
        return code


class Host:
    """A machine: a supervisor and its worker.

    Attributes:
        worker: that runs now, or ran last.
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
        self.supervisor = SimSupervisor(self.fleet, self, self.fleet.transport(self.process))
        self.fleet.loop.spawn(self.process, self.supervisor.run())

    def fail(self) -> None:
        """Power off."""
        self.fleet.loop.kill(self.process)
        if self.worker is not None:
            self.fleet.loop.kill(self.worker.process)
