"""Copies of answered calls to the shadow version of their alias, whose answers are compared and never returned.

A copy is made after its caller was answered, and joins the shadow version's batch lane, so that it delays no caller. It is dropped
and counted where there is no room: at most `MOST` copies wait, and their bytes are drawn from the batch lane's budget.
Calls that failed are not copied, nor are keyed and asynchronous ones, whose answer other gateways may give as well.

Invariant: nothing that happens to a copy reaches its caller, neither an error nor a delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway.admission.budget import Budget, Share
from gateway.aliases.comparison import Agreement, compare
from gateway.aliases.shadow_counts import Pair, ShadowCounts
from gateway.catalogue.catalogue import Catalogue, RequestQueue
from protocol.control import AliasRoute
from protocol.errors import Exhausted, FleetError, TooLarge, Unavailable
from protocol.messages import InferReply, InferRequest
from protocol.runtime.tasks import BackgroundTasks

MOST: Final = 256
"""Copies that may wait for an answer or its comparison at once."""
_THREAD_FROM: Final = 64 * 1024
"""Bytes of answers that are compared in a thread."""

OnDone = Callable[[InferReply], None]
Submit = Callable[[RequestQueue, InferRequest, OnDone], object]

_log = structlog.get_logger("gateway.calls.shadows")


class Shadows:
    """Sends and compares copies.

    Args:
        catalogue: of model versions.
        submit: publishes a copy of a request, as a new one of another version.
        dice: 0 to 1; whether a call is copied.
        budget: bytes of answers that wait for their comparison.
        counts: of results.

    Attributes:
        waiting: copies that wait for their answer or its comparison.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        submit: Submit,
        dice: Callable[[], float],
        budget: Budget,
        counts: ShadowCounts,
    ) -> None:
        self._catalogue = catalogue
        self._submit = submit
        self._dice = dice
        self._budget = budget
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks("shadows")
        self.waiting = 0

    def copied(self, route: AliasRoute, request: InferRequest, on_done: OnDone) -> OnDone:
        """What is to be called with the call's answer: it answers the caller, then copies the call if it is its turn."""
        if self._dice() >= route.shadow_share:
            return on_done

        def done(reply: InferReply) -> None:
            on_done(reply)
            if reply.failure is None:
                self._loop.call_soon(self._copy, route.shadow, request, reply)

        return done

    def _copy(self, version: str, request: InferRequest, given: InferReply) -> None:
        pair = (request.model, request.version, version)
        share = Share(self._budget)
        try:
            served = self._catalogue.get(request.model, version)
            if not served.ready or self.waiting >= MOST or not share.hold(_size(given)):
                self._counts.count(pair, "dropped")
                return
            served.batch.check(request.inputs, request.outputs, request.label)
            self._submit(served.batch, request, self._on_answer(pair, given, share))
        except (Exhausted, Unavailable, TooLarge):
            share.free()
            self._counts.count(pair, "dropped")
        except FleetError:
            share.free()
            self._counts.count(pair, "failed")
        except Exception:
            share.free()
            self._counts.count(pair, "failed")
            _log.exception("a call could not be copied", model=request.model, shadow=version)
        else:
            self.waiting += 1

    def _on_answer(self, pair: Pair, given: InferReply, share: Share) -> OnDone:
        def done(reply: InferReply) -> None:
            if reply.failure is not None:
                self._counts.count(pair, "failed")
            elif not share.hold(_size(given) + _size(reply)):
                self._counts.count(pair, "dropped")
            elif share.size >= _THREAD_FROM:
                self._tasks.spawn(self._compare(pair, given, reply, share))
                return
            else:
                self._agreed(pair, compare(given.outputs, reply.outputs))
            self._free(share)

        return done

    async def _compare(self, pair: Pair, given: InferReply, reply: InferReply, share: Share) -> None:
        try:
            self._agreed(pair, await self._loop.run_in_executor(None, compare, given.outputs, reply.outputs))
        finally:
            self._free(share)

    def _agreed(self, pair: Pair, agreement: Agreement) -> None:
        self._counts.agreed(pair, agreement)

    def _free(self, share: Share) -> None:
        share.free()
        self.waiting -= 1

    async def close(self) -> None:
        """Wait for comparisons in flight."""
        await self._tasks.join()


def _size(reply: InferReply) -> int:
    return sum([len(tensor.data) for tensor in reply.outputs])
