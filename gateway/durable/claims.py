"""Keyed calls (`Idempotency-Key`) and asynchronous calls, which outlive their connection.

Invariants: a call is claimed in the result store before it is published, and the broker's acknowledgement confirms the claim; a
waiter is registered before it claims, so that no wake-up is missed; a 202 is sent only when the record is in the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Final

import structlog

from gateway.calls.pending import Call
from gateway.calls.service import Service
from gateway.catalogue.catalogue import RequestQueue
from gateway.handle import Handle
from protocol.codec import decode_reply
from protocol.errors import Code, FleetError, Unavailable
from protocol.messages import InferReply, InferRequest
from protocol.naming import ref
from protocol.ports import NOWHERE, Claim, Claimed, ClaimState, OutRecord, Place
from protocol.runtime.tasks import BackgroundTasks

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two checks of whether the first call with a key was published."""

_log = structlog.get_logger("gateway.durable.claims")


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """An asynchronous call that was accepted.

    Attributes:
        token: for `/v2/requests/<token>`.
        reply: its answer, if the same key was answered before.
    """

    token: str
    reply: InferReply | None = None


class Claims:
    """Runs the keyed and asynchronous calls of one gateway."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._results = service.transport.results
        self._keys = service.keys
        self._tasks = BackgroundTasks("claims")

    async def infer(self, served: RequestQueue, request: InferRequest, fingerprint: str) -> InferReply:
        """Run a keyed call, or attach to the one that runs; returns its answer.

        Raises:
            Exhausted, TooLarge: it was refused; every later failure is an answer.
        """
        service = self._service
        record = service.record(request)
        _free_inputs(request, record)
        future: asyncio.Future[InferReply] = asyncio.get_running_loop().create_future()
        call = service.enter(served, request, record.size, resolver(future))
        call.owner = False
        try:
            await self._take(call, request, fingerprint, record)
            if call.place is not None and not call.owner:  # published before, perhaps long ago: its answer may be lost
                self._tasks.spawn(self._take_again(call, request, fingerprint, record))
            while not call.left:
                await asyncio.wait([future], timeout=service.settings.claim_lease)
                if not call.left:
                    await self._take_again(call, request, fingerprint, record)
        except FleetError as error:
            service.completion.fail(call, error)
        return await future

    async def _take(
        self, call: Call, request: InferRequest, fingerprint: str, record: OutRecord, lost: Place | None = None
    ) -> None:
        """Claim a keyed call; publish it if the claim is fresh."""
        claimed = await self.claim(request, fingerprint, lost)
        call.place = claimed.place or (NOWHERE if claimed.published else None)
        if claimed.state is ClaimState.DONE:
            self._service.completion.settle(call, claimed.payload or b"")
        elif claimed.state is ClaimState.FRESH:
            call.owner = True
            call.place = await self.publish(call.ref, call.topic, record)

    async def _take_again(self, call: Call, request: InferRequest, fingerprint: str, record: OutRecord) -> None:
        """Take over a call whose claimant died before publishing, or whose answer was lost."""
        place = call.place
        if place is None:
            await self._take(call, request, fingerprint, record)
        elif place == NOWHERE or await self._service.positions.passed(await self._topic_of(call), place):
            try:
                await self._take(call, request, fingerprint, record, place)
            except Unavailable as error:  # it is still in the log: the next turn tries again
                call.place = call.place or place
                _log.warning(
                    "a request with a lost answer could not be published again",
                    request_id=call.ref,
                    error=error.message,
                )

    async def _topic_of(self, call: Call) -> str:
        """The topic of the record that the call is attached to: an alias may have been switched since it was published."""
        (state,) = await self._results.look([call.ref])
        if state is None or not state.version or state.version == call.version or state.model != call.model:
            return call.topic
        return self._service.names.request_topic(call.model, state.version, call.lane)

    async def close(self) -> None:
        """Cancel the background tasks."""
        await self._tasks.close()

    async def accept(
        self,
        served: RequestQueue,
        request: InferRequest,
        fingerprint: str,
        binary: frozenset[str] | bool,
        classes: tuple[tuple[str, int], ...] = (),
    ) -> Accepted:
        """Publish an asynchronous call, or find the one with the same key.

        Args:
            binary, classes: the form in which its caller wants the outputs, as in `Handle`.

        Raises:
            FleetError: it was not accepted.
        """
        service = self._service
        if service.fill >= service.settings.fill_limit:
            raise Unavailable(
                f"the result store is {service.fill:.0%} full; "
                f"asynchronous calls are taken below {service.settings.fill_limit:.0%}",
                retry_after=30.0,
            )
        record = service.record(request)
        _free_inputs(request, record)
        handle = Handle(served.topic, 0, 0, request.id, request.principal, fingerprint, binary, classes, served.batches)
        self._keys.sign(handle)  # raises before anything is published if the names are too long
        request_ref = ref(request.principal, request.id)
        admission = service.admissions.of(served.lane)
        admission.admit(served.topic, record.size)
        try:
            claimed = await self._claim_published(request, fingerprint)
            if claimed.state is ClaimState.DONE:
                return Accepted(request.id, decode_reply(claimed.payload) if claimed.payload else None)
            partition, offset = claimed.place or await self.publish(request_ref, served.topic, record)
        finally:
            admission.leave(served.topic, record.size)
        return Accepted(self._keys.sign(dataclasses.replace(handle, partition=partition, offset=offset)))

    async def _claim_published(self, request: InferRequest, fingerprint: str) -> Claimed:
        """Claim the call, or attach once its record is known, so that a 202 is never sent for an unpublished call.

        Raises:
            Unavailable: another gateway has claimed it and has not published it within two leases.
        """
        loop, lease = asyncio.get_running_loop(), self._service.settings.claim_lease
        began, pause = loop.time(), _FIRST_PAUSE
        while True:
            waited = loop.time() - began
            claimed = await self.claim(request, fingerprint, NOWHERE if waited >= lease else None)
            if claimed.state is not ClaimState.ATTACHED or claimed.place is not None:
                return claimed
            if waited >= 2 * lease:
                raise Unavailable("the first call with this Idempotency-Key has not been accepted yet", retry_after=1.0)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def claim(self, request: InferRequest, fingerprint: str, lost: Place | None = None) -> Claimed:
        """Claim a request in the result store for this gateway.

        Args:
            lost: place of a record whose answer was lost; a claim that names it may be taken over.

        Raises:
            FleetError: KEY_REUSED with another body, or the store cannot be reached.
        """
        service = self._service
        settings = service.settings
        claimed = await self._results.claim(
            Claim(
                ref(request.principal, request.id), fingerprint, service.channel, settings.claim_lease, settings.result_ttl,
                request.model, request.version, request.accepted, lost,
            )
        )  # fmt: skip
        counts, name = service.metrics.claims, claimed.state.name.lower()
        counts[name] = counts.get(name, 0) + 1
        if claimed.state is ClaimState.MISMATCH:
            raise FleetError("this Idempotency-Key was used with another request body", code=Code.KEY_REUSED)
        return claimed

    async def publish(self, request_ref: str, topic: str, record: OutRecord) -> Place:
        """Publish a claimed request, and confirm the claim with the result."""
        try:
            place = await self._service.publisher.publish_and_wait(topic, record)
        except FleetError:
            await self.confirm(request_ref, None)
            raise
        await self.confirm(request_ref, place)
        return place

    async def confirm(self, request_ref: str, place: Place | None) -> None:
        """Record in the claim the place of its record, or None if publishing failed; else the claim lapses with its lease."""
        try:
            await self._results.confirm(request_ref, place is not None, place)
        except FleetError as error:
            published = place is not None
            _log.warning(
                "claim could not be confirmed", request_id=request_ref, published=published, error=error.message
            )


def _free_inputs(request: InferRequest, record: OutRecord) -> None:
    """Drop the inputs if the record has their bytes: the body is not held while the call waits. A message keeps them."""
    if record.request is None:
        request.inputs = ()


def resolver(future: asyncio.Future[InferReply]) -> Callable[[InferReply], None]:
    """An `on_done` that sets the future's result once."""

    def resolve(reply: InferReply) -> None:
        if not future.done():
            future.set_result(reply)

    return resolve
