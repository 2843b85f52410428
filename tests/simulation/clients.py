"""Callers of a simulated fleet, and the answers that each of them saw."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from gateway.calls.service import CallContext
from gateway.durable.requests import RequestStatus
from gateway.ids import fingerprint, keyed_id
from protocol.codec import JSON, encode_request
from protocol.errors import RETRYABLE, FleetError
from protocol.messages import InferReply, InferRequest
from protocol.naming import ref
from protocol.ports import OutRecord
from protocol.tensors import from_array
from protocol.v2 import InferBody
from tests.simulation.answers import REPLY_TO
from tests.simulation.fleet import TOPIC, ConnectionLost, Fleet, GatewayProcess
from tests.simulation.instances import BAD, KILLS, POISON, WORSE
from tests.simulation.weather import EPOCH

LONG = 600.0
"""A deadline that no schedule reaches."""
SLACK = 0.5
"""Seconds by which a gateway's clock may be off after drift and a slow resync."""


@dataclasses.dataclass
class Call:
    """One call and its outcome.

    Attributes:
        name: unique; also the label.
        value: unique; comes back as the output.
        timeout: seconds until its deadline; 0 for none.
        tried: when it was last made: a caller with a key repeats it.
        answers: all answers, in order.
        waits: the answers that are no exceptions, and how long the caller had waited for each since it last tried.
        refs: of the requests that it made.
        lost: its gateway died.
        cancelled: by its caller.
        attached: it got its id, not a handle: it cannot be found again after the store lost it.
    """

    name: str
    kind: str
    value: float
    bad: float
    timeout: float
    principal: str = "-"
    key: str = ""
    started: float = 0.0
    tried: float = 0.0
    answers: list[InferReply | FleetError] = dataclasses.field(default_factory=list)
    waits: list[tuple[InferReply, float]] = dataclasses.field(default_factory=list)
    lost: bool = False
    cancelled: bool = False
    refs: set[str] = dataclasses.field(default_factory=set)
    done: bool = False
    attached: bool = False
    losses: int = 0

    def body(self) -> InferBody:
        array = np.array([[self.value, self.bad]], np.float32)
        return InferBody(self.key or self.name, (from_array("X", array),), (), {})


