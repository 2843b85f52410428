"""HTTP/2 as a stranger speaks it: faults end their connection with a code, and nobody else notices. Raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc.http2 import connection as limits
from gateway.rpc.http2 import headers
from gateway.rpc.http2.frames import PREFACE, ErrorCode, Fault, Flag, Kind, Setting, frame, reset, window_update
from gateway.rpc.http2.frames import settings as settings_frame
from gateway.rpc.http2.headers import HeaderReader
from gateway.rpc.http2.messages import LARGE, MessageReader
from protocol.errors import CodecError, FleetError, TooLarge
from tests.gateway.fleet import ANY, Running, Site, until
from tests.gateway.rpc.stub import INFER, infer_request, stub

HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "x"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip
END_HEADERS = Flag.END_HEADERS


def message(size: int | None = None) -> bytes:
    """A gRPC message: add_sub's, or zeros for the model that takes any shape."""
    request = infer_request() if size is None else infer_request("any", (bytes(4 * size),), ("IN",), shape=(size,))
    raw: bytes = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(raw)) + raw


class Peer:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = Encoder(), Decoder()

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def head(self, stream: int, fields: list[tuple[str, str]] | None = None, flags: int = END_HEADERS) -> bytes:
        return frame(Kind.HEADERS, flags, stream, self.encoder.encode(HEAD if fields is None else fields))

    async def frame(self) -> tuple[int, int, int, bytes]:
        """(kind, flags, stream, payload) of the next frame that says something."""
        while True:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] not in (Kind.SETTINGS, Kind.WINDOW_UPDATE):
                return head[3], head[4], int.from_bytes(head[5:9], "big"), payload

    async def goodbye(self) -> ErrorCode:
        """The code of GOAWAY, after which the connection is closed."""
        while True:
            kind, _, _, payload = await self.frame()
            if kind == Kind.GOAWAY:
                with contextlib.suppress(ConnectionError):
                    assert await self.reader.read() == b""
                return ErrorCode(int.from_bytes(payload[4:8], "big"))

    async def status(self, stream: int) -> dict[str, str]:
        """The trailers of a call."""
        fields: dict[str, str] = {}
        while True:
            kind, flags, number, payload = await self.frame()
            if kind == Kind.HEADERS and number == stream:
                fields |= dict(self.decoder.decode(payload))
                if flags & Flag.END_STREAM:
                    return fields


@contextlib.asynccontextmanager
async def peer(running: Running, *, greets: bool = True) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.grpc_port)
    made = Peer(reader, writer)
    if greets:
        made.send(PREFACE, settings_frame({}))
    try:
        async with asyncio.timeout(15):
            yield made
    finally:
        writer.close()


