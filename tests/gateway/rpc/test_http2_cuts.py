"""A connection's bytes, cut anywhere: TCP keeps no borders, neither of frames nor of messages."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.budget import Budget
from gateway.rest.unread import Unread
from gateway.rpc.http2.call import Call
from gateway.rpc.http2.connection import Connection, Endpoint
from gateway.rpc.http2.frames import DEFAULT_FRAME, PREFACE, Flag, Kind, frame
from gateway.rpc.http2.frames import settings as settings_frame
from tests.gateway.rpc.test_http2 import HEAD


class Wire(asyncio.Transport):
    """Takes what the connection writes, and forgets it."""

    closed = False

    def writelines(self, list_of_data: Any) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


def call_frames(encoder: Encoder, stream: int, content: bytes, padded: bool) -> bytes:
    """A call with one message, in DATA frames of the largest default size."""
    raw = b"\0" + struct.pack(">I", len(content)) + content
    pieces = [raw[at : at + DEFAULT_FRAME] for at in range(0, len(raw), DEFAULT_FRAME)]
    if padded:
        data = [frame(Kind.DATA, Flag.PADDED, stream, b"\2" + piece + b"\0\0") for piece in pieces]
    else:
        data = [frame(Kind.DATA, 0, stream, piece) for piece in pieces]
    end = frame(Kind.DATA, Flag.END_STREAM, stream)
    return b"".join([frame(Kind.HEADERS, Flag.END_HEADERS, stream, encoder.encode(HEAD)), *data, end])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.booleans()), min_size=1, max_size=4),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    st.randoms(),
)
def test_every_call_gets_its_message_however_the_bytes_are_cut(
    calls: list[tuple[int, bool]], cuts: list[int], dice: Any
) -> None:
    encoder = Encoder()
    sent = {2 * index + 1: dice.randbytes(size) for index, (size, _) in enumerate(calls)}
    wire_bytes = PREFACE + settings_frame({})
    wire_bytes += b"".join(
        call_frames(encoder, stream, content, padded)
        for (stream, content), (_, padded) in zip(sent.items(), calls, strict=True)
    )
    got: dict[int, bytes] = {}

    async def work(call: Call) -> None:
        received = await call.read()
        assert received is not None
        got[call.stream] = bytes(received.data)
        call.finish(0, message=[b"done"])

    async def play() -> None:
        loop = asyncio.get_running_loop()

        def begin(call: Call) -> None:
            call.task = loop.create_task(work(call))

        budget = Budget(1 << 30)
        endpoint = Endpoint(
            begin,
            16_384,
            1 << 20,
            10,
            lambda size: None,
            lambda size: None,
            budget,
            Unread(Budget(1 << 30)),
            {},
            loop.time,
        )
        wire, connection = Wire(), Connection(endpoint)
        connection.connection_made(wire)
        at = turn = 0
        while at < len(wire_bytes):
            piece = wire_bytes[at : at + cuts[turn % len(cuts)]]
            at, turn = at + len(piece), turn + 1
            connection.data_received(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        assert not wire.closed
        assert not connection.calls
        assert budget.used == 0
        connection.connection_lost(None)

    asyncio.run(play())
    assert got == sent
