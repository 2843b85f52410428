"""The one reader of results: wake-ups come in, waiting calls are answered; what no wake-up brought is swept up.

Invariants: wake-ups are hints, so every call is looked up after a second at the latest; what a worker is done with and what has no
answer is published again; one answer that cannot be read, or one look that fails, holds up nobody else; only payloads of plain
calls, delivered, are trimmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from gateway.calls.pending import Call
from gateway.calls.recovery import Recovery
from gateway.calls.service import Service
from protocol.errors import FleetError
from protocol.ports import RequestState, Wake

_LOOK: Final = 32
"""Streams read in one round trip where payloads are large."""

_log = structlog.get_logger("gateway.calls.dispatcher")


class Dispatcher:
    """Feeds `service.completion` from the result store."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._completion = service.completion
        self._results = service.transport.results
        self._trim_above = service.settings.trim_bytes
        self._sweep_batch = service.settings.sweep_batch
        self._trim_batch = service.settings.trim_batch
        self._pointers: dict[str, None] = {}
        self._trims: list[str] = []
        self._fetching: asyncio.Task[None] | None = None
        self._recovery = Recovery(service)

    async def start(self) -> None:
        """Listen on the gateway's channel; returns once subscribed."""
        await self._results.listen(self._service.channel, self._on_wake)

    async def close(self) -> None:
        """Stop listening."""
        await self._results.unlisten(self._service.channel)
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
        await self._recovery.close()
        await self.trim()

    async def sweep(self) -> None:
        """Look up who waits for long; called several times a second.

        Raises:
            Unavailable: the store cannot be reached; they are looked up again later.
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
        """Drop delivered payloads from the store; one that cannot be dropped expires by itself."""
        while self._trims:
            refs, self._trims = self._trims[: self._trim_batch], self._trims[self._trim_batch :]
            try:
                await self._results.trim(refs)
            except FleetError as error:
                _log.warning("delivered answers were not trimmed", answers=len(refs), error=error.message)

    def _on_wake(self, wakes: list[Wake]) -> None:
        deliveries, pointers = self._completion.pending.feed(wakes)
        if deliveries:
            for call, payload in deliveries:
                if len(payload) > self._trim_above and not call.claimed:
                    self._trims.append(call.ref)
            self._completion.deliver(deliveries)
        if pointers:
            self._pointers.update(dict.fromkeys(pointers))
            if self._fetching is None:
                self._fetching = asyncio.get_running_loop().create_task(self._fetch())
                self._fetching.add_done_callback(self._fetched)

    async def _fetch(self) -> None:
        """Read the answers that were too large to come with their wake-up."""
        while self._pointers:
            refs = list(self._pointers)[:_LOOK]
            for ref in refs:
                del self._pointers[ref]
            try:
                await self._look(refs)
            except FleetError as error:
                _log.warning("answers could not be read, a sweep will", answers=len(refs), error=error.message)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("reading answers failed, a sweep will read them", error=repr(task.exception()))

    async def _look(self, refs: Sequence[str]) -> int:
        """Answer those of these that have their terminal; how many calls that were."""
        states = await self._results.look(refs)
        return sum(self._take(ref, state) for ref, state in zip(refs, states, strict=True))

    def _take(self, ref: str, state: RequestState | None) -> int:
        call: Call | None = self._completion.pending.first(ref)
        if call is None or state is None or state.payload is None:
            return 0
        payload = state.payload
        if not payload and not call.claimed:
            return (
                0  # an embedded store keeps no plain answer that it handed over: the wake-up with it is on its way here
            )
        if len(payload) > self._trim_above and not call.claimed:
            self._trims.append(ref)
        deliveries, _ = self._completion.pending.feed([Wake(ref, payload)])
        self._completion.deliver(deliveries)
        return len(deliveries)