FAULTS: dict[str, tuple[ErrorCode, Any]] = {
    "another preface": (ErrorCode.PROTOCOL_ERROR, lambda p: b"GET / HTTP/1.1\r\n\r\n" + bytes(9)),
    "a frame that is too large": (ErrorCode.FRAME_SIZE_ERROR, lambda p: b"\xff\xff\xff\0\0\0\0\0\1"),
    "data of no call": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.DATA, 0, 7, b"x")),
    "data of the connection": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.DATA, 0, 0, b"x")),
    "an even call": (ErrorCode.PROTOCOL_ERROR, lambda p: p.head(2)),
    "a reset of no call": (ErrorCode.PROTOCOL_ERROR, lambda p: reset(9, ErrorCode.CANCEL)),
    "a push": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.PUSH_PROMISE, 4, 1, bytes(8))),
    "settings of a call": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.SETTINGS, 0, 1)),
    "a part of a setting": (ErrorCode.FRAME_SIZE_ERROR, lambda p: frame(Kind.SETTINGS, 0, 0, bytes(5))),
    "a window that is too large": (ErrorCode.FLOW_CONTROL_ERROR, lambda p: settings_frame({4: 2**31})),
    "a window that grows too much": (ErrorCode.FLOW_CONTROL_ERROR, lambda p: 2 * window_update(0, 2**31 - 1)),
    "a window that grows by nothing": (ErrorCode.PROTOCOL_ERROR, lambda p: window_update(0, 0)),
    "a ping of seven bytes": (ErrorCode.FRAME_SIZE_ERROR, lambda p: frame(Kind.PING, 0, 0, bytes(7))),
    "headers that are none": (ErrorCode.COMPRESSION_ERROR, lambda p: frame(Kind.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff")),
    "headers without a path": (ErrorCode.PROTOCOL_ERROR, lambda p: p.head(1, HEAD[:2])),
    "a pseudo-header behind others": (ErrorCode.PROTOCOL_ERROR, lambda p: p.head(1, [*HEAD, ("a", "b"), (":path", "/")])),
    "an upper-case header": (ErrorCode.PROTOCOL_ERROR, lambda p: p.head(1, [*HEAD, ("A", "b")])),
    "an interrupted block": (ErrorCode.PROTOCOL_ERROR, lambda p: p.head(1, flags=0) + frame(Kind.PING, 0, 0, bytes(8))),
    "a block that was not begun": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.CONTINUATION, 4, 1, b"")),
    "a block without an end": (
        ErrorCode.ENHANCE_YOUR_CALM, lambda p: p.head(1, flags=0) + 80 * frame(Kind.CONTINUATION, 0, 1, b""),
    ),
    "a head that is too large": (ErrorCode.ENHANCE_YOUR_CALM, lambda p: p.head(1, [*HEAD, ("a", "b" * 60_000)])),
    "a head that inflates": (ErrorCode.ENHANCE_YOUR_CALM, lambda p: p.head(1, [*HEAD, *[("aaaa", "b" * 2000)] * 100])),
    "more padding than payload": (ErrorCode.PROTOCOL_ERROR, lambda p: frame(Kind.HEADERS, 4 | 8, 1, b"\x09ab")),
    "a call beyond its window": (ErrorCode.FLOW_CONTROL_ERROR, lambda p: p.head(1) + 2 * frame(Kind.DATA, 0, 1, bytes(40_000))),
    "a call that goes on after its end": (
        ErrorCode.STREAM_CLOSED,
        lambda p: p.head(1) + frame(Kind.DATA, 1, 1, message()) + frame(Kind.DATA, 0, 1, b"x"),
    ),
    "empty frames without end": (ErrorCode.ENHANCE_YOUR_CALM, lambda p: p.head(1) + 1100 * frame(Kind.DATA, 0, 1)),
    "pings without end": (ErrorCode.ENHANCE_YOUR_CALM, lambda p: 1100 * frame(Kind.PING, 0, 0, bytes(8))),
    "settings without end": (ErrorCode.ENHANCE_YOUR_CALM, lambda p: 1100 * settings_frame({4: 70_000})),
    "resets without end": (
        ErrorCode.ENHANCE_YOUR_CALM,
        lambda p: b"".join(p.head(n) + reset(n, ErrorCode.CANCEL) for n in range(1, 2300, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_ends_its_connection_and_no_other(fleet: Site, fault: str) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    code, sent = FAULTS[fault]
    async with stub(running) as client:
        await client.infer()
        async with peer(running, greets=fault != "another preface") as stranger:
            stranger.send(sent(stranger))
            assert await stranger.goodbye() is code
        assert (await client.infer()).model_name == "add_sub"
    server: Any = running.gateway._grpc
    await until(lambda: not server._calls)
    admission = running.gateway.service.admission
    assert (admission.calls, admission.size) == (0, 0)


async def test_what_is_no_grpc_call_gets_an_http_status(fleet: Site) -> None:
    running = await fleet.gateway(grpc_port=0)
    async with peer(running) as stranger:
        for stream, fields, status in (
            (1, [(":method", "GET"), *HEAD[1:]], "405"),
            (3, [*HEAD[:5], ("content-type", "text/html")], "415"),
        ):
            stranger.send(stranger.head(stream, fields, END_HEADERS | Flag.END_STREAM))
            assert (await stranger.status(stream))[":status"] == status
        stranger.send(stranger.head(5, [*HEAD[:2], (":path", "/nope/Nope"), *HEAD[3:]]))
        assert (await stranger.status(5))["grpc-status"] == "12"


async def test_messages_in_pieces_padded_and_with_trailers_are_read(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with peer(running) as stranger:
        raw = message()
        block = stranger.encoder.encode(HEAD)
        stranger.send(frame(Kind.HEADERS, 0, 1, block[:3]), frame(Kind.CONTINUATION, END_HEADERS, 1, block[3:]))
        for byte in raw[:20]:
            stranger.send(frame(Kind.DATA, 0, 1, bytes((byte,))))
        padded = bytes((7,)) + raw[20:] + bytes(7)
        stranger.send(frame(Kind.DATA, Flag.PADDED, 1, padded))
        stranger.send(stranger.head(1, [("x-sum", "1")], END_HEADERS | Flag.END_STREAM))
        assert (await stranger.status(1))["grpc-status"] == "0"


async def test_an_answer_waits_for_the_window_of_its_caller(fleet: Site) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0)
    async with peer(running, greets=False) as stranger:
        stranger.send(PREFACE, settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
        stranger.send(stranger.head(1), frame(Kind.DATA, Flag.END_STREAM, 1, message(1000)))
        received = b""
        while True:
            kind, flags, _, payload = await stranger.frame()
            if kind == Kind.DATA:
                received += payload
                assert len(payload) <= 500
                stranger.send(window_update(1, 500))
            elif flags & Flag.END_STREAM:
                break
        assert len(received) > 4000
        assert int.from_bytes(received[1:5], "big") == len(received) - 5
    assert not running.gateway.service.budgets.unread.used


async def test_a_caller_that_does_not_read_is_counted_and_cut_off(fleet: Site) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0, max_queued_bytes=2_000_000)
    unread = running.gateway.service.budgets.unread
    async with peer(running) as stranger:
        stranger.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 0}))
        for stream in range(1, 201, 2):
            if stranger.writer.transport.is_closing():
                break
            stranger.send(stranger.head(stream), frame(Kind.DATA, Flag.END_STREAM, stream, message(3000)))
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await stranger.reader.read()
            while await stranger.reader.read(65536):
                pass
    await until(lambda: unread.used == 0)
    assert unread.refused


