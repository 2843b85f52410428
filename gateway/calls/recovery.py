"""Publishes requests again from the log after the result store has lost their answers; `positions` has the rule that detects it."""

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
from protocol.runtime.tasks import BackgroundTasks

GONE: Final = "the request's answer was lost with the result store's data, and the log no longer has the request"
_LOOK: Final = 256
_LARGE: Final = 64 * 1024
"""Records of this size are decoded in a thread."""

_log = structlog.get_logger("gateway.calls.recovery")


class Recovery:
    """Publishes waiting plain calls again whose answers and wake-ups were lost."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: dict[Call, None] = {}
        self._tasks = BackgroundTasks("recovery")

    def consider(self, calls: Iterable[Call]) -> None:
        """Recover the given calls, which have no terminal in the store, once they are older than `recover_after`."""
        overdue = self._service.clock() - self._service.settings.recover_after
        self._calls.update((call, None) for call in calls if call.place is not None and call.registered <= overdue)
        if self._calls and not self._tasks:
            self._tasks.spawn(self._recover_all(), name="recover")

    async def close(self) -> None:
        """Stop recovering."""
        await self._tasks.close()

    async def _recover_all(self) -> None:
        try:
            await self._recover_waiting()
        except FleetError as error:
            _log.warning("lost answers were not recovered; a sweep tries again", error=error.message)

    async def _recover_waiting(self) -> None:
        while self._calls:
            calls, self._calls = list(self._calls), {}
            for topic in {call.topic for call in calls}:
                committed = await self._service.positions.committed(topic)
                passed = [c for c in calls if c.topic == topic and c.place is not None and is_below(c.place, committed)]
                for at in range(0, len(passed), _LOOK):
                    await self._recover(passed[at : at + _LOOK])

    async def _recover(self, calls: list[Call]) -> None:
        """Publish again the calls without a terminal; the sweep finds the others."""
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
        _log.info("the answer was lost; the request is published again", request_id=call.ref, topic=call.topic)
        call.place = None
        service.publisher.enqueue(call.topic, record, call)


async def read_request(
    service: Service, topic: str, place: Place, request_ref: str
) -> tuple[OutRecord | None, InferRequest | None]:
    """Read a request from the log, to publish it again; None if the log no longer has it at this place.

    Raises:
        Unavailable: the broker does not answer.
    """
    record = await service.transport.bus.read_record(topic, *place)
    if record is None:
        return None, None
    if record.request is not None:
        request: InferRequest | None = record.request
    elif len(record.value) > _LARGE:
        request = await asyncio.get_running_loop().run_in_executor(None, _decode, service, record)
    else:
        request = _decode(service, record)
    # A topic can be deleted and created again, so this offset may hold another record.
    if request is None or _ref_of(request) != request_ref:
        return None, None
    value = bytes(record.value)
    return OutRecord(value, record.headers, record.key, 0.0, record.request, record.request_size), request


def _ref_of(request: InferRequest) -> str | None:
    """The ref of a request; None for a foreign record without a valid id."""
    try:
        return ref(request.principal, request.id)
    except FleetError:
        return None


def _decode(service: Service, record: Record) -> InferRequest | None:
    _, model, version = service.names.parse_request_topic(record.topic)
    try:
        return decode_request(
            record.value, record.headers, model=model, version=version, default_id="", timestamp=record.timestamp
        )
    except FleetError:
        return None