class Clients:
    """All callers of one simulation. They run outside the fleet's processes, and nothing kills them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.process = fleet.process("client")
        self.calls: list[Call] = []
        self.produced: list[str] = []
        self._values = 0
        self._bus = fleet.transport(self.process).bus

    def make(self, kind: str, **fields: object) -> Call:
        dice = self.fleet.dice
        self._values += 1
        call = Call(
            f"c{self._values}",
            kind,
            float(self._values),
            self._flaw(),
            dice.choice((LONG, LONG, LONG, 0.3, 2.0)),
            dice.choice(("-", "alice", "bob")),
        )
        for name, value in fields.items():
            setattr(call, name, value)
        if kind == "keyed" and call.bad in POISON:
            call.timeout = (
                LONG  # late requests are not blamed: the caller would kill one instance after another for ever
            )
        self.calls.append(call)
        return call

    def _flaw(self) -> float:
        fleet, dice = self.fleet, self.fleet.dice
        if fleet.poison and dice.random() < fleet.poison:
            return dice.choice(POISON if fleet.isolated else (KILLS,))
        return dice.choice((BAD, WORSE)) if dice.random() < 0.1 else 0.0

    def start(self, call: Call) -> None:
        work = {
            "plain": self.plain,
            "probe": self.plain,
            "keyed": self.keyed,
            "async": self.asynchronous,
            "cancel": self.plain_cancelled,
            "async-cancel": self.asynchronous,
        }[call.kind]
        call.started = self.fleet.loop.now
        call.losses = self.fleet.history.losses
        self.fleet.loop.spawn(self.process, self._follow(call, work(call)))

    async def _follow(self, call: Call, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except ConnectionLost:
            call.lost = True
        call.done = True
        self.fleet.history.note("done", call.name, call.kind, *[_short(answer) for answer in call.answers])

    def _saw(self, call: Call, reply: InferReply) -> None:
        call.answers.append(reply)
        call.waits.append((reply, self.fleet.loop.now - call.tried))

    def pending(self) -> list[Call]:
        return [call for call in self.calls if not call.done]

    async def _gateway(self) -> GatewayProcess:
        while True:
            up = [gateway for gateway in self.fleet.gateways.values() if gateway.up]
            if up:
                return self.fleet.dice.choice(up)
            await asyncio.sleep(0.1)

    # --- kinds -------------------------------------------------------------------------------------------------------

    async def plain(self, call: Call) -> None:
        gateway = await self._gateway()
        call.started = self.fleet.loop.now
        ended: asyncio.Future[None] = self.fleet.loop.create_future()

        async def submit(served_by: GatewayProcess) -> None:
            self._submit(served_by, call, ended)
            await ended

        await gateway.ask(submit)

    def _submit(self, gateway: GatewayProcess, call: Call, ended: asyncio.Future[None]) -> object:
        service = gateway.service

        def on_done(reply: InferReply) -> None:
            self._saw(call, reply)
            if not ended.done():
                ended.set_result(None)

        try:
            served = service.resolve("m", "1")
            now = service.clock()
            deadline = now + call.timeout if call.timeout else None
            terms = CallContext(service.new_id(), call.principal, now, deadline)
            self._made(call, terms.id)
            return service.submit(served, service.request(served, call.body(), terms), on_done)
        except FleetError as error:
            call.answers.append(error)
            ended.set_result(None)
            return None

    async def plain_cancelled(self, call: Call) -> None:
        """The caller hangs up."""
        gateway = await self._gateway()
        after = self.fleet.dice.choice((0.0, 0.001, 0.005, 0.05, 0.5))

        async def submit(served_by: GatewayProcess) -> None:
            ended: asyncio.Future[None] = self.fleet.loop.create_future()
            entered = self._submit(served_by, call, ended)
            await asyncio.sleep(after)
            if entered is not None and not ended.done():
                call.cancelled = True
                served_by.service.completion.cancel(entered)  # type: ignore[arg-type]

        await gateway.ask(submit)

    async def keyed(self, call: Call) -> None:
        """Repeats the call with one key until it has a final answer."""
        while True:
            gateway = await self._gateway()
            try:
                reply = await gateway.ask(lambda g: self._keyed_once(g, call))
            except ConnectionLost:
                reply = None
            except FleetError as error:
                call.answers.append(error)
                if error.code not in RETRYABLE:
                    return
                reply = None
            if reply is not None:
                self._saw(call, reply)
                if reply.failure is None or reply.failure.code not in RETRYABLE:
                    return
            await asyncio.sleep(self.fleet.dice.uniform(0.05, 0.5))

    async def _keyed_once(self, gateway: GatewayProcess, call: Call) -> InferReply:
        service = gateway.service
        served = service.resolve("m", "1")
        request = service.request(served, call.body(), self._terms(gateway, call, call.timeout))
        return await gateway.claims.infer(served, request, self._mark(call))

    def _terms(self, gateway: GatewayProcess, call: Call, timeout: float) -> CallContext:
        now = gateway.service.clock()
        name = keyed_id(call.principal, "m", "1", call.key) if call.key else gateway.service.new_id()
        self._made(call, name)
        return CallContext(name, call.principal, now, now + timeout if timeout else None, claimed=True)

    def _made(self, call: Call, name: str) -> None:
        call.tried = self.fleet.loop.now
        call.refs.add(ref(call.principal, name))
        if call.bad in POISON:
            self.fleet.history.letters.poison.add(ref(call.principal, name))

    def _mark(self, call: Call) -> str:
        return fingerprint(f"{call.value} {call.bad}".encode(), "")

    async def asynchronous(self, call: Call) -> None:
        """202 and a handle; then polled until the answer exists."""
        accepted = None
        while accepted is None:
            gateway = await self._gateway()
            try:
                accepted = await gateway.ask(lambda g: self._accept(g, call))
            except (ConnectionLost, FleetError) as error:
                if isinstance(error, FleetError) and error.code not in RETRYABLE:
                    call.answers.append(error)
                    return
                await asyncio.sleep(self.fleet.dice.uniform(0.1, 1.0))
        token, reply = accepted
        if reply is not None:
            self._saw(call, reply)
            return
        call.attached = "." not in token
        if call.kind == "async-cancel":
            await asyncio.sleep(self.fleet.dice.choice((0.0, 0.01, 0.3)))
            await self._persist(call, lambda g: g.requests.cancel(token, call.principal))
            call.cancelled = True
        while True:
            status = await self._persist(call, lambda g: g.requests.find(token, call.principal, 2.0))
            if status is None:
                return
            if status.reply is not None:
                self._saw(call, status.reply)
                return

    async def _accept(self, gateway: GatewayProcess, call: Call) -> tuple[str, InferReply | None]:
        service = gateway.service
        served = service.resolve("m", "1")
        request = service.request(served, call.body(), self._terms(gateway, call, 0.0))
        accepted = await gateway.claims.accept(served, request, self._mark(call), False)
        return accepted.token, accepted.reply

    async def _persist(self, call: Call, work: object) -> RequestStatus | None:
        """Ask until there is an answer; None if the error is final."""
        while True:
            gateway = await self._gateway()
            try:
                return await gateway.ask(work)  # type: ignore[arg-type]
            except ConnectionLost:
                pass
            except FleetError as error:
                if error.code not in RETRYABLE:
                    call.answers.append(error)
                    return None
            await asyncio.sleep(self.fleet.dice.uniform(0.1, 0.5))

    # --- producers other than gateways -------------------------------------------------------------------------------

    def produce(self, records: Sequence[OutRecord]) -> None:
        async def publish() -> None:
            try:
                await self._bus.publish(TOPIC, records)
            except FleetError as error:
                self.fleet.history.note("producer failed", error.message)

        self.fleet.loop.spawn(self.process, publish())

    def record(self) -> OutRecord:
        """A request, a request twice, one without an id, or garbage."""
        dice = self.fleet.dice
        self._values += 1
        kind = dice.choice(("named", "nameless", "again", "garbage", "garbage named"))
        stamp = EPOCH + self.fleet.loop.now
        if kind.startswith("garbage"):
            headers = [("id", b"p%d" % self._values)] if kind == "garbage named" else []
            headers += _wanted(self._values)
            value = dice.randbytes(dice.randrange(40))
            self.fleet.history.letters.garbage.add(value)
            return OutRecord(value, headers, None, stamp)
        name = f"p{self._values}"
        if kind == "again" and self.produced:
            name = dice.choice(self.produced)
        flaw = self._flaw() if kind == "named" else 0.0
        if flaw in POISON:
            self.fleet.history.letters.poison.add(name)
        else:
            self.produced.append(name)
        array = np.array([[float(self._values), flaw]], np.float32)
        value, headers = encode_request(InferRequest(name, "m", "1", (from_array("X", array),)))
        if kind == "nameless":
            headers = [(key, text) for key, text in headers if key != "id"]
        headers += _wanted(int(name[1:]))
        return OutRecord(value, headers, None, stamp)


def _wanted(number: int) -> list[tuple[str, bytes]]:
    """Headers that send two of three answers to a topic, in one form or the other; the same for all records of one name."""
    return [[], [REPLY_TO], [REPLY_TO, ("accept", JSON)]][number % 3]


def _short(answer: InferReply | FleetError) -> str:
    if isinstance(answer, FleetError):
        return answer.code.value
    return "OK" if answer.failure is None else answer.failure.code.value
