"""Requests whose answers the result store has lost, published again from the log: see `positions` for how that is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from gateway.calls.pending import Call
from gateway.calls.positions import is_below
from gateway.calls.service import Service
from protocol.codec import decode_request
from protocol.errors import Code, FleetError
from protocol.messages import InferRequest
from protocol.naming import ref
from protocol.ports import OutRecord, Place, Record

GONE: Final = "the request's answer was lost with the result store's data, and the log no longer has the request"
_LOOK: Final = 256
_LARGE: Final = 64 * 1024
"""Bytes of a record that is decoded in a thread."""

_log = structlog.get_logger("gateway.calls.recovery")


class Recovery:
    """Publishes plain calls again whose answers were lost together with their wake-ups; their callers wait for them here."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: dict[Call, None] = {}
        self._work: asyncio.Task[None] | None = None

    def consider(self, calls: Iterable[Call]) -> None:
        """Look into calls for which the store has no end now. Nothing happens before they are overdue."""
        overdue = self._service.clock() - self._service.settings.recover_after
        self._calls.update((call, None) for call in calls if call.place is not None and call.registered <= overdue)
        if self._calls and self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._recover_all())
            self._work.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop looking."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._work = None
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.warning("lost answers could not be looked into, a sweep will again", error=str(error))

    async def _recover_all(self) -> None:
        while self._calls:
            calls, self._calls = list(self._calls), {}
            for topic in {call.topic for call in calls}:
                committed = await self._service.positions.committed(topic)
                passed = [c for c in calls if c.topic == topic and c.place is not None and is_below(c.place, committed)]
                for at in range(0, len(passed), _LOOK):
                    await self._recover(passed[at : at + _LOOK])

    async def _recover(self, calls: list[Call]) -> None:
        """Publish those again that have no end now; those that have one are found by the sweep."""
        states = await self._service.transport.results.look([call.ref for call in calls])
        for call, state in zip(calls, states, strict=True):
            if (state is None or state.state != "done") and not call.left:
                await self._again(call)

    async def _again(self, call: Call) -> None:
        service, place = self._service, call.place
        if place is None:
            return
        record, _ = await read_request(service, call.topic, place, call.ref)
        if call.left:
            return
        if record is None:
            service.completion.fail(call, FleetError(GONE, code=Code.GONE))
            return
        _log.info("published again, its answer was lost", request_id=call.ref, topic=call.topic)
        call.place = None
        service.publisher.enqueue(call.topic, record, call)


async def read_request(
    service: Service, topic: str, place: Place, request_ref: str
) -> tuple[OutRecord | None, InferRequest | None]:
    """A request from the log, to be published again; None where the log does not have it there any more.

    Raises:
        Unavailable: the broker does not answer.
    """
    record = await service.transport.bus.read(topic, *place)
    if record is None:
        return None, None
    if len(record.value) > _LARGE:
        request = await asyncio.get_running_loop().run_in_executor(None, _decode, service, record)
    else:
        request = _decode(service, record)
    # A topic can be deleted and made again, so the record at this offset may be another one.
    if request is None or _ref_of(request) != request_ref:
        return None, None
    return OutRecord(bytes(record.value), record.headers, record.key), request


def _ref_of(request: InferRequest) -> str | None:
    """None for a stranger's that has no id, or one that names nothing."""
    try:
        return ref(request.principal, request.id)
    except FleetError:
        return None


def _decode(service: Service, record: Record) -> InferRequest | None:
    model, version = service.names.parse_infer_topic(record.topic)
    try:
        return decode_request(
            record.value, record.headers, model=model, version=version, default_id="", timestamp=record.timestamp
        )
    except FleetError:
        return None
