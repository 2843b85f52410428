"""Which frames of a call that is not in flight are a fault. Pure."""

from __future__ import annotations

from gateway.rpc.http2.frames import ErrorCode, Fault


class PastCalls:
    """The calls of one connection that were begun.

    Args:
        most: as many calls are known to have been answered early.

    Attributes:
        last: the number of the newest call.
    """

    __slots__ = ("_early", "_most", "last")

    def __init__(self, most: int) -> None:
        self.last = 0
        self._most = most
        self._early: dict[int, None] = {}

    def answered_early(self, stream: int) -> None:
        """A call was answered before its peer had sent everything: what is on its way is no fault."""
        self._early[stream] = None
        if len(self._early) > self._most:
            self._early.pop(next(iter(self._early)))

    def check_begun(self, stream: int) -> None:
        """Check the number in a frame that is allowed after a call's end.

        Raises:
            Fault: no such call was begun.
        """
        if not stream or stream > self.last or not stream % 2:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a frame belongs to a call that was not begun")

    def check_early(self, stream: int) -> None:
        """Check the number in a frame that is allowed only if its peer may not know yet that the call was answered.

        Raises:
            Fault: no such call was begun, or its peer has ended it.
        """
        self.check_begun(stream)
        if stream not in self._early:
            raise Fault(ErrorCode.STREAM_CLOSED, "a frame follows the end of its call")
