"""The infer and generate routes: turn an exchange into a call, and the call's answer into the response.

Invariants: every response carries `Penstock-Request-Id`; an exchange is answered once, whatever fails; a client that disconnects
cancels its call unless the call is keyed or asynchronous.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from gateway.calls.lanes import parse_lane
from gateway.calls.service import CallContext, Service
from gateway.catalogue.catalogue import RequestQueue, Served
from gateway.durable.claims import Claims
from gateway.forwarding import ForwardedHeaders
from gateway.ids import fingerprint, keyed_id
from gateway.rest import bodies
from gateway.rest.access import Access
from gateway.rest.exchange import Exchange
from gateway.rest.extras import extras_of
from gateway.rest.inflating import Inflater
from gateway.rest.json_pool import JsonPool
from gateway.rest.reading import UNCOUNTED
from gateway.rest.responses import Responses
from gateway.rest.routing import INFER, RouteCache
from gateway.rest.turn import Turn
from protocol import v2
from protocol.errors import DeadlineExceeded, FleetError, InvalidArgument, NotFound, TooLarge, Unavailable, quoted
from protocol.messages import InferReply, InferRequest, Lane
from protocol.tensors import Buffer, ManyElements
from protocol.v2 import InferBody

_CATEGORY: Final = "inference"
_LANE: Final = b"penstock-lane"
_SPECIAL: Final = frozenset({b"content-encoding", b"idempotency-key", b"prefer", _LANE})
"""Headers whose requests are handled in a task."""
_SMALL_BODY: Final = 64 * 1024
_RESERVE_STEP: Final = 1024 * 1024
"""Bytes counted in advance for a body without a length."""

Result = TypeVar("Result")


class InferFrontend:
    """Takes infer requests from connections. Implements `exchange.Frontend`."""

    def __init__(self, service: Service, claims: Claims, access: Access) -> None:
        self._service = service
        self._claims = claims
        self._access = access
        self._settings = service.settings
        self._clock = service.clock
        self.json = JsonPool(service.budgets.whole, service.settings.json_processes, service.clock)
        self._inflater = Inflater()
        self._responses = Responses(service, self.json)
        self._routes = RouteCache(service.budgets.whole, service.catalogue.known)
        self.route = self._routes.find
        self._loop = asyncio.get_running_loop()
        self._microtasks = service.transport.microtasks
        self._forwarded = ForwardedHeaders(service.settings.http_header_forward_pattern)
        self._complete = Turn(self._handle, self._later_in_this_turn)

    async def close(self) -> None:
        """Finish work in flight, and end the JSON processes."""
        await self._responses.close()
        await self.json.close()

    def begin(self, exchange: Exchange) -> None:
        """Refuse by the headers alone, before the body is read."""
        fields = exchange.fields
        try:
            if not self._access.open:
                exchange.principal = self._access.principal(fields)
            if not self._access.restrictions.open:
                self._access.restrictions.check(_CATEGORY, fields)
            if _LANE not in fields:
                self._service.check_open()
            else:
                self._service.check_open(_lane(fields) or Lane.INTERACTIVE)
            declared = fields.get(b"content-length")
            if declared is not None and len(declared) > 4:
                length = int(declared)
                self._check_size(length)
                if length > _SMALL_BODY:
                    self._responses.reserve(exchange, length)
                    if not exchange.complete:
                        exchange.expect(length)
        except FleetError as error:
            self._responses.refuse(exchange, error)

    def grow(self, exchange: Exchange) -> None:
        """Count a body that is kept beyond one read."""
        size = len(exchange.body)
        try:
            self._check_size(size)
            if size > exchange.reserved:
                step = _RESERVE_STEP if size > _SMALL_BODY else _SMALL_BODY
                self._responses.reserve(exchange, min(size + step, max(size, self._settings.max_body_bytes)))
        except FleetError as error:
            self._responses.refuse(exchange, error)

    def handle(self, exchange: Exchange) -> None:
        """Queue a complete request; it is handled after all sockets of this turn have been read."""
        exchange.accepted = self._clock()
        size = len(exchange.body)
        if size > UNCOUNTED and size > exchange.reserved:
            self.grow(exchange)
        self._complete.add(exchange)

    def _later_in_this_turn(self, work: Callable[[], None]) -> None:
        """After all sockets of this turn of the loop were read."""
        self._loop.call_soon(self._microtasks.call, work)

    def _handle(self, exchange: Exchange) -> None:
        if exchange.disconnected or exchange.answered:
            return
        fields = exchange.fields
        try:
            if not _SPECIAL.isdisjoint(fields):
                self._responses.spawn(exchange, self._handle_specially(exchange))
                return
            length = bodies.header_length(fields.get(b"inference-header-content-length"))
            if exchange.verb != INFER:
                length = None
            body = exchange.body
            if (len(body) if length is None else length) > self._settings.json_offload_bytes:
                self._responses.spawn(exchange, self._handle_large(exchange, length))
                return
            served = self._service.resolve(exchange.model, exchange.version)
            self._submit(exchange, served, _parsed(exchange, length, served))
        except ManyElements:
            self._responses.spawn(exchange, self._handle_large(exchange, length))
        except (NotFound, Unavailable) as error:
            if self._service.catalogue.awaits(exchange.model, exchange.version):
                self._responses.spawn(exchange, self._handle_early(exchange))
            else:
                self._responses.refuse(exchange, error)
        except FleetError as error:
            self._responses.refuse(exchange, error)
        except Exception:
            self._responses.broken(exchange)

    def lost(self, exchange: Exchange) -> None:
        """The client has gone: cancel its work and its plain call."""
        self._responses.release(exchange)
        if exchange.work is not None:
            exchange.work.cancel()
        call, exchange.call = exchange.call, None
        if call is not None:
            self._service.completion.cancel(call)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _forward(self, exchange: Exchange, body: InferBody) -> None:
        """Make parameters of headers; a parameter of the body wins over a header of its name."""
        fields = exchange.fields.items()
        found = self._forwarded.parameters(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        )
        body.parameters = {**found, **body.parameters}

    def _submit(self, exchange: Exchange, served: Served, body: InferBody) -> None:
        """Publish a plain call."""
        if self._forwarded.open:
            self._forward(exchange, body)
        if body.shared:
            self._responses.spawn(exchange, self._submit_shared(exchange, served, body))
            return
        service = self._service
        queue: RequestQueue = served
        if body.parameters or _LANE in exchange.fields:
            queue = service.queue(served, body.parameters, _lane(exchange.fields))
        exchange.id = service.new_id()
        exchange.binary = bodies.wanted(body)
        if body.outputs:
            exchange.extras = extras_of(body, served, service.regions)
        request = service.request(queue, body, self._context(exchange))

        def done(reply: InferReply) -> None:
            exchange.call = None
            self._responses.answer(exchange, reply)

        exchange.call = service.submit(queue, request, done)
        self._responses.release(exchange)

    async def _submit_shared(self, exchange: Exchange, served: Served, body: InferBody) -> None:
        await self._read_shared(exchange, served, body)
        self._submit(exchange, served, body)

    async def _read_shared(self, exchange: Exchange, served: Served, body: InferBody) -> None:
        """Copy the inputs that lie in shared memory; their bytes are counted first, as those of a body are."""
        regions = self._service.regions
        for part in body.shared:
            regions.check(part.region, part.offset, part.byte_size)
        size = body.held + sum([part.byte_size for part in body.shared])
        self._check_size(size)
        self._responses.reserve(exchange, max(exchange.reserved, len(exchange.body) + size))
        await self._beside(exchange, asyncio.to_thread(v2.read_shared, body, regions, served.model))

    def _context(self, exchange: Exchange, *, claimed: bool = False, default: float | None = None) -> CallContext:
        fields = exchange.fields
        accepted = exchange.accepted
        seconds = self._settings.default_timeout if default is None else default
        asked = fields.get(b"penstock-timeout-ms")
        if asked is not None:
            seconds = self._timeout(asked)
        deadline = None
        if seconds:
            exchange.until = deadline = accepted + seconds
        given = fields.get(b"traceparent")
        return CallContext(
            exchange.id, exchange.principal, accepted, deadline,
            "" if given is None else given.decode("latin-1"), claimed,
        )  # fmt: skip

    def _timeout(self, asked: bytes) -> float:
        if not asked.isdigit() or len(asked) > 12 or not int(asked):
            raise InvalidArgument(f"Penstock-Timeout-Ms must be a positive number of milliseconds, not {quoted(asked)}")
        seconds = int(asked) / 1e3
        if seconds > self._settings.max_timeout:
            raise InvalidArgument(
                f"Penstock-Timeout-Ms is {int(asked)}; at most {self._settings.max_timeout * 1e3:.0f} are allowed"
            )
        return seconds

    async def _handle_early(self, exchange: Exchange) -> None:
        """Handle a request whose model may still appear."""
        await self._resolve(exchange)
        if not exchange.disconnected:
            self._handle(exchange)

    async def _resolve(self, exchange: Exchange) -> Served:
        """Resolve the model; wait for it if it may still appear."""
        service, model, version = self._service, exchange.model, exchange.version
        until = self._until(exchange)
        if service.arrivals.until(model, version, until) is not None:
            await self._beside(exchange, service.arrivals.wait(model, version, until))
        key = exchange.fields.get(b"idempotency-key")
        return service.resolve(model, version, "" if key is None else f"{exchange.principal}\n{key.decode('latin-1')}")

    async def _handle_large(self, exchange: Exchange, length: int | None) -> None:
        if exchange.verb == INFER:
            body = await self._beside(
                exchange, self.json.parse(exchange.body, length, self._until(exchange), exchange.model)
            )
            served = await self._resolve(exchange)
        else:
            served = await self._resolve(exchange)
            body = await self._parse_aside(exchange, length, served)
        self._submit(exchange, served, body)

    async def _handle_specially(self, exchange: Exchange) -> None:
        """Handle a request that is compressed, keyed, asynchronous or names its lane."""
        fields = exchange.fields
        served = await self._resolve(exchange)
        if b"content-encoding" in fields:
            if exchange.verb != INFER:
                _check_identity(fields[b"content-encoding"])
            exchange.body = await self._beside(exchange, self._inflate(exchange))
        raw = exchange.body
        field = fields.get(b"inference-header-content-length")
        length = bodies.header_length(field) if exchange.verb == INFER else None
        body = await self._parse(exchange, length, served)
        asynchronous = _prefers(fields.get(b"prefer", b""), b"respond-async")
        if b"idempotency-key" not in fields and not asynchronous:
            self._submit(exchange, served, body)
            return
        if self._forwarded.open:
            self._forward(exchange, body)
        exchange.binary = bodies.wanted(body)
        exchange.extras = extras_of(body, served, self._service.regions)
        if asynchronous and exchange.extras is not None and exchange.extras.shared:
            raise InvalidArgument("an asynchronous call cannot have its outputs written to shared memory")
        others: list[Buffer] = []
        if body.shared:
            await self._read_shared(exchange, served, body)
            others = [tensor.data for tensor in body.inputs]
        mark = fingerprint(raw, (field or b"").decode("latin-1"), *others)
        queue, request = self._claimed_request(exchange, served, body, asynchronous=asynchronous)
        self._responses.release(exchange)
        del raw, body, others  # free them while the call waits
        await self._claim(exchange, queue, request, mark, asynchronous=asynchronous)

    def _claimed_request(
        self, exchange: Exchange, served: Served, body: InferBody, *, asynchronous: bool
    ) -> tuple[RequestQueue, InferRequest]:
        """The request of a keyed or asynchronous call, and the queue that it joins."""
        key = exchange.fields.get(b"idempotency-key")
        if key is None:
            exchange.id = self._service.new_id()
        else:
            exchange.id = keyed_id(exchange.principal, exchange.model, exchange.version, key.decode("latin-1"))
        context = self._context(exchange, claimed=True, default=0.0 if asynchronous else None)
        queue = self._service.queue(served, body.parameters, _lane(exchange.fields))
        return queue, self._service.request(queue, body, context)

    async def _claim(
        self, exchange: Exchange, queue: RequestQueue, request: InferRequest, mark: str, *, asynchronous: bool
    ) -> None:
        """Claim the request and answer it; an asynchronous one with its handle, unless it has its answer already."""
        if not asynchronous:
            self._responses.answer(exchange, await self._claims.infer(queue, request, mark))
            return
        classes = tuple(exchange.extras.classes.items()) if exchange.extras is not None else ()
        accepted = await self._claims.accept(queue, request, mark, exchange.binary, classes)
        if accepted.reply is None:
            self._responses.accepted(exchange, accepted.token)
        else:
            self._responses.answer(exchange, accepted.reply)

    async def _beside(self, exchange: Exchange, work: Coroutine[Any, Any, Result]) -> Result:
        """Run work on a body as a task that ends when the client goes, so that it does not hold the body."""
        task = self._loop.create_task(work)
        exchange.work = task
        try:
            return await task
        finally:
            exchange.work = None
            del task  # breaks the cycle of error, traceback, frame and task, which would hold the body

    async def _inflate(self, exchange: Exchange) -> bytearray:
        encoding = exchange.fields[b"content-encoding"].decode("latin-1")
        until = self._until(exchange)
        try:
            async with asyncio.timeout(max(until - self._clock(), 0.0)):
                return await self._inflater.inflate(
                    exchange.body, encoding, self._settings.max_body_bytes,
                    functools.partial(self._responses.reserve, exchange),
                )  # fmt: skip
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the request's body was being decompressed") from None

    def _until(self, exchange: Exchange) -> float:
        """When a request must have been read and parsed: its deadline, or the default one."""
        asked = exchange.fields.get(b"penstock-timeout-ms")
        return exchange.accepted + (self._settings.default_timeout if asked is None else self._timeout(asked))

    async def _parse(self, exchange: Exchange, length: int | None, served: Served) -> InferBody:
        raw = exchange.body
        if (len(raw) if length is None else length) <= self._settings.json_offload_bytes:
            with contextlib.suppress(ManyElements):
                return _parsed(exchange, length, served)
        return await self._parse_aside(exchange, length, served)

    async def _parse_aside(self, exchange: Exchange, length: int | None, served: Served) -> InferBody:
        """Parse a large body in a JSON process."""
        inputs = None if exchange.verb == INFER else bodies.generate_inputs(served.config)
        parsing = self.json.parse(exchange.body, length, self._until(exchange), served.model, inputs)
        return await self._beside(exchange, parsing)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        limit = self._settings.max_body_bytes
        if size > limit:
            raise TooLarge(
                f"the request body has {size} bytes or more; at most {limit} are allowed: send fewer rows in each"
            )


def _parsed(exchange: Exchange, length: int | None, served: Served) -> InferBody:
    """The body of a call, parsed here."""
    if exchange.verb == INFER:
        return bodies.parse_body(exchange.body, length, served.config)
    return bodies.parse_generate(exchange.body, served.config)


def _check_identity(encoding: bytes) -> None:
    if encoding.strip().lower() not in (b"", b"identity"):
        raise InvalidArgument("Unsupported content-encoding, only 'identity' is supported.")


def _lane(fields: Mapping[bytes, bytes]) -> Lane | None:
    """The lane that the header names; None without the header."""
    given = fields.get(_LANE)
    return None if given is None else parse_lane(given.decode("latin-1"), "Penstock-Lane")


def _prefers(value: bytes, preference: bytes) -> bool:
    return any(part.strip().lower() == preference for part in value.replace(b";", b",").split(b","))
