"""A simulated fleet, and its gateways: real ones, without their HTTP frontend."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry

from gateway.background import Background
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.durable.requests import Requests
from gateway.fleet_metrics import FleetMetrics
from gateway.metrics import GatewayMetrics
from gateway.repository.control import RepositoryControl
from gateway.settings import GatewaySettings
from protocol.errors import FleetError
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import Announcement, ModelState
from protocol.naming import Names
from protocol.ports import OutRecord
from protocol.runtime.clock import Clock
from protocol.transport import Transport
from tests.simulation.bus import SimBus
from tests.simulation.history import History
from tests.simulation.instances import CONFIG
from tests.simulation.kafka import Kafka
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.redis import Redis, SimStore
from tests.simulation.weather import EPOCH, Network, Weather

if TYPE_CHECKING:
    from tests.simulation.processes import Host

T = TypeVar("T")

NAMES = Names("sim")
TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")
PARTITIONS = 4
RESULT_TTL = 3600.0
FENCE_TTL = 300.0


class ConnectionLost(Exception):
    """The gateway died with the call in it."""


@dataclasses.dataclass
class Fleet:
    """All parts of one simulation.

    Attributes:
        dice: decides the behaviour of the fleet's environment.
        gateways: the live ones.
        hosts: machines with a supervisor and a worker, by worker id.
        isolated: instances are processes of their own.
        poison: share of the requests that kill or hang their instance.
    """

    loop: VirtualLoop
    dice: random.Random
    weather: Weather
    network: Network
    kafka: Kafka
    redis: Redis
    history: History
    isolated: bool
    poison: float
    gateways: dict[str, GatewayProcess] = dataclasses.field(default_factory=dict)
    hosts: dict[str, Host] = dataclasses.field(default_factory=dict)
    incarnations: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def process(self, name: str) -> Process:
        """A new process with a clock of its own."""
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
        """Try until the servers answer, as a process does at its start."""
        while True:
            try:
                return await make()
            except FleetError:
                await asyncio.sleep(0.2)

    def announce(self) -> None:
        """Announce the model in the catalogue and create its topics."""
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
        repository = RepositoryControl(self.service)
        self.dispatcher = Dispatcher(self.service)
        self.background = Background(self.service, repository, self.dispatcher, FleetMetrics(CollectorRegistry()))
        self.claims = Claims(self.service)
        self.requests = Requests(self.service, self.claims)
        await fleet.persist(self.dispatcher.start)
        await fleet.persist(self.background.start)
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
