"""Status, answer and cancellation of a request by its id or handle, at any gateway.

Invariant: an accepted request is found as long as its result or its record is kept; if the result store has lost it, one gateway
publishes it again from the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

import structlog

from gateway.calls.recovery import GONE, read_request
from gateway.calls.service import Service
from gateway.durable.claims import Claims, resolver
from gateway.handle import Handle, is_handle
from protocol.codec import decode_reply
from protocol.errors import Cancelled, Code, FleetError, NotFound
from protocol.messages import Failure, InferReply, InferRequest, Lane
from protocol.naming import MAX_ID, ref
from protocol.ports import Cancel, ClaimState, Place, RequestState

_CANCELLED: Final = "the request was cancelled"

_log = structlog.get_logger("gateway.durable.requests")


@dataclasses.dataclass(frozen=True, slots=True)
class RequestStatus:
    """The status of a request.

    Attributes:
        id: its fleet id.
        state: "queued", "running", "done" or "cancelled".
        age: seconds since it was accepted.
        reply: its answer once it is done.
        binary: outputs that its caller wants as raw bytes; True for all.
        classes: outputs of which its caller wants the highest classes, and how many.
        batches: whether the first dimension of these counts rows.
    """

    id: str
    state: str
    model: str = ""
    version: str = ""
    age: float = 0.0
    reply: InferReply | None = None
    binary: frozenset[str] | bool = False
    classes: tuple[tuple[str, int], ...] = ()
    batches: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Named:
    """A request as named by a caller: its id and ref, and its handle if one was given."""

    id: str
    ref: str
    handle: Handle | None


class Requests:
    """Finds and cancels requests."""

    def __init__(self, service: Service, claims: Claims) -> None:
        self._service = service
        self._claims = claims
        self._results = service.transport.results
        self._keys = service.keys

    async def find(self, token: str, principal: str, wait: float = 0.0) -> RequestStatus:
        """The status of a request; waits up to `wait` seconds for it to be done.

        Raises:
            NotFound: this principal has no such request.
            FleetError: its answer is no longer kept (GONE), or the store cannot be reached.
        """
        named = self._parse(token, principal)
        state = await self._look(named)
        if wait > 0 and state.state != "done":
            await self._wait(named.ref, *self._model_of(named, state), wait)
            state = await self._look(named)
        return self._status(named, state)

    async def cancel(self, token: str, principal: str) -> RequestStatus:
        """Cancel a request: it does not run unless it has started, and its terminal is CANCELLED unless it has one.

        Raises:
            NotFound: this principal has no such request.
            Unavailable: the store cannot be reached.
        """
        named = self._parse(token, principal)
        service = self._service
        pending = service.completion.pending.first(named.ref)
        if pending is not None and not pending.claimed:
            service.completion.cancel_queued(pending)
            service.completion.fail(pending, Cancelled(_CANCELLED))
            return RequestStatus(named.id, "cancelled", pending.model, pending.version)
        state = await self._state(named)
        if state is None and named.handle is None:
            raise NotFound(f"there is no request {named.id}")
        model, version = self._model_of(named, state)
        reply = InferReply(model, version, failure=Failure(Code.CANCELLED, _CANCELLED))
        until = self._until(state)
        first = await service.completion.end(named.ref, reply)
        for topic in self._topics_of(
            named, model, version
        ):  # before this returns, so that the key may run again at once
            await self._results.cancel(service.names.cancel_channel(topic), [Cancel(named.ref, until)])
        if first is None:
            service.metrics.cancellations += 1
            return RequestStatus(named.id, "cancelled", model, version)
        return RequestStatus(named.id, _final(first), model, version)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _parse(self, token: str, principal: str) -> _Named:
        if not is_handle(token):
            return _Named(token, ref(principal, token), None)
        try:
            handle = self._keys.verify(token)
        except NotFound:
            if len(token) > MAX_ID:
                raise
            return _Named(token, ref(principal, token), None)  # a producer gives its requests any id
        if handle.principal != principal:
            raise NotFound("no such request: the handle belongs to another principal")
        return _Named(handle.id, ref(principal, handle.id), handle)

    def _model_of(self, named: _Named, state: RequestState | None) -> tuple[str, str]:
        """The model and its version, from the handle or the store; "" if neither has them."""
        if named.handle is not None:
            return self._service.names.parse_request_topic(named.handle.topic)[1:]
        return (state.model, state.version) if state is not None and state.model else ("", "")

    def _topics_of(self, named: _Named, model: str, version: str) -> list[str]:
        """The topics that may hold its record. A handle has the topic; the store does not know the lane."""
        if named.handle is not None:
            return [named.handle.topic]
        return [self._service.names.request_topic(model, version, lane) for lane in Lane] if model else []

    def _until(self, state: RequestState | None) -> float:
        """The acceptance time up to which a cancellation made now applies; it spares later calls with the same key.

        It is the later of two times. The store has the time at which the claim was accepted, by a clock that may be ahead of
        ours. A call that took over an unpublished claim was accepted after that, so our time counts too.
        """
        return max(self._service.clock(), state.accepted if state is not None else 0.0)

    async def _state(self, named: _Named) -> RequestState | None:
        (state,) = await self._results.look([named.ref])
        return state

    async def _look(self, named: _Named) -> RequestState:
        """The state of a request; if its stream or its terminal is lost, it is published again while the log has it."""
        state = await self._state(named)
        if state is not None:
            age = self._service.clock() - state.accepted
            if named.handle is None or state.state == "done" or age < self._service.settings.recover_after:
                return state
            return await self._recover(named, named.handle, state)
        pending = self._service.completion.pending.first(named.ref)
        if pending is not None:
            return RequestState("queued", None, pending.model, pending.version, pending.accepted)
        if named.handle is None:
            raise NotFound(f"there is no request {named.id}, or its answer is no longer kept")
        return await self._republish(named, named.handle)

    async def _republish(self, named: _Named, handle: Handle) -> RequestState:
        record, request = await read_request(self._service, handle.topic, (handle.partition, handle.offset), named.ref)
        if record is None or request is None:
            raise FleetError("the request and its answer are no longer kept", code=Code.GONE)
        claimed = await self._claims.claim(request, handle.fingerprint)
        if claimed.state is ClaimState.FRESH:
            _log.info("the result was lost; the request is published again", request_id=named.ref, topic=handle.topic)
            await self._claims.publish(named.ref, handle.topic, record)
        return RequestState("queued", None, request.model, request.version, request.accepted)

    async def _recover(self, named: _Named, handle: Handle, state: RequestState) -> RequestState:
        """A request without a terminal whose newest record is committed has lost it: one gateway publishes it again."""
        positions, place = self._service.positions, (handle.partition, handle.offset)
        while await positions.passed(handle.topic, place):
            _, model, version = self._service.names.parse_request_topic(handle.topic)
            request = InferRequest(
                handle.id, model, version, (), principal=handle.principal, accepted=state.accepted, claimed=True
            )
            claimed = await self._claims.claim(request, handle.fingerprint, place)
            if claimed.state is ClaimState.FRESH:
                return await self._publish_again(named, handle, place, state)
            if claimed.state is ClaimState.DONE:
                return await self._state(named) or state
            if claimed.place in {None, place}:  # another gateway does that now
                return state
            place = claimed.place
        return state

    async def _publish_again(self, named: _Named, handle: Handle, place: Place, state: RequestState) -> RequestState:
        record, request = await read_request(self._service, handle.topic, place, named.ref)
        if record is None or request is None:
            _, model, version = self._service.names.parse_request_topic(handle.topic)
            await self._service.completion.end(named.ref, InferReply(model, version, failure=Failure(Code.GONE, GONE)))
            raise FleetError(GONE, code=Code.GONE)
        _log.info("the answer was lost; the request is published again", request_id=named.ref, topic=handle.topic)
        await self._claims.publish(named.ref, handle.topic, record)
        return dataclasses.replace(state, state="queued")

    async def _wait(self, request_ref: str, model: str, version: str, seconds: float) -> None:
        """Return when the request is answered, or after this many seconds."""
        service = self._service
        future: asyncio.Future[InferReply] = asyncio.get_running_loop().create_future()
        call = service.watch(
            request_ref, model, version, service.clock() + min(seconds, service.settings.max_wait), resolver(future)
        )
        try:
            await future
        finally:
            service.completion.drop(call)

    def _status(self, named: _Named, state: RequestState) -> RequestStatus:
        age = max(0.0, self._service.clock() - state.accepted) if state.accepted else 0.0
        if state.state != "done":
            return RequestStatus(named.id, state.state, state.model, state.version, age)
        if not state.payload:
            raise FleetError("the answer was delivered before and is no longer kept", code=Code.GONE)
        reply = decode_reply(state.payload)
        status = RequestStatus(named.id, _final(reply), reply.model, reply.version, age, reply)
        handle = named.handle
        if handle is None:
            return status
        return dataclasses.replace(status, binary=handle.binary, classes=handle.classes, batches=handle.batches)


def _final(reply: InferReply) -> str:
    return "cancelled" if reply.failure is not None and reply.failure.code is Code.CANCELLED else "done"
