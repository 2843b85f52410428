"""Calls that outlive their connection: keyed ones (`Idempotency-Key`) and asynchronous ones.

Invariants: such a call has a claim in the result store before it is published, and the claim is confirmed by the broker's
acknowledgement; a waiter is registered before the claim is made, so that no wake-up can come too early.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from gateway.catalog import Served
from gateway.handle import Handle, sign
from gateway.pending import Call
from gateway.publisher import Place
from gateway.service import Service
from protocol.codec import decode_reply
from protocol.errors import Code, FleetError, Unavailable
from protocol.messages import InferReply, InferRequest
from protocol.naming import ref
from protocol.ports import Claim, Claimed, ClaimState, OutRecord

_log = structlog.get_logger("gateway.claims")


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an asynchronous call.

    Attributes:
        token: names it in `/v2/requests/<token>`.
        reply: its answer, where the same key had been answered before.
    """

    token: str
    reply: InferReply | None = None


class Claims:
    """Keyed and asynchronous calls of one gateway."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._results = service.transport.results
        self._key = service.settings.signing_key()
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(self, served: Served, request: InferRequest, fingerprint: str) -> InferReply:
        """Run a keyed call, or attach to the one that runs already; its answer.

        Raises:
            Exhausted, TooLarge: it was not taken; every later failure is an answer.
        """
        service = self._service
        record = service.record(request)
        future: asyncio.Future[InferReply] = asyncio.get_running_loop().create_future()
        call = service.enter(served, request, len(record.value), settle(future))
        call.owner = False
        try:
            if not await self._take(call, request, fingerprint, record):
                await asyncio.wait([future], timeout=service.settings.claim_lease)
                if not call.left:  # whoever had it may have died before it was published
                    await self._take(call, request, fingerprint, record)
        except FleetError as error:
            service.answers.fail(call, error)
        return await future

    async def _take(self, call: Call, request: InferRequest, fingerprint: str, record: OutRecord) -> bool:
        """Claim a keyed call and, where that makes it ours, publish it; False where somebody else has it."""
        claimed = await self.claim(request, fingerprint)
        answers = self._service.answers
        if claimed.state is ClaimState.DONE:
            answers.settle(call, claimed.payload or b"")
        elif claimed.state is ClaimState.FRESH:
            call.owner = True
            await self.publish(call.ref, call.topic, record)
        return claimed.state is not ClaimState.ATTACHED

    async def accept(
        self, served: Served, request: InferRequest, fingerprint: str, binary: frozenset[str] | bool
    ) -> Accepted:
        """Publish an asynchronous call, or find the one with the same key.

        Raises:
            FleetError: it was not accepted, with the reason.
        """
        service = self._service
        if service.fill >= service.settings.fill_limit:
            raise Unavailable(
                f"the result store is {service.fill:.0%} full; asynchronous work is taken below {service.settings.fill_limit:.0%}",
                retry_after=30.0,
            )
        record = service.record(request)
        handle = Handle(served.topic, 0, 0, request.id, request.principal, fingerprint, binary)
        sign(handle, self._key)  # refuses names that are too long before anything is published
        request_ref = ref(request.principal, request.id)
        service.admission.admit(served.topic, len(record.value))
        try:
            claimed = await self.claim(request, fingerprint)
            if claimed.state is ClaimState.DONE:
                return Accepted(request.id, decode_reply(claimed.payload) if claimed.payload else None)
            if claimed.state is ClaimState.ATTACHED:
                self._spawn(self._make_sure(request, fingerprint, served.topic, record))
                return Accepted(request.id)
            partition, offset = await self.publish(request_ref, served.topic, record)
        finally:
            service.admission.leave(served.topic, len(record.value))
        return Accepted(sign(dataclasses.replace(handle, partition=partition, offset=offset), self._key))

    async def _make_sure(self, request: InferRequest, fingerprint: str, topic: str, record: OutRecord) -> None:
        """Whoever has an asynchronous call may die before it is published: publish it once the lease is over, if it was not."""
        await asyncio.sleep(self._service.settings.claim_lease)
        try:
            claimed = await self.claim(request, fingerprint)
            if claimed.state is ClaimState.FRESH:
                await self.publish(ref(request.principal, request.id), topic, record)
        except FleetError as error:
            _log.warning("an attached call could not be followed", request_id=request.id, error=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop what runs beside the calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def claim(self, request: InferRequest, fingerprint: str) -> Claimed:
        """Claim a request in the result store for this gateway.

        Raises:
            FleetError: KEY_REUSED with another body, or the store cannot be reached.
        """
        service = self._service
        settings = service.settings
        claimed = await self._results.claim(
            Claim(
                ref(request.principal, request.id), fingerprint, service.channel, settings.claim_lease, settings.result_ttl,
                request.model, request.version, request.accepted,
            )
        )  # fmt: skip
        counts, name = service.metrics.claims, claimed.state.name.lower()
        counts[name] = counts.get(name, 0) + 1
        if claimed.state is ClaimState.MISMATCH:
            raise FleetError("this Idempotency-Key was used with another request body", code=Code.KEY_REUSED)
        return claimed

    async def publish(self, request_ref: str, topic: str, record: OutRecord) -> Place:
        """Publish a claimed request, and tell the claim how that went."""
        try:
            place = await self._service.publisher.place(topic, record)
        except FleetError:
            await self._confirm(request_ref, published=False)
            raise
        await self._confirm(request_ref, published=True)
        return place

    async def _confirm(self, request_ref: str, *, published: bool) -> None:
        try:
            await self._results.confirm(request_ref, published)
        except FleetError as error:
            _log.warning(
                "claim could not be confirmed", request_id=request_ref, published=published, error=error.message
            )


def settle(future: asyncio.Future[InferReply]) -> Callable[[InferReply], None]:
    """An `on_done` that sets the future's result, once."""

    def settle(reply: InferReply) -> None:
        if not future.done():
            future.set_result(reply)

    return settle
