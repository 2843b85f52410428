"""Reads results: a wake-up answers its calls, a sweep finds the answers whose wake-up was lost.

Invariants: every waiting call is looked up after `sweep_after`, because wake-ups are hints; a call without an answer whose record
is committed is published again; an answer that cannot be decoded, or a read that fails, delays no other call; only delivered
payloads of plain calls are trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from gateway.calls.pending import Call
from gateway.calls.recovery import Recovery
from gateway.calls.service import Service
from protocol.errors import FleetError
from protocol.ports import RequestState, Wake
from protocol.runtime.tasks import BackgroundTasks

_LOOK: Final = 32
"""Streams with large payloads that are read in one round trip."""

_log = structlog.get_logger("gateway.calls.dispatcher")


class Dispatcher:
    """Passes answers from the result store to `service.completion`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._completion = service.completion
        self._results = service.transport.results
        self._trim_above = service.settings.trim_bytes
        self._sweep_batch = service.settings.sweep_batch
        self._trim_batch = service.settings.trim_batch
        self._pointers: dict[str, None] = {}
        self._trims: list[str] = []
        self._fetching = BackgroundTasks("dispatcher")
        self._recovery = Recovery(service)

    async def start(self) -> None:
        """Subscribe to the gateway's channel."""
        await self._results.listen(self._service.channel, self._on_wake)

    async def close(self) -> None:
        """Unsubscribe, and finish reads in flight."""
        await self._results.unlisten(self._service.channel)
        await self._fetching.join()
        await self._recovery.close()
        await self.trim()

    async def sweep(self) -> None:
        """Look up the calls that are due; call it several times a second.

        Raises:
            Unavailable: the store cannot be reached; the calls are looked up again later.
        """
        due = self._completion.pending.sweep(self._service.clock())
        for at in range(0, len(due), self._sweep_batch):
            refs = due[at : at + self._sweep_batch]
            found = await self._look(refs)
            if found:
                self._service.metrics.swept += found
            waiting = (self._completion.pending.first(ref) for ref in refs)
            self._recovery.consider(call for call in waiting if call is not None and not call.claimed)

    async def trim(self) -> None:
        """Trim delivered payloads in the store; on failure they expire on their own."""
        while self._trims:
            refs, self._trims = self._trims[: self._trim_batch], self._trims[self._trim_batch :]
            try:
                await self._results.trim(refs)
            except FleetError as error:
                _log.warning("delivered answers were not trimmed", answers=len(refs), error=error.message)

    def _on_wake(self, wakes: list[Wake]) -> None:
        """Answer the calls whose answers came with the wake-up; fetch the larger answers."""
        deliveries, pointers = self._completion.pending.feed(wakes)
        if deliveries:
            for call, payload in deliveries:
                if isinstance(payload, bytes) and len(payload) > self._trim_above and not call.claimed:
                    self._trims.append(call.ref)
            self._completion.deliver(deliveries)
        if pointers:
            self._pointers.update(dict.fromkeys(pointers))
            if not self._fetching:
                self._fetching.spawn(self._fetch(), name="fetch")

    async def _fetch(self) -> None:
        """Read answers that were too large for their wake-up."""
        while self._pointers:
            refs = list(self._pointers)[:_LOOK]
            for ref in refs:
                del self._pointers[ref]
            try:
                await self._look(refs)
            except FleetError as error:
                _log.warning("answers could not be read; a sweep tries again", answers=len(refs), error=error.message)

    async def _look(self, refs: Sequence[str]) -> int:
        """Answer the calls whose terminal is in the store; returns their number."""
        states = await self._results.look(refs)
        return sum(self._take(ref, state) for ref, state in zip(refs, states, strict=True))

    def _take(self, ref: str, state: RequestState | None) -> int:
        call: Call | None = self._completion.pending.first(ref)
        if call is None or state is None or state.payload is None:
            return 0
        payload = state.payload
        if not payload and not call.claimed:
            return 0  # an embedded store drops a plain answer once it was sent in a wake-up, which is on its way here
        if len(payload) > self._trim_above and not call.claimed:
            self._trims.append(ref)
        deliveries, _ = self._completion.pending.feed([Wake(ref, payload)])
        self._completion.deliver(deliveries)
        return len(deliveries)
