"""Large JSON off the event loop: a child process parses and writes it, one document at a time.

A thread would not help: the parser holds the GIL while it runs (90 ms for 16 MB). The child also holds the hundreds of megabytes
that such a document takes as Python objects. It starts with the first large body, and ends when its standard input does, so it
cannot outlive its gateway. `docs/decisions/0004-json-in-processes-of-our-own.md` says why it is not a `ProcessPoolExecutor`.

A frame in either direction is `kind (1 byte), length of note (u32), length of body (u32), note (JSON), body`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

import orjson
import structlog

from gateway.admission.budget import Share
from gateway.rest.bodies import render
from gateway.rest.generating import parse_generate, write_generated
from protocol import v2
from protocol.codec import decode_reply
from protocol.errors import Code, Exhausted, FleetError, TooLarge, Unavailable
from protocol.frames import MAX_RECORD
from protocol.tensors import Buffer

PARSE: Final = b"p"
WRITE: Final = b"w"
_HEAD: Final = struct.Struct(">cII")
_DONE: Final = b"+"
_FAILED: Final = b"-"
_NICE: Final = 10
"""Large documents yield the cores to the event loop, which serves the small calls."""
_READ_BUFFER: Final = 4 * 1024 * 1024
_SKIP: Final = 1024 * 1024

_log = structlog.get_logger("gateway.rest")


class JsonProcess:
    """The gateway's side of one child process: one document at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None

    @property
    def pid(self) -> int | None:
        """The child's, once started."""
        return None if self._process is None else self._process.pid

    async def ask(
        self, kind: bytes, note: dict[str, Any], body: Buffer | bytearray, share: Share
    ) -> tuple[Any, Buffer]:
        """Send one document; returns the note and the body of the answer.

        Args:
            kind: `PARSE` or `WRITE`.
            note: arguments, as JSON.
            body: the document.
            share: counts the body, then the answer's body.

        Raises:
            FleetError: raised by the child.
            Exhausted: there is no room for the answer.
            Unavailable: the child died handling it.
        """
        try:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            raw = orjson.dumps(note)
            process.stdin.write(_HEAD.pack(kind, len(raw), len(body)) + raw)
            process.stdin.write(body)
            await process.stdin.drain()
            outcome, note_size, size = _HEAD.unpack(await process.stdout.readexactly(_HEAD.size))
            answer = orjson.loads(await process.stdout.readexactly(note_size))
            if not share.hold(size):
                await _skip(process.stdout, size)
                raise Exhausted(f"this gateway has no room for the {size} bytes of a document")
            result = memoryview(await process.stdout.readexactly(size))
        except (OSError, asyncio.IncompleteReadError, struct.error):
            await self.close()
            _log.error("the JSON process died handling a request", body_bytes=len(body))
            raise Unavailable("the request's JSON could not be handled: the process for large JSON died") from None
        except FleetError:
            raise
        except BaseException:
            await self.close()  # half a frame is in flight: this process cannot be used again
            raise
        if outcome != _DONE:
            raise FleetError(answer["message"], code=Code(answer["code"]))
        return answer, result

    async def close(self) -> None:
        """Kill the process."""
        starting, self._starting = self._starting, None
        process, self._process = self._process, None
        if starting is not None:
            with contextlib.suppress(OSError):
                process = await starting
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            code = f"import sys; sys.path[:] = {sys.path!r}; from gateway.rest.json_process import main; main()"
            start = asyncio.create_subprocess_exec(
                sys.executable, "-c", code,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_READ_BUFFER,
            )  # fmt: skip
            self._starting = asyncio.get_running_loop().create_task(start)
            self._process = await asyncio.shield(self._starting)  # `close` finds it if this is cancelled
            self._starting = None
        return self._process


async def _skip(stream: asyncio.StreamReader, size: int) -> None:
    while size:
        size -= len(await stream.readexactly(min(size, _SKIP)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    kind: bytes
    note: Any
    body: bytes


def main() -> None:
    """The child: answer frames until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    while frame := _read(sys.stdin.buffer):
        try:
            note, parts = _answer(frame)
            kind = _DONE
        except FleetError as error:
            kind, note, parts = _FAILED, {"code": error.code.value, "message": error.message}, []
        raw = orjson.dumps(note)
        sys.stdout.buffer.write(_HEAD.pack(kind, len(raw), sum([len(part) for part in parts])) + raw)
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> _Frame | None:
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, note_size, size = _HEAD.unpack(head)
    return _Frame(kind, orjson.loads(stream.read(note_size)), stream.read(size))


def _answer(frame: _Frame) -> tuple[dict[str, Any], list[Buffer]]:
    if frame.kind == PARSE:
        inputs, model = frame.note["generate"], frame.note["model"]
        if inputs is None:
            body = v2.parse_body(frame.body, frame.note["length"], model=model)
        else:
            body = parse_generate(frame.body, [(name, datatype, tuple(shape)) for name, datatype, shape in inputs])
        size = sum([len(each.data) for each in body.inputs])
        if size > MAX_RECORD:
            raise TooLarge(f"the request makes a record of {size} bytes; at most {MAX_RECORD} are allowed")
        note = {
            "label": body.id,
            "parameters": body.parameters,
            "inputs": [(each.name, each.datatype, each.shape, len(each.data)) for each in body.inputs],
            "outputs": [dataclasses.astuple(output) for output in body.outputs],
            "binary_default": body.binary_default,
            "shared": body.shared,
        }
        return note, [each.data for each in body.inputs]
    names = frame.note["binary"]
    reply = decode_reply(frame.body)
    if frame.note["generate"]:
        return {"header_length": None}, [write_generated(reply)]
    binary = names if isinstance(names, bool) else frozenset(names)
    rendered = render(reply, binary, frozenset(frame.note["elsewhere"]))
    return {"header_length": rendered.header_length}, rendered.parts
