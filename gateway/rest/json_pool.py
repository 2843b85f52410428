"""Shares a few JSON processes among callers, first come, first served, each with its deadline.

Invariants:
- a caller gets its answer or 504 by its deadline; a late document is not begun;
- a document that was begun is finished even if its caller has gone, so that the next caller does not wait for a new process;
- documents that wait or are handled are counted in the gateway's budget.
"""

from __future__ import annotations

import asyncio
import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.admission.budget import Budget, Share
from gateway.rest.bodies import Binary
from gateway.rest.generating import GenerateInput
from gateway.rest.json_process import PARSE, WRITE, JsonProcess
from protocol.codec import encode_reply
from protocol.deadline import too_late
from protocol.errors import DeadlineExceeded, Exhausted, Unavailable
from protocol.messages import InferReply
from protocol.tensors import Buffer, Tensor
from protocol.v2 import InferBody, RequestedOutput, ResponseBody, SharedInput

_STUCK: Final = 60.0
"""Seconds after which a process counts as stuck and is killed; 16 MB take a second."""

_Answer = tuple[Any, Buffer]


class JsonPool:
    """Parses and writes JSON in other processes.

    Args:
        budget: documents in flight draw from it.
        size: largest number of processes; each starts when there is work for it.
        clock: of the deadlines.
    """

    def __init__(self, budget: Budget, size: int, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self.processes = [JsonProcess() for _ in range(size)]
        self._idle = list(self.processes)
        self._waiting: collections.deque[asyncio.Future[JsonProcess]] = collections.deque()
        self._work: set[asyncio.Task[_Answer]] = set()

    async def parse(
        self,
        body: Buffer | bytearray,
        length: int | None,
        until: float,
        model: str = "",
        generate: Sequence[GenerateInput] | None = None,
    ) -> InferBody:
        """As `v2.parse_body`; the tensors are views of one buffer. The caller counts the body.

        Args:
            generate: the model's inputs if the body is that of a generate call: as `parse_generate`.

        Raises:
            CodecError, Unsupported, TooLarge: naming the fault.
            DeadlineExceeded: `until` has passed.
            Exhausted: there is no room for the parsed document.
            Unavailable: the process died handling it.
        """
        asked = {"length": length, "model": model, "generate": generate}
        note, value = await self._ask(PARSE, asked, body, Share(self._budget), until)
        inputs, start = [], 0
        for name, datatype, shape, size in note["inputs"]:
            inputs.append(Tensor(name, datatype, tuple(shape), value[start : start + size]))
            start += size
        outputs = tuple([RequestedOutput(*output) for output in note["outputs"]])
        shared = tuple([SharedInput(*part) for part in note["shared"]])
        return InferBody(
            note["label"], tuple(inputs), outputs, note["parameters"], note["binary_default"], len(value), shared
        )

    async def render(
        self,
        reply: InferReply,
        binary: Binary,
        until: float,
        elsewhere: frozenset[str] = frozenset(),
        *,
        generate: bool = False,
    ) -> ResponseBody:
        """As `bodies.render`, or as `write_generated`.

        Raises:
            CodecError: an output has no JSON form.
            DeadlineExceeded, Exhausted, Unavailable: as `parse`.
        """
        names = binary if isinstance(binary, bool) else sorted(binary)
        body, share = encode_reply(reply), Share(self._budget)
        if not share.hold(len(body)):
            raise _no_room()
        note, text = await self._ask(
            WRITE, {"binary": names, "elsewhere": sorted(elsewhere), "generate": generate}, body, share, until
        )
        return ResponseBody([text], note["header_length"])

    async def close(self) -> None:
        """End the processes."""
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for process in self.processes:
            await process.close()

    async def _ask(
        self, kind: bytes, note: dict[str, Any], body: Buffer | bytearray, share: Share, until: float
    ) -> _Answer:
        work: asyncio.Task[_Answer] | None = None
        try:
            if too_late(until, self._clock()):
                raise TimeoutError
            async with asyncio.timeout(None if until == math.inf else max(until - self._clock(), 0.0)):
                process = await self._turn()
                if not share.hold(max(share.size, len(body))):
                    self._give_back(process)
                    raise _no_room()
                work = asyncio.get_running_loop().create_task(self._run(process, share, kind, note, body))
                self._work.add(work)
                work.add_done_callback(self._ended)
                return await asyncio.shield(work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the request's JSON waited or was being handled") from None
        finally:
            if work is None:
                share.free()
            work = None  # breaks the cycle of error, traceback, frame and task, which would hold the body

    async def _run(
        self, process: JsonProcess, share: Share, kind: bytes, note: dict[str, Any], body: Buffer | bytearray
    ) -> _Answer:
        try:
            async with asyncio.timeout(_STUCK):
                return await process.ask(kind, note, body, share)
        except TimeoutError:
            raise Unavailable(f"the request's JSON took more than {_STUCK:.0f} s") from None
        finally:
            share.free()
            self._give_back(process)

    def _ended(self, work: asyncio.Task[_Answer]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # its caller may have gone

    async def _turn(self) -> JsonProcess:
        """Wait for an idle process, first come, first served."""
        if self._idle:
            return self._idle.pop()
        turn: asyncio.Future[JsonProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, process: JsonProcess) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(process)
                return
        self._idle.append(process)


def _no_room() -> Exhausted:
    return Exhausted("this gateway has no room for a document of this size now")