async def test_bytes_that_wait_for_more_are_counted(fleet: Site) -> None:
    running = await fleet.gateway(grpc_port=0, max_queued_bytes=400_000)
    budget = running.gateway.service.budgets.unauthenticated
    async with contextlib.AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(peer(running)) for _ in range(2)]
        for each in waiting:
            each.send(bytes.fromhex("00ffff") + b"\0\0\0\0\0\1" + bytes(40_000))
            await until(lambda: budget.used > 39_000)
        await until(lambda: budget.used > 79_000)
        third = await stack.enter_async_context(peer(running))
        third.send(bytes.fromhex("00ffff") + b"\0\0\0\0\0\1" + bytes(40_000))
        assert await third.goodbye() is ErrorCode.ENHANCE_YOUR_CALM
    await until(lambda: budget.used == 0)


async def test_a_large_message_is_counted_before_its_bytes_come(fleet: Site) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0)
    admission = running.gateway.service.admission
    raw = message(500_000)
    async with peer(running) as stranger:
        stranger.send(stranger.head(1), frame(Kind.DATA, 0, 1, raw[:5]))
        await until(lambda: admission.size >= len(raw) - 5)
        stranger.send(reset(1, ErrorCode.CANCEL))
        await until(lambda: admission.size == 0)
    async with stub(running) as client:
        request = infer_request("any", (bytes(2_000_000),), ("IN",), shape=(500_000,))
        assert len((await client.infer(request)).raw_output_contents[0]) == 2_000_000
    assert admission.size == 0


async def test_a_request_that_does_not_come_is_ended(fleet: Site) -> None:
    running = await fleet.gateway(grpc_port=0, read_timeout=0.2)
    async with peer(running) as stranger:
        stranger.send(stranger.head(1))
        assert (await stranger.status(1))["grpc-status"] == "4"
    async with peer(running, greets=False) as silent:
        with contextlib.suppress(ConnectionError):
            while await silent.reader.read(1000):
                pass


