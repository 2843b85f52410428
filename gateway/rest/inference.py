"""The infer route: an exchange becomes a call, and the call's answer the response.

Invariants: every response carries `Penstock-Request-Id`; an exchange is answered once, whatever goes wrong; a client that goes away
cancels its call unless that has an `Idempotency-Key` or is asynchronous.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import unquote

import httptools
import structlog

from gateway.catalog import Served
from gateway.claims import Claims
from gateway.ids import fingerprint, keyed_id
from gateway.rest import bodies, compression
from gateway.rest.access import Access
from gateway.rest.connection import SMALL_BODY
from gateway.rest.exchange import Exchange
from gateway.rest.json_process import JsonProcess
from gateway.rest.responses import THREAD_FROM, Responses
from gateway.rest.turn import Turn
from gateway.service import Service, Terms
from protocol.errors import FleetError, InvalidArgument, TooLarge, quoted
from protocol.messages import InferReply
from protocol.tensors import Buffer, ManyElements
from protocol.v2 import InferBody

_ROUTE: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/([0-9]{1,19}))?/infer\Z")
_MAX_ROUTES: Final = 4096
_SPECIAL: Final = frozenset({b"content-encoding", b"idempotency-key", b"prefer"})
"""Headers that take a request off the direct way."""
_RESERVE_STEP: Final = 1024 * 1024

_log = structlog.get_logger("gateway.rest")


class InferDoor:
    """Takes infer requests from connections. The methods are `connection.Door`'s."""

    def __init__(self, service: Service, claims: Claims, access: Access) -> None:
        self._service = service
        self._claims = claims
        self._access = access
        self._settings = service.settings
        self._clock = service.clock
        self._json = JsonProcess()
        self._responses = Responses(service, self._json)
        self._complete = Turn(self._handle, service.publisher.flush)
        self._routes: dict[bytes, tuple[str, str] | None] = {}
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Wait for what is still being worked on."""
        await self._responses.close()
        await self._json.close()

    def route(self, url: bytes) -> tuple[str, str] | None:
        """(model, version) of an infer URL, None for any other."""
        try:
            return self._routes[url]
        except KeyError:
            route = _parse_route(url)
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[url] = route
            return route

    def begin(self, exchange: Exchange) -> None:
        """Refuse what the headers alone rule out, before a body is read."""
        fields = exchange.fields
        try:
            if not self._access.open:
                exchange.principal = self._access.principal(fields)
            self._service.check_open()
            declared = fields.get(b"content-length")
            if declared is not None and len(declared) > 4:
                length = int(declared)
                self._check_size(length)
                if length > SMALL_BODY:
                    self._reserve(exchange, length)
        except FleetError as error:
            self._responses.refuse(exchange, error)

    def grow(self, exchange: Exchange) -> None:
        """Count a large body while it is read."""
        size = len(exchange.body)
        try:
            self._check_size(size)
            if size > exchange.reserved:
                self._reserve(exchange, size + _RESERVE_STEP)
        except FleetError as error:
            self._responses.refuse(exchange, error)

    def handle(self, exchange: Exchange) -> None:
        """All of the request is there; it is handled when all sockets of this turn were read."""
        exchange.accepted = self._clock()
        self._complete.add(exchange)

    def _handle(self, exchange: Exchange) -> None:
        if exchange.disconnected or exchange.answered:
            return
        fields = exchange.fields
        try:
            if not _SPECIAL.isdisjoint(fields):
                self._responses.spawn(exchange, self._handle_specially(exchange))
                return
            length = bodies.header_length(fields.get(b"inference-header-content-length"))
            body = exchange.body
            if (len(body) if length is None else length) > self._settings.json_offload_bytes:
                self._responses.spawn(exchange, self._handle_large(exchange, length))
                return
            served = self._service.resolve(exchange.model, exchange.version)
            self._submit(exchange, served, bodies.parse(body, length, served.config))
        except ManyElements:
            self._responses.spawn(exchange, self._handle_large(exchange, length))
        except FleetError as error:
            self._responses.refuse(exchange, error)
        except Exception:
            self._responses.broken(exchange)

    def lost(self, exchange: Exchange) -> None:
        """The client has gone: nobody needs an unkeyed call's answer any more."""
        self._responses.release(exchange)
        call, exchange.call = exchange.call, None
        if call is not None:
            self._service.answers.cancel(call)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _submit(self, exchange: Exchange, served: Served, body: InferBody) -> None:
        """Publish a plain call."""
        service = self._service
        exchange.id = service.new_id()
        exchange.binary = bodies.wanted(body)
        request = service.request(served, body, self._terms(exchange))

        def done(reply: InferReply) -> None:
            exchange.call = None
            self._responses.answer(exchange, reply)

        exchange.call = service.submit(served, request, done)
        self._responses.release(exchange)

    def _terms(self, exchange: Exchange, *, claimed: bool = False, default: float | None = None) -> Terms:
        fields = exchange.fields
        accepted = exchange.accepted
        seconds = self._settings.default_timeout if default is None else default
        asked = fields.get(b"penstock-timeout-ms")
        if asked is not None:
            seconds = self._timeout(asked)
        given = fields.get(b"traceparent")
        return Terms(
            exchange.id, exchange.principal, accepted, accepted + seconds if seconds else None,
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

    async def _handle_large(self, exchange: Exchange, length: int | None) -> None:
        body = await self._json.parse(exchange.body, length, exchange.model)
        if not exchange.disconnected:
            self._submit(exchange, self._service.resolve(exchange.model, exchange.version), body)

    async def _handle_specially(self, exchange: Exchange) -> None:
        """A request that is compressed, keyed or asynchronous."""
        fields = exchange.fields
        served = self._service.resolve(exchange.model, exchange.version)
        raw = await self._decompressed(exchange)
        field = fields.get(b"inference-header-content-length")
        length = bodies.header_length(field)
        body = await self._parse(raw, length, served)
        key = fields.get(b"idempotency-key")
        asynchronous = _prefers(fields.get(b"prefer", b""), b"respond-async")
        if key is None and not asynchronous:
            if not exchange.disconnected:
                self._submit(exchange, served, body)
            return
        exchange.binary = bodies.wanted(body)
        if key is None:
            exchange.id = self._service.new_id()
        else:
            exchange.id = keyed_id(exchange.principal, exchange.model, exchange.version, key.decode("latin-1"))
        terms = self._terms(exchange, claimed=True, default=0.0 if asynchronous else None)
        request = self._service.request(served, body, terms)
        mark = fingerprint(raw, (field or b"").decode("latin-1"))
        self._responses.release(exchange)
        if asynchronous:
            accepted = await self._claims.accept(served, request, mark, exchange.binary)
            if accepted.reply is None:
                self._responses.accepted(exchange, accepted.token)
            else:
                self._responses.answer(exchange, accepted.reply)
        else:
            self._responses.answer(exchange, await self._claims.infer(served, request, mark))

    async def _decompressed(self, exchange: Exchange) -> Buffer | bytearray:
        encoding = exchange.fields.get(b"content-encoding")
        if encoding is None:
            return exchange.body
        arguments = (exchange.body, encoding.decode("latin-1"), self._settings.max_body_bytes)
        if len(exchange.body) < THREAD_FROM:
            return compression.decompress(*arguments)
        return await self._loop.run_in_executor(None, compression.decompress, *arguments)

    async def _parse(self, raw: Buffer | bytearray, length: int | None, served: Served) -> InferBody:
        if (len(raw) if length is None else length) <= self._settings.json_offload_bytes:
            try:
                return bodies.parse(raw, length, served.config)
            except ManyElements:
                pass
        return await self._json.parse(raw, length, served.model)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        limit = self._settings.max_body_bytes
        if size > limit:
            raise TooLarge(f"the request body has {size} bytes or more; at most {limit} are allowed (max_body_bytes)")

    def _reserve(self, exchange: Exchange, size: int) -> None:
        """Have `size` bytes in all counted for the exchange's body.

        Raises:
            Exhausted: too much is being read already.
        """
        self._service.admission.reserve(size - exchange.reserved)
        exchange.reserved = size


def _parse_route(url: bytes) -> tuple[str, str] | None:
    try:
        path = httptools.parse_url(url).path
        match = _ROUTE.match(path or b"")
        if match is None:
            return None
        return unquote(match[1].decode("ascii"), errors="strict"), (match[2] or b"").decode()
    except (httptools.HttpParserError, UnicodeDecodeError):
        return None


def _prefers(value: bytes, preference: bytes) -> bool:
    return any(part.strip().lower() == preference for part in value.replace(b";", b",").split(b","))
