"""Large JSON, away from the event loop: one child process parses and writes it.

A thread would not help: the parser holds the interpreter's lock for as long as it runs (90 ms for 16 MB). The child also keeps the
hundreds of megabytes that such a document takes while it is Python objects. It starts with the first large body, and ends when its
standard input does, so it cannot outlive its gateway.

A frame in either direction is `kind (1 byte), length of note (u32), length of body (u32), note (JSON), body`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

import orjson
import structlog

from gateway.rest.bodies import Binary, render
from protocol import v2
from protocol.codec import decode_reply, encode_reply
from protocol.errors import Code, FleetError, Unavailable
from protocol.messages import InferReply
from protocol.tensors import Buffer, Tensor
from protocol.v2 import InferBody, ReplyBody, RequestedOutput

_HEAD: Final = struct.Struct(">cII")
_PARSE: Final = b"p"
_WRITE: Final = b"w"
_DONE: Final = b"+"
_FAILED: Final = b"-"
_READ_BUFFER: Final = 4 * 1024 * 1024

_log = structlog.get_logger("gateway.rest")


class JsonProcess:
    """The gateway's side: one request at a time, in order."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def parse(self, body: Buffer | bytearray, length: int | None, model: str = "") -> InferBody:
        """As `v2.parse`; the tensors are views of one buffer.

        Raises:
            CodecError, Unsupported: naming what is wrong.
            Unavailable: the process died over it.
        """
        note, value = await self._ask(_PARSE, {"length": length, "model": model}, body)
        inputs, start = [], 0
        for name, datatype, shape, size in note["inputs"]:
            inputs.append(Tensor(name, datatype, tuple(shape), value[start : start + size]))
            start += size
        outputs = tuple([RequestedOutput(name, binary) for name, binary in note["outputs"]])
        return InferBody(note["label"], tuple(inputs), outputs, note["parameters"], note["binary_default"])

    async def render(self, reply: InferReply, binary: Binary) -> ReplyBody:
        """As `bodies.render`.

        Raises:
            CodecError: an output has no JSON form.
            Unavailable: the process died over it.
        """
        names = binary if isinstance(binary, bool) else sorted(binary)
        note, body = await self._ask(_WRITE, {"binary": names}, encode_reply(reply))
        return ReplyBody([body], note["header_length"])

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ask(self, kind: bytes, note: dict[str, Any], body: Buffer | bytearray) -> tuple[Any, memoryview]:
        async with self._turn:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                raw = orjson.dumps(note)
                process.stdin.write(_HEAD.pack(kind, len(raw), len(body)) + raw)
                process.stdin.write(body)
                await process.stdin.drain()
                outcome, note_size, size = _HEAD.unpack(await process.stdout.readexactly(_HEAD.size))
                answer = orjson.loads(await process.stdout.readexactly(note_size))
                result = memoryview(await process.stdout.readexactly(size))
            except (OSError, asyncio.IncompleteReadError, struct.error):
                await self.close()
                _log.error("the JSON process ended over a request", body_bytes=len(body))
                raise Unavailable("the request's JSON could not be handled: the process for large JSON ended") from None
            except BaseException:
                await self.close()  # half a frame is on its way: nothing more can be asked of this process
                raise
        if outcome != _DONE:
            raise FleetError(answer["message"], code=Code(answer["code"]))
        return answer, result

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            code = f"import sys; sys.path[:] = {sys.path!r}; from gateway.rest.json_process import main; main()"
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_READ_BUFFER,
            )  # fmt: skip
        return self._process


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    kind: bytes
    note: Any
    body: bytes


def main() -> None:
    """The child's side: answer frames until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    if frame.kind == _PARSE:
        body = v2.parse(frame.body, frame.note["length"], model=frame.note["model"])
        note = {
            "label": body.id,
            "parameters": body.parameters,
            "inputs": [(each.name, each.datatype, each.shape, len(each.data)) for each in body.inputs],
            "outputs": [(output.name, output.binary) for output in body.outputs],
            "binary_default": body.binary_default,
        }
        return note, [each.data for each in body.inputs]
    names = frame.note["binary"]
    rendered = render(decode_reply(frame.body), names if isinstance(names, bool) else frozenset(names))
    return {"header_length": rendered.header_length}, rendered.parts
