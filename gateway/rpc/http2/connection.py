"""One HTTP/2 connection: frames in, frames out, and the limits on both.

A peer that breaks a rule gets GOAWAY and is closed. What is written in one turn of the event loop goes out together.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Final, cast

from gateway.admission.budget import Budget, Share
from gateway.rest.unread import Unread
from gateway.rpc.http2 import frames, headers
from gateway.rpc.http2.call import Call, CallLimits
from gateway.rpc.http2.floods import FloodLimit
from gateway.rpc.http2.frames import ErrorCode, Fault, Flag, Kind, Setting
from gateway.rpc.http2.headers import CallHead, HeaderReader
from gateway.rpc.http2.past import PastCalls
from gateway.rpc.http2.sending import Window
from protocol.tensors import Buffer

CALLS: Final = 1024
"""Calls in flight on one connection."""
CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes of small messages that a connection may send before they are read. Large ones are granted when they are counted."""
LEAVES_WITHIN: Final = 5.0
"""Seconds in which a peer may close its end after GOAWAY."""
UNCOUNTED: Final = 4096
"""Bytes that a connection may hold without being counted."""
CONTINUATIONS: Final = 64
"""Frames of one header block."""
PAID: Final = 1024
"""Bytes of a DATA frame that cost its sender as much as us: what was on its way when a call ended may be many of them."""
_HEADERS: Final = Kind.HEADERS
_DATA: Final = Kind.DATA


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """What all connections of a server share.

    Attributes:
        begin: called with every new call.
        max_header_bytes: of a call's head, compressed and not.
        max_message_bytes: of a message, as received.
        max_connections: open at once.
        reserve, release: count bytes of large messages; `reserve` raises a FleetError if there is no room.
        uncounted: for bytes that no call counts yet.
        unread: bytes that peers do not read.
        open: the connections.
        clock: of the event loop.
    """

    begin: Callable[[Call], None]
    max_header_bytes: int
    max_message_bytes: int
    max_connections: int
    reserve: Callable[[int], None]
    release: Callable[[int], None]
    uncounted: Budget
    unread: Unread[Connection]
    open: dict[Connection, None]
    clock: Callable[[], float]