async def test_only_so_many_connections_are_open(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0, max_connections=2)
    async with peer(running) as first, peer(running) as second:
        for each in (first, second):
            each.send(each.head(1), frame(Kind.DATA, Flag.END_STREAM, 1, message()))
            assert (await each.status(1))["grpc-status"] == "0"
        async with peer(running) as third:
            with contextlib.suppress(ConnectionError):
                assert await third.reader.read() == b""


async def test_more_calls_than_allowed_are_refused_and_may_be_sent_again(
    fleet: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLS", 2)
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with peer(running) as stranger:
        for stream in (1, 3, 5):
            stranger.send(stranger.head(stream), frame(Kind.DATA, Flag.END_STREAM, stream, message()))
        kind, _, stream, payload = await stranger.frame()
        assert (kind, stream, int.from_bytes(payload, "big")) == (Kind.RST_STREAM, 5, ErrorCode.REFUSED_STREAM)
        worker.open.set()
        assert (await stranger.status(1))["grpc-status"] == "0"


fields = st.lists(
    st.tuples(st.sampled_from(["a", "grpc-timeout", "x-bin", "b"]), st.sampled_from(["", "1S", "YQ", "v" * 50])),
    max_size=5,
)


@given(st.lists(fields, max_size=12), st.booleans())
def test_remembered_heads_are_those_of_a_fresh_reader(heads: list[list[tuple[str, str]]], huffman: bool) -> None:
    encoder, plain, reader = Encoder(), Decoder(), HeaderReader(32_768)
    for more in heads:
        block = encoder.encode([*HEAD, *more], huffman=huffman)
        assert reader.read(block) == headers._head(
            [(bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)]
        )


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_block_is_a_head_or_a_fault(blocks: list[bytes]) -> None:
    reader = HeaderReader(32_768)
    for block in blocks:
        with contextlib.suppress(Fault):
            reader.read(block)


@given(st.integers(0, 40_000_000), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300))
def test_what_we_write_is_hpack(status: int, text: str) -> None:
    block = headers.RESPONSE + headers.trailers(status % 17, text, [("x-y", text)])
    found = dict(Decoder(max_header_list_size=2**20).decode(block))
    assert (found[":status"], found["grpc-status"], found["x-y"]) == ("200", str(status % 17), text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1S", 1.0), ("20m", 0.02), ("1H", 3600.0), ("5", None), ("123456789S", None), ("xS", None)]
)
def test_timeouts(text: str, seconds: float | None) -> None:
    assert headers.parse_timeout(text) == seconds


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 90_000), max_size=4), st.lists(st.integers(1, 50_000), min_size=1, max_size=8), st.randoms()
)
def test_messages_are_those_that_were_sent_however_they_are_cut(sizes: list[int], cuts: list[int], dice: Any) -> None:
    sent = [dice.randbytes(size) for size in sizes]
    stream = b"".join([bytes((index % 2,)) + struct.pack(">I", len(raw)) + raw for index, raw in enumerate(sent)])
    begun: list[int] = []
    reader, got, at, turn = MessageReader(100_000), [], 0, 0
    while at < len(stream) or not at:
        piece = stream[at : at + cuts[turn % len(cuts)]]
        at, turn = at + max(1, len(piece)), turn + 1
        reader.add(piece)
        while (message_ := reader.next(begun.append)) is not None:
            got.append((bytes(message_.data), message_.compressed))
    assert got == [(raw, bool(index % 2)) for index, raw in enumerate(sent)]
    assert not reader.partial
    assert all(size > LARGE for size in begun)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_messages_or_refused(pieces: list[bytes]) -> None:
    def begin(size: int) -> None:
        raise FleetError("no room")

    reader = MessageReader(50_000)
    for piece in pieces:
        reader.add(piece)
        try:
            while reader.next(begin) is not None:
                pass
        except (CodecError, TooLarge, FleetError):
            return
