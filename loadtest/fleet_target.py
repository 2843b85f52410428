"""Requests published straight to Kafka, answers read from Redis: the fleet without its gateway.

It uses the protocol's ports, so it loads an in-memory fleet in the same way. Requests that are due in one turn of the event loop
are published together, and those due while two groups are in flight join the next, as in a gateway. Results come with wake-ups, or
are looked up if a wake-up does not carry them.

Invariant: a ticket is answered at most once, whether by wake-up, look-up or failed publication.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from loadtest.openloop import Answered, Ticket
from loadtest.payloads import Pool, is_close
from loadtest.samples import Outcome
from protocol import codec
from protocol.errors import CodecError, FleetError
from protocol.messages import InferReply, InferRequest
from protocol.naming import Names
from protocol.ports import OutRecord, Wake
from protocol.tensors import from_array
from protocol.transport import Transport

SWEEP_EVERY: Final = 1.0
"""Seconds between look-ups of tickets that no wake-up has answered; wake-ups are hints."""
_LOOK_AT_MOST: Final = 512
IN_FLIGHT: Final = 2
"""Unacknowledged groups; with one for every turn of the loop the producer's queue grows without bound."""


class FleetTarget:
    """A model version's topic on a bus, and the results behind it (see `openloop.Target`); both are opened and closed here.

    Attributes:
        complaints: the distinct errors of requests, with their counts.
    """

    def __init__(self, transport: Transport, names: Names, model: str, version: str, pool: Pool) -> None:
        self.complaints: collections.Counter[str] = collections.Counter()
        self._transport = transport
        self._bus = transport.bus
        self._results = transport.results
        self._topic = names.infer_topic(model, version)
        self._generator = uuid.uuid4().hex[:12]
        self._channel = names.gateway_channel(f"loadtest-{self._generator}")
        self._pool = pool
        self._requests = [
            InferRequest(
                "",
                model,
                version,
                tuple(from_array(name, array) for name, array in arrays.items()),
                reply_to=self._channel,
            )
            for arrays in pool.inputs
        ]
        self._due: list[Ticket] = []
        self._open: dict[str, Ticket] = {}
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered: Answered | None = None

    async def open(self, answered: Answered, width: int) -> None:
        """See `Target.open`; the topic must exist: a worker that serves the model creates it."""
        self._answered = answered
        await self._transport.open()
        await self._results.listen(self._channel, self._wake)
        self._spawn(self._sweep())

    def send(self, ticket: Ticket) -> None:
        """See `Target.send`."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        ticket.sent = time.perf_counter()
        self._due.append(ticket)

    async def close(self) -> None:
        """See `Target.close`."""
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._transport.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _flush(self) -> None:
        if self._flying >= IN_FLIGHT or not self._due:
            return
        tickets, self._due = self._due, []
        wall = time.time()
        records = []
        for ticket in tickets:
            request = self._requests[ticket.index % len(self._requests)]
            # The object is reused for every request with this payload; each is encoded before the next.
            request.id = f"{self._generator}x{ticket.index}"
            request.accepted = request.published = wall
            self._open[request.id] = ticket
            value, headers = codec.encode_request(request)
            records.append(OutRecord(value, headers))
        self._flying += 1
        self._spawn(self._publish(records, tickets))

    async def _publish(self, records: Sequence[OutRecord], tickets: Sequence[Ticket]) -> None:
        try:
            await self._bus.publish(self._topic, records)
        except FleetError as exc:
            failed = {id(ticket) for ticket in tickets}
            for ref in [ref for ref, ticket in self._open.items() if id(ticket) in failed]:
                self._end(ref, Outcome.FAILED, f"publish: {exc.message}")
        finally:
            self._flying -= 1
            self._flush()

    def _wake(self, wakes: list[Wake]) -> None:
        pointers = []
        for wake in wakes:
            if wake.payload is None:
                pointers.append(wake.ref)
            else:
                self._read(wake.ref, codec.payload_bytes(wake.payload))
        if pointers:
            self._spawn(self._look(pointers))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            before = time.perf_counter() - SWEEP_EVERY
            refs = [ref for ref, ticket in self._open.items() if ticket.sent < before]
            await self._look(refs[:_LOOK_AT_MOST])

    async def _look(self, refs: Sequence[str]) -> None:
        if not refs:
            return
        try:
            states = await self._results.look(refs)
        except FleetError as exc:
            self.complaints[f"look: {exc.message}"] += 1
            return
        for ref, state in zip(refs, states, strict=True):
            if state is not None and state.payload:
                self._read(ref, state.payload)

    def _read(self, ref: str, payload: bytes) -> None:
        ticket = self._open.get(ref)
        if ticket is None:
            return
        try:
            reply = codec.decode_reply(payload)
        except CodecError as exc:
            self._end(ref, Outcome.WRONG, exc.message)
            return
        if reply.failure is not None:
            outcome = Outcome.REJECTED if reply.failure.error().retryable else Outcome.FAILED
            self._end(ref, outcome, f"{reply.failure.code} {reply.failure.message}")
        elif self._is_right(ticket.index % len(self._pool), reply):
            self._end(ref, Outcome.OK, "")
        else:
            self._end(ref, Outcome.WRONG, "the answer is not the model's")

    def _is_right(self, index: int, reply: InferReply) -> bool:
        if not self._pool.expected:
            return bool(reply.outputs)
        outputs = {tensor.name: tensor.array().ravel().tolist() for tensor in reply.outputs}
        return is_close(outputs, self._pool.expected[index], self._pool.tolerance)

    def _end(self, ref: str, outcome: Outcome, complaint: str) -> None:
        ticket = self._open.pop(ref, None)
        if ticket is None or self._answered is None:
            return
        if complaint:
            self.complaints[f"{outcome.value} {complaint[:200]}"] += 1
        self._answered(ticket, outcome)
