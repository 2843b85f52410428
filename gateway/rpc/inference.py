"""Runs ModelInfer calls, and those of streams: from a message to the answer to it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from typing import Any, Final, NamedTuple

from gateway.calls.service import CallContext, Service
from gateway.catalogue.catalogue import RequestQueue, Served
from gateway.durable.claims import Claims, resolver
from gateway.ids import fingerprint, keyed_id
from gateway.rest.bodies import timing
from gateway.rpc import replies
from gateway.rpc.caller import Caller
from gateway.rpc.requests import EXPANSION, Asked, LargeHead, Reader, version_of
from gateway.rpc.status import Trailers
from protocol.errors import FleetError, NotFound, TooLarge, Unavailable
from protocol.messages import InferReply, Lane
from protocol.tensors import Buffer, ManyElements, Tensor
from protocol.v2 import RequestedOutput

_TIMED: Final = "penstock-timing"
_NAMED: Final = "penstock-request-id"


class Answer(NamedTuple):
    """The answer to a call.

    Attributes:
        id: the call's fleet id.
        reply: the outputs or the failure.
        outputs: the outputs as the caller gets them.
    """

    id: str
    reply: InferReply
    outputs: tuple[Tensor, ...]

    @property
    def trailers(self) -> Trailers:
        """Trailing metadata: the call's id and its times."""
        return (_NAMED, self.id), (_TIMED, timing(self.reply.timing, self.reply.woken).decode())


class Inference:
    """Takes the calls of all streams and unary calls of a server."""

    def __init__(self, service: Service, claims: Claims) -> None:
        self._service = service
        self._claims = claims
        self._settings = service.settings
        self._reader = Reader()
        self._loop = asyncio.get_running_loop()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "rpc-parser")
        """One thread: what large messages expand to is held once at a time."""
        self._keyed: set[asyncio.Future[InferReply]] = set()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def check_open(self, caller: Caller) -> None:
        """Refuse a call before its message is read. Raises as `Service.check_open`."""
        self._service.check_open(caller.lane or Lane.INTERACTIVE)

    async def infer(self, caller: Caller, message: bytes, seconds: float | None) -> Answer:
        """Run one request and wait for its answer. Cancelling this cancels the request, unless it is keyed.

        Args:
            seconds: until the caller's deadline; None for the default.

        Raises:
            FleetError: it was refused.
        """
        service = self._service
        accepted = service.clock()
        settings = self._settings
        until = accepted + (settings.default_timeout if seconds is None else min(seconds, settings.max_timeout))
        try:
            asked = self._reader.read(message, self._memory)
        except (LargeHead, ManyElements):
            asked = await self._read_in_thread(message)
        served = await self._resolve(asked, until)
        body = asked.body
        queue: RequestQueue = served
        if body.parameters or caller.lane is not None:
            queue = service.queue(served, body.parameters, caller.lane)
        if caller.key is not None:
            return await self._infer_keyed(caller, asked, queue, message, accepted, until)
        context = CallContext(service.new_id(), caller.principal, accepted, until, caller.traceparent)
        request = service.request(queue, body, context)
        future: asyncio.Future[InferReply] = self._loop.create_future()
        call = service.submit(queue, request, resolver(future))
        outputs = body.outputs
        del message, asked, body, request  # frees what the call does not hold while it waits
        try:
            reply = await future
        except asyncio.CancelledError:
            service.completion.cancel(call)
            raise
        return self._answer(context.id, reply, outputs, served)

    async def _infer_keyed(
        self, caller: Caller, asked: Asked, queue: RequestQueue, message: bytes, accepted: float, until: float
    ) -> Answer:
        """Run a call with an idempotency key; it goes on when its caller has gone."""
        assert caller.key is not None
        service = self._service
        fleet_id = keyed_id(caller.principal, asked.model, asked.version, caller.key)
        context = CallContext(fleet_id, caller.principal, accepted, until, caller.traceparent, claimed=True)
        request = service.request(queue, asked.body, context)
        running = asyncio.ensure_future(self._claims.infer(queue, request, fingerprint(message, "grpc")))
        self._keyed.add(running)
        running.add_done_callback(self._keyed_done)
        reply = await asyncio.shield(running)
        return self._answer(fleet_id, reply, asked.body.outputs, service.resolve(queue.model, queue.version))

    def _keyed_done(self, running: asyncio.Future[InferReply]) -> None:
        self._keyed.discard(running)
        if not running.cancelled():
            running.exception()  # its caller may have gone, and then nobody else asks

    @property
    def _memory(self) -> Any:
        return getattr(self._service, "regions", None)

    async def _read_in_thread(self, message: bytes) -> Asked:
        """Parse a message that takes long.

        Raises:
            Exhausted: too many bytes are held.
        """
        admission, size = self._service.admission, EXPANSION * len(message)
        size = min(size, self._settings.max_queued_bytes // 2)
        admission.reserve(size)
        try:
            read = functools.partial(self._reader.read, message, self._memory, in_thread=True)
            return await self._loop.run_in_executor(self._thread, read)
        finally:
            admission.release(size)

    async def _resolve(self, asked: Asked, until: float) -> Served:
        """The model version of a request; waits for it if it may still appear."""
        service, version = self._service, version_of(asked.version)
        asked.version = version
        try:
            return service.resolve(asked.model, version)
        except (NotFound, Unavailable):
            if not service.catalogue.awaits(asked.model, version):
                raise
        await service.arrivals.wait(asked.model, version, until)
        return service.resolve(asked.model, version)

    def _answer(self, fleet_id: str, reply: InferReply, asked: tuple[RequestedOutput, ...], served: Served) -> Answer:
        """The answer as its caller asked for it: classes instead of tensors, and outputs in shared memory."""
        outputs = reply.outputs
        if asked and reply.failure is None:
            outputs = self._shared(self._classified(outputs, asked, served), asked)
        return Answer(fleet_id, reply, outputs)

    def _classified(
        self, outputs: tuple[Tensor, ...], asked: tuple[RequestedOutput, ...], served: Served
    ) -> tuple[Tensor, ...]:
        if not any(output.classes for output in asked):
            return outputs
        raise FleetError("classification is not offered yet")

    def _shared(self, outputs: tuple[Tensor, ...], asked: tuple[RequestedOutput, ...]) -> tuple[Tensor, ...]:
        places = {output.name: output for output in asked if output.region}
        if not places:
            return outputs
        kept = []
        for tensor in outputs:
            place = places.get(tensor.name)
            if place is not None:
                self._memory.write(place.region, place.offset, place.byte_size, [tensor.data])
                tensor = Tensor(tensor.name, tensor.datatype, tensor.shape, b"")  # noqa: PLW2901
            kept.append(tensor)
        return tuple(kept)


def unary_response(answer: Answer) -> bytes:
    """The message of an answer with outputs."""
    pieces: list[Buffer] = replies.encode(answer.reply, answer.outputs)
    return b"".join(pieces)


def check_size(size: int, limit: int) -> None:
    """Refuse a message that is too large.

    Raises:
        TooLarge: naming the limit.
    """
    if size > limit:
        raise TooLarge(f"the message has {size} bytes; at most {limit} are allowed (max_body_bytes)")
