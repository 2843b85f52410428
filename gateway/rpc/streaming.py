"""One ModelStreamInfer call: requests run side by side, and are answered in their order.

Invariants: at most `IN_FLIGHT` requests of a stream are read and not answered; every request gets one answer, outputs or an error
message; when the stream ends, none of its requests runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from gateway.rpc import replies
from gateway.rpc.caller import Caller
from gateway.rpc.inference import Answer, Inference
from gateway.rpc.scanning import split
from protocol.errors import FleetError

IN_FLIGHT: Final = 256
"""Requests of one stream that are read and not answered. Its further ones are not read, so that gRPC's flow control stops it."""
BROKEN: Final = "internal error in the gateway; its log has the details"

Read = Callable[[], Awaitable[bytes | memoryview | None]]
Write = Callable[[bytes], Awaitable[None]]
_Answered = tuple[bytes, FleetError | None]

_log = structlog.get_logger("gateway.rpc")


class Stream:
    """One stream.

    Args:
        inference: runs the requests.
        caller: of all of them.
        seconds: tells the seconds until the stream's deadline; None without one.
        refused: called with each error of a request.

    Attributes:
        waiting: requests that are read and not answered.
    """

    def __init__(
        self,
        inference: Inference,
        caller: Caller,
        seconds: Callable[[], float | None],
        refused: Callable[[FleetError], None],
    ) -> None:
        self._inference = inference
        self._caller = caller
        self._seconds = seconds
        self._refused = refused
        self._running: set[asyncio.Task[_Answered]] = set()
        self._order: asyncio.Queue[asyncio.Task[_Answered] | None] = asyncio.Queue()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._ended = False
        self._reading: asyncio.Task[None] | None = None
        self.waiting = 0

    async def run(self, read: Read, write: Write) -> None:
        """Take requests until `read` returns None, and answer them.

        Raises:
            FleetError: the first error, if the caller wants the stream to end with it.
        """
        self._reading = asyncio.get_running_loop().create_task(self._read(read))
        try:
            while (task := await self._order.get()) is not None:
                answer, error = await task
                if error is not None and self._caller.closes_on_error:
                    raise error
                await write(answer)
                self.waiting -= 1
                self._slots.release()
                del answer, task
        finally:
            self._ended = True
            self._slots.release()  # the reader may wait for it; a read that waits ends with the call
            left = list(self._running)
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, read: Read) -> None:
        """Start the requests."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._slots.acquire()
                message = None if self._ended else await read()
                if message is None or self._ended:
                    return
                self.waiting += 1
                task = loop.create_task(self._answer(message))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                self._order.put_nowait(task)
                del message
        except Exception as error:
            _log.debug("a stream ended while it was read", error=str(error))  # its caller has gone
        finally:
            self._order.put_nowait(None)

    async def _answer(self, message: bytes | memoryview) -> _Answered:
        """The response to one request, and the error if it is one."""
        error: FleetError
        model = ""
        try:
            self._inference.check_open(self._caller)
            answer = await self._inference.infer(self._caller, message, self._seconds())
            if answer.reply.failure is None:
                return _response(answer), None
            error, model = answer.reply.failure.error(), answer.reply.model
        except FleetError as refused:
            self._refused(refused)
            error = refused
        except Exception:
            _log.exception("a request of a stream failed inside the gateway")
            error = FleetError(BROKEN)
        return replies.stream_error(error.message, _label(message), model), error


def _response(answer: Answer) -> bytes:
    return replies.stream_response(replies.encode(answer.reply, answer.reply.outputs, final=True))


def _label(message: bytes | memoryview) -> str:
    with contextlib.suppress(FleetError):
        return split(message).label
    return ""
