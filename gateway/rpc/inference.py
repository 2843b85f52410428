"""Runs the requests of ModelInfer calls and of streams: from a message to the answer to it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.calls.service import CallContext, Service
from gateway.catalogue.catalogue import RequestQueue, Served
from gateway.durable.claims import Claims, resolver
from gateway.ids import fingerprint, keyed_id
from gateway.rest.extras import Extras, extras_of
from gateway.rpc.caller import Caller
from gateway.rpc.requests import EXPANSION, Asked, LargeHead, Reader, version_of
from gateway.rpc.status import Trailers
from gateway.timing import timing_value
from protocol import v2
from protocol.errors import NotFound, TooLarge, Unavailable
from protocol.messages import InferReply, Lane
from protocol.tensors import ManyElements
from protocol.v2 import InferBody

_TIMED: Final = "penstock-timing"
_NAMED: Final = "penstock-request-id"


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        id: the call's fleet id.
        reply: the outputs, as the caller gets them, or the failure.
    """

    id: str
    reply: InferReply

    @property
    def trailers(self) -> Trailers:
        """Trailing metadata: the call's id, and its times if any is known."""
        timing = timing_value(self.reply.timing, self.reply.woken)
        return ((_NAMED, self.id), (_TIMED, timing.decode())) if timing else ((_NAMED, self.id),)


def nothing() -> None:
    """Do nothing."""


class Inference:
    """Takes the requests of all streams and unary calls of a server."""

    def __init__(self, service: Service, claims: Claims) -> None:
        self._service = service
        self._claims = claims
        self._settings = service.settings
        self._reader = Reader()
        self._loop = asyncio.get_running_loop()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "rpc")
        """One thread: what large messages expand to is held once at a time."""
        self._keyed: set[asyncio.Future[InferReply]] = set()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def check_open(self, caller: Caller) -> None:
        """Refuse a call before its message is read. Raises as `Service.check_open`."""
        self._service.check_open(caller.lane or Lane.INTERACTIVE)

    async def infer(
        self,
        caller: Caller,
        message: bytes | memoryview,
        seconds: float | None,
        submitted: Callable[[], None] = nothing,
    ) -> Answer:
        """Run one request and wait for its answer. Cancelling this cancels the request, unless it is keyed.

        Args:
            seconds: until the caller's deadline; None for the default.
            submitted: called once the call counts its bytes itself.

        Raises:
            FleetError: it was refused.
        """
        service, settings = self._service, self._settings
        accepted = service.clock()
        until = accepted + (settings.default_timeout if seconds is None else min(seconds, settings.max_timeout))
        check_size(len(message), settings.max_body_bytes)
        try:
            asked = self._reader.read(message)
        except (LargeHead, ManyElements):
            asked = await self._read_in_thread(message)
        body = asked.body
        if caller.forwarded:
            body.parameters = {**caller.forwarded, **body.parameters}
        served = await self._resolve(caller, asked, until, len(message))
        queue: RequestQueue = served
        if body.parameters or caller.lane is not None:
            queue = service.queue(served, body.parameters, caller.lane)
        extras = extras_of(body, served, service.regions) if body.outputs else None
        if body.shared:
            await self._read_shared(body, len(message), served.model)
        if caller.key is not None:
            answer = await self._infer_keyed(caller, asked, queue, message, accepted, until)
        else:
            context = CallContext(service.new_id(), caller.principal, accepted, until, caller.traceparent)
            request = service.request(queue, body, context)
            future: asyncio.Future[InferReply] = self._loop.create_future()
            call = service.submit(queue, request, resolver(future))
            submitted()
            del message, asked, body, request  # frees what the call does not hold while it waits
            try:
                answer = Answer(context.id, await future)
            except asyncio.CancelledError:
                service.completion.cancel(call)
                raise
        return answer if extras is None else await self._apply(extras, answer)

    async def _infer_keyed(
        self,
        caller: Caller,
        asked: Asked,
        queue: RequestQueue,
        message: bytes | memoryview,
        accepted: float,
        until: float,
    ) -> Answer:
        """Run a call with an idempotency key; it goes on when its caller has gone."""
        assert caller.key is not None
        body, others = asked.body, []
        if any(not tensor.data for tensor in body.inputs) or body.held > len(message):
            others = [tensor.data for tensor in body.inputs]
        fleet_id = keyed_id(caller.principal, asked.model, asked.version, caller.key)
        context = CallContext(fleet_id, caller.principal, accepted, until, caller.traceparent, claimed=True)
        request = self._service.request(queue, body, context)
        running = asyncio.ensure_future(self._claims.infer(queue, request, fingerprint(message, "grpc", *others)))
        self._keyed.add(running)
        running.add_done_callback(self._keyed_done)
        del message, asked, body, others, request
        return Answer(fleet_id, await asyncio.shield(running))

    def _keyed_done(self, running: asyncio.Future[InferReply]) -> None:
        self._keyed.discard(running)
        if not running.cancelled():
            running.exception()  # its caller may have gone, and then nobody else asks

    async def _read_in_thread(self, message: bytes | memoryview) -> Asked:
        """Parse a message that takes long.

        Raises:
            Exhausted: too many bytes are held.
        """
        admission = self._service.admission
        size = min(EXPANSION * len(message), self._settings.max_queued_bytes // 2)
        admission.reserve(size)
        try:
            read = functools.partial(self._reader.read, message, in_thread=True)
            return await self._loop.run_in_executor(self._thread, read)
        finally:
            admission.release(size)

    async def _read_shared(self, body: InferBody, held: int, model: str) -> None:
        """Copy the inputs that lie in shared memory; their bytes are counted first."""
        regions, admission = self._service.regions, self._service.admission
        for part in body.shared:
            regions.check(part.region, part.offset, part.byte_size)
        size = sum([part.byte_size for part in body.shared])
        check_size(held + size, self._settings.max_body_bytes)
        admission.reserve(size)
        try:
            await asyncio.to_thread(v2.read_shared, body, regions, model)
        finally:
            admission.release(size)

    async def _resolve(self, caller: Caller, asked: Asked, until: float, size: int) -> Served:
        """The model version of a request; waits for it if it may still appear, with the bytes of its message counted."""
        service = self._service
        asked.version = version = version_of(asked.version)
        key = "" if caller.key is None else f"{caller.principal}\n{caller.key}"
        try:
            return service.resolve(asked.model, version, key)
        except (NotFound, Unavailable):
            if not service.catalogue.awaits(asked.model, version):
                raise
        service.admission.reserve(size)
        try:
            await service.arrivals.wait(asked.model, version, until)
        finally:
            service.admission.release(size)
        return service.resolve(asked.model, version, key)

    async def _apply(self, extras: Extras, answer: Answer) -> Answer:
        """The answer with classes instead of tensors, and without outputs that went to shared memory."""
        reply = answer.reply
        if reply.failure is not None:
            return answer
        if extras.takes_long(reply):
            return Answer(answer.id, await asyncio.to_thread(extras.apply, reply))
        return Answer(answer.id, extras.apply(reply))


def check_size(size: int, limit: int) -> None:
    """Refuse a message that is too large.

    Raises:
        TooLarge: naming the limit.
    """
    if size > limit:
        raise TooLarge(f"the message has {size} bytes; at most {limit} are allowed: send fewer rows in each")