class Connection(asyncio.Protocol):
    """One connection. Implements `call.Carrier`.

    Attributes:
        calls: in flight, by stream.
        opened: when it was made, on the loop's clock.
        greeted: whether the peer has sent the preface.
        left: when GOAWAY was sent, after which the connection closes; 0 before.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._begun_data = (0, 0, 0)  # of a DATA frame that has come in part: stream, flags, bytes that are missing
        self._reader = HeaderReader(endpoint.max_header_bytes)
        self._block: tuple[int, int, list[bytes]] | None = None
        self._past = PastCalls(CALLS)
        self._window = CONNECTION_WINDOW
        self._unreported = 0
        self._sending = Window()
        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame = frames.DEFAULT_FRAME
        self._limits = self._call_limits()
        self._out: list[Buffer] = []
        self._waiting: dict[int, Call] = {}
        self._paused = self._scheduled = self._leaving = False
        self._floods = FloodLimit(endpoint.clock)
        self.calls: dict[int, Call] = {}
        self.opened = endpoint.clock()
        self.greeted = False
        self.left = 0.0
        self._share = Share(endpoint.uncounted)

    # --- asyncio ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._endpoint.open) >= self._endpoint.max_connections:
            self._transport.abort()
            return
        self._endpoint.open[self] = None
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: CALLS,
            Setting.MAX_FRAME_SIZE: frames.MAX_FRAME,
            Setting.MAX_HEADER_LIST_SIZE: self._endpoint.max_header_bytes,
        }
        self._write(frames.settings({int(name): value for name, value in settings.items()}))
        self._write(frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._leaving:
            return
        try:
            self._take(self._received + data if self._received else data)
            self._count()
        except Fault as fault:
            self.leave(fault.code, str(fault))

    def _count(self) -> None:
        """Count the bytes that wait for the rest of a frame, or for a handler.

        Raises:
            Fault: there is no room for them.
        """
        held = len(self._received) + max(CONNECTION_WINDOW - self._window - self._unreported, 0)
        if (held > UNCOUNTED or self._share.size) and not self._share.hold(held if held > UNCOUNTED else 0):
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "there is no room for more")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._leaving = True
        self._endpoint.open.pop(self, None)
        for call in list(self.calls.values()):
            self._gone(call)
        self._endpoint.unread.drop(self)
        self._share.free()
        self._transport = None
        self._received = b""
        self._out.clear()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True
        self.unread_changed()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        self._pump()
        self.unread_changed()

    # --- frames in ----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self.greeted:
            if not self._greeted_by(data):
                self._received = data
                return
            at = len(frames.PREFACE)
        view = memoryview(data)
        if self._begun_data[2]:
            at = self._more_data(view)
        while end - at >= frames.HEAD and not self._leaving:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size > frames.MAX_FRAME:
                raise Fault(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame has {size} bytes; at most {frames.MAX_FRAME} are allowed"
                )
            start = at + frames.HEAD
            kind, flags = data[at + 3], data[at + 4]
            whole = start + size <= end
            if not whole and (kind != _DATA or flags & Flag.PADDED):
                break
            stream = int.from_bytes(data[at + 5 : start], "big") & 0x7FFFFFFF
            if self._block is not None and kind != Kind.CONTINUATION:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "another frame interrupts a header block")
            at = start + size
            if kind != _DATA:
                self._frame(kind, flags, stream, data[start:at])
            elif whole:
                self._on_data(flags, stream, view[start:at])
            else:
                self._begun_data = stream, flags, size
                at = start + self._more_data(view[start:])
        self._received = data[at:]

    def _greeted_by(self, data: bytes) -> bool:
        """Whether the preface is whole.

        Raises:
            Fault: it is none.
        """
        if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
            raise Fault(ErrorCode.PROTOCOL_ERROR, "this port speaks gRPC, which is HTTP/2")
        self.greeted = len(data) >= len(frames.PREFACE)
        return self.greeted

    def _more_data(self, view: memoryview) -> int:
        """Take what has come of a DATA frame: large ones are not put together. Returns its bytes."""
        stream, flags, missing = self._begun_data
        taken = min(missing, len(view))
        self._begun_data = stream, flags, missing - taken
        if taken:
            self._on_data(0 if taken < missing else flags, stream, view[:taken])
        return taken

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._on_headers(flags, stream, payload)
        else:
            handler = _OTHERS.get(kind)
            if handler is not None:
                handler(self, flags, stream, payload)

    def _on_data(self, flags: int, stream: int, payload: memoryview) -> None:
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is exceeded")
        if flags & Flag.PADDED:
            payload = memoryview(frames.unpadded(bytes(payload), Flag.PADDED))
        call = self.calls.get(stream)
        if call is None:
            self._past.check_early(stream)
            self.consumed(size)
            if size < PAID:
                self._floods.count()
            return
        if call.ended:
            raise Fault(ErrorCode.STREAM_CLOSED, "a DATA frame follows the end of its call")
        call.window -= size
        if call.window < 0:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "a call's window is exceeded")
        self.consumed(size - len(payload))
        ends = bool(flags & Flag.END_STREAM)
        if not size and not ends:
            self._floods.count()
        call.feed(payload, end=ends)

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream % 2:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a client's stream numbers are odd")
        block = payload
        if flags & (Flag.PADDED | Flag.PRIORITY):
            block = frames.unpadded(payload, flags)
            if flags & Flag.PRIORITY:
                frames.check_dependency(stream, payload[1:] if flags & Flag.PADDED else payload)
        if flags & Flag.END_HEADERS:
            self._on_block(flags, stream, block)
        else:
            self._block = stream, flags, [block]

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION frame continues no header block")
        _, first, parts = self._block
        parts.append(payload)
        if len(parts) > CONTINUATIONS or sum(map(len, parts)) > self._endpoint.max_header_bytes:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & Flag.END_HEADERS:
            self._block = None
            self._on_block(first, stream, b"".join(parts))

    def _on_block(self, flags: int, stream: int, block: bytes) -> None:
        if len(block) > self._endpoint.max_header_bytes:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        known = self.calls.get(stream)
        if known is not None or stream <= self._past.last:
            self._reader.skip(block)
            if known is None:
                self._past.check_early(stream)
                self._floods.count()
            elif not flags & Flag.END_STREAM or known.ended:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "trailers do not end their call")
            else:
                known.feed(b"", end=True)
            return
        self._past.last = stream
        head = self._reader.read(block)
        if len(self.calls) >= CALLS:
            self._floods.count()
            self._end_early(stream, ErrorCode.REFUSED_STREAM)
            return
        self._begin(stream, head, ended=bool(flags & Flag.END_STREAM))

    def _begin(self, stream: int, head: CallHead, *, ended: bool) -> None:
        endpoint = self._endpoint
        call = Call(self, stream, head, endpoint.clock(), self._limits)
        call.ended = ended
        self.calls[stream] = call
        if head.method != "POST" or not head.content_type.startswith("application/grpc"):
            call.refuse(headers.http_status(405 if head.method != "POST" else 415))
        else:
            endpoint.begin(call)

    def _call_limits(self) -> CallLimits:
        """Those of calls that begin now."""
        endpoint = self._endpoint
        return CallLimits(
            endpoint.max_message_bytes, self._peer_window, frames.DEFAULT_WINDOW, endpoint.reserve, endpoint.release
        )

    def _on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        frames.parse_number(payload)
        call = self.calls.get(stream)
        if call is None:
            self._past.check_begun(stream)
            self._floods.count()
            return
        self._floods.count_reset()
        self._gone(call)

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a SETTINGS frame names a stream")
        if flags & Flag.ACK:
            if payload:
                raise Fault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS has a payload")
            return
        self._floods.count()
        for name, value in frames.parse_settings(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                for call in self.calls.values():
                    call.outgoing.window.grow(value - self._peer_window)
                self._peer_window = value
                self._limits = self._call_limits()
            elif name == Setting.MAX_FRAME_SIZE:
                self._peer_frame = min(value, frames.MAX_FRAME)
        self._write(frames.frame(Kind.SETTINGS, Flag.ACK, 0))
        self._pump()

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) != 8:
            raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a PING must have eight bytes and name no stream")
        if not flags & Flag.ACK:
            self._floods.count()
            self._write(frames.frame(Kind.PING, Flag.ACK, 0, payload))

    def _on_window(self, flags: int, stream: int, payload: bytes) -> None:
        more = frames.parse_number(payload)
        if not more:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE adds nothing")
        if not stream:
            self._sending.grow(more)
        elif (call := self.calls.get(stream)) is not None:
            call.outgoing.window.grow(more)
        else:
            self._past.check_begun(stream)
            return
        self._pump()

    def _on_push(self, flags: int, stream: int, payload: bytes) -> None:
        raise Fault(ErrorCode.PROTOCOL_ERROR, "a client must not push")

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY frame must have five bytes")
        frames.check_dependency(stream, payload)
        self._floods.count()

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a GOAWAY frame names a stream")
        self._floods.count()

    # --- out ----------------------------------------------------------------------------------------------------------

    def grant(self, stream: int, size: int) -> None:
        """See `Carrier`."""
        self._write(frames.window_update(stream, size))

    def expect(self, stream: int, size: int) -> None:
        """See `Carrier`."""
        self._window += size
        self._write(frames.window_update(0, size) + frames.window_update(stream, size))

    def consumed(self, size: int) -> None:
        """See `Carrier`."""
        self._unreported += size
        if self._share.size:
            self._count()
        if self._unreported >= CONNECTION_WINDOW // 4:
            more = min(self._unreported, CONNECTION_WINDOW - self._window)
            if more > 0:
                self._unreported -= more
                self._window += more
                self._write(frames.window_update(0, more))

    def send(self, call: Call, head: bytes) -> None:
        """See `Carrier`."""
        if self._transport is None:
            return
        if head:
            self._write(head)
        if self._waiting or self._paused:
            self._waiting[call.stream] = call
            self._pump()
        else:
            self._send_of(call)
        if call.outgoing.size:
            self.unread_changed()

    def allows(self, call: Call, size: int) -> bool:
        """See `Carrier`."""
        window = call.outgoing.window.size
        return size <= window and size <= self._sending.size and size <= self._peer_frame and not (
            self._waiting or self._paused or call.outgoing.size
        )  # fmt: skip

    def send_last(self, call: Call, data: bytes, size: int) -> None:
        """See `Carrier`."""
        if self._transport is None:
            return
        self._sending.size -= size
        self._write(data)
        self._finish(call)

    def _send_of(self, call: Call) -> None:
        """Send what the windows allow; the rest waits."""
        outgoing = call.outgoing
        ends = outgoing.last is not None
        for piece in outgoing.frames(self._sending, self._peer_frame):
            self._write(piece)
        if outgoing.size:
            self._waiting[call.stream] = call
            return
        self._waiting.pop(call.stream, None)
        call.sent()
        if ends:
            self._finish(call)

    def _finish(self, call: Call) -> None:
        """A call was answered."""
        if not call.ended:
            self._end_early(call.stream, ErrorCode.NO_ERROR)
        self.calls.pop(call.stream, None)
        call.close()
        self._floods.unheeded = 0

    def _end_early(self, stream: int, code: ErrorCode) -> None:
        """Tell the peer to send no more of a call; what is on its way is no fault."""
        self._write(frames.reset(stream, code))
        self._past.answered_early(stream)

    def _pump(self) -> None:
        """Send what waits, as far as windows and the transport allow, call by call."""
        waiting = bool(self._waiting)
        for call in list(self._waiting.values()):
            if self._paused or self._sending.size <= 0 < call.outgoing.size:
                break
            self._send_of(call)
        if waiting:
            self.unread_changed()

    def unread_changed(self) -> None:
        """See `Carrier`."""
        transport = self._transport
        if transport is None:
            return
        size = sum([call.outgoing.size for call in self._waiting.values()])
        if self._paused:
            size += transport.get_write_buffer_size()
        if not size:
            self._endpoint.unread.drop(self)
            return
        for other in self._endpoint.unread.hold(self, size):
            other.abort()

    def _write(self, data: Buffer) -> None:
        self._out.append(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.writelines(out)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _gone(self, call: Call) -> None:
        """The peer does not want a call any more."""
        self.calls.pop(call.stream, None)
        self._waiting.pop(call.stream, None)
        call.close()
        if call.task is not None:
            call.task.cancel()

    def leave(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Say goodbye and close; calls in flight are cancelled."""
        if self._transport is None or self._leaving:
            return
        self._leaving = True
        self.left = self._endpoint.clock()
        self._write(frames.goaway(self._past.last, code, text))
        self._flush()
        for call in list(self.calls.values()):
            self._gone(call)
        self._transport.close()

    def abort_if_silent(self, now: float, patience: float) -> None:
        """Close if the peer has not begun to speak within `patience` seconds, or does not close after GOAWAY."""
        if (not self.greeted and now - self.opened > patience) or (self.left and now - self.left > LEAVES_WITHIN):
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


_OTHERS: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    Kind.PRIORITY: Connection._on_priority,
    Kind.RST_STREAM: Connection._on_reset,
    Kind.SETTINGS: Connection._on_settings,
    Kind.PUSH_PROMISE: Connection._on_push,
    Kind.PING: Connection._on_ping,
    Kind.GOAWAY: Connection._on_goaway,
    Kind.WINDOW_UPDATE: Connection._on_window,
    Kind.CONTINUATION: Connection._on_continuation,
}
