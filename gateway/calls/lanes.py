"""Which lane a call's request joins. Pure."""

from __future__ import annotations

from typing import Final

from protocol.errors import InvalidArgument, quoted
from protocol.messages import Lane, Parameters

PARAMETER: Final = "lane"
"""V2 request parameter that names the lane."""
_BY_NAME: Final = {lane.value: lane for lane in Lane}


def parse_lane(value: object, where: str) -> Lane:
    """The lane of this name.

    Args:
        where: what has the value, for the error.

    Raises:
        InvalidArgument: there is no such lane.
    """
    lane = _BY_NAME.get(value) if isinstance(value, str) else None
    if lane is None:
        raise InvalidArgument(f"{where} must be 'batch' or 'interactive', not {quoted(value)}")
    return lane


def lane_of(header: Lane | None, parameters: Parameters) -> Lane:
    """The lane that a call asks for, in its header or its parameter; interactive if in neither.

    Raises:
        InvalidArgument: the parameter names no lane, or another one than the header.
    """
    if PARAMETER not in parameters:
        return header or Lane.INTERACTIVE
    lane = parse_lane(parameters[PARAMETER], f"parameter '{PARAMETER}'")
    if header not in (None, lane):
        raise InvalidArgument(f"Penstock-Lane is '{header}', but parameter '{PARAMETER}' is '{lane}'")
    return lane
