"""Who calls, and how: a call's metadata, read before its message. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from gateway.calls.lanes import parse_lane
from gateway.forwarding import ForwardedHeaders
from gateway.rest.access import Access
from protocol.errors import InvalidArgument, quoted
from protocol.messages import ANONYMOUS, Lane, Parameters

NOT_FORWARDED: Final = ForwardedHeaders("")
_KEYS: Final = ("x-api-key", "authorization")
_TRUE: Final = "true"
COMPRESSION: Final = "penstock-compression"
"""Metadata that asks for compressed answers: gRPC's own `grpc-accept-encoding` only says what a client can read."""


@dataclasses.dataclass(slots=True)
class Caller:
    """What a call's metadata says.

    Attributes:
        principal: its caller.
        lane: None if it names none.
        traceparent: W3C trace context, or "".
        key: its idempotency key; None without one.
        closes_on_error: whether the first error ends a stream (Triton's `triton_grpc_error`).
        compression: of the answers, "gzip" or "deflate"; "" for none.
        forwarded: metadata that becomes parameters of its requests.
    """

    principal: str = ANONYMOUS
    lane: Lane | None = None
    traceparent: str = ""
    key: str | None = None
    closes_on_error: bool = False
    compression: str = ""
    forwarded: Parameters = dataclasses.field(default_factory=dict)


def caller_of(
    metadata: Iterable[tuple[str, str | bytes]],
    access: Access,
    *,
    guarded: bool = True,
    category: str = "inference",
    forwarding: ForwardedHeaders = NOT_FORWARDED,
) -> Caller:
    """The caller of this metadata.

    Args:
        guarded: whether the call needs the API key, if there is one.
        category: of its method, for restrictions.
        forwarding: which metadata becomes parameters.

    Raises:
        FleetError: UNAUTHENTICATED; the key is missing or wrong. PERMISSION_DENIED; the method is restricted.
        InvalidArgument: an entry has a value that it cannot have, or comes twice.
    """
    fields: dict[str, str] = {}
    for name, value in metadata:
        if name == "user-agent":
            continue
        if name.startswith("penstock-") and name in fields:
            raise InvalidArgument(f"metadata '{name}' comes twice")
        if isinstance(value, str):
            fields[name] = value
    if not fields and access.restrictions.open and (access.open or not guarded):
        return Caller()
    if not access.restrictions.open:
        access.restrictions.check(category, {name.encode(): value.encode() for name, value in fields.items()})
    shown = {name.encode(): fields[name].encode() for name in _KEYS if name in fields}
    principal = access.principal(shown) if guarded else ANONYMOUS
    lane = fields.get("penstock-lane")
    if "penstock-timeout-ms" in fields:
        raise InvalidArgument(
            f"metadata 'penstock-timeout-ms' is {quoted(fields['penstock-timeout-ms'])}; a gRPC call has its own deadline: set that"
        )
    return Caller(
        principal,
        None if lane is None else parse_lane(lane, "metadata 'penstock-lane'"),
        fields.get("traceparent", ""),
        fields.get("idempotency-key"),
        fields.get("triton_grpc_error", "").lower() == _TRUE,
        _compression(fields.get(COMPRESSION, "")),
        forwarding.parameters(fields.items()) if forwarding.open else {},
    )


def _compression(asked: str) -> str:
    if asked not in ("", "identity", "gzip", "deflate"):
        raise InvalidArgument(f"metadata '{COMPRESSION}' must be gzip, deflate or identity, not {quoted(asked)}")
    return "" if asked == "identity" else asked
