"""The Location of a 202: a signed handle that any gateway can follow, whatever became of the one that gave it. Pure.

A handle is `<payload>.<mac>`, both base64url without padding: the payload is a JSON list, the MAC is keyed BLAKE2b over it. The dot
tells it from a request id, which is hexadecimal.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
from typing import Final

import orjson

from protocol.errors import InvalidArgument, NotFound

MAX_HANDLE: Final = 4096
"""Characters of a handle; it is part of a URL."""
_FORM: Final = 1
_MAC_BYTES: Final = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Handle:
    """Where an accepted request is.

    Attributes:
        topic, partition, offset: its record.
        id, principal: its fleet id and who asked.
        fingerprint: of its body, for claiming it again where the result store lost it.
        binary: which outputs the caller wants as raw bytes; True for all.
    """

    topic: str
    partition: int
    offset: int
    id: str
    principal: str
    fingerprint: str
    binary: frozenset[str] | bool = False


def is_handle(text: str) -> bool:
    """Whether the text is meant as a handle rather than as a request id."""
    return "." in text


def sign(handle: Handle, key: bytes) -> str:
    """The handle as text for a URL.

    Raises:
        InvalidArgument: the names of its outputs are too long for a URL.
    """
    binary = handle.binary if isinstance(handle.binary, bool) else sorted(handle.binary)
    payload = orjson.dumps(
        [_FORM, handle.topic, handle.partition, handle.offset, handle.id, handle.principal, handle.fingerprint, binary]
    )
    text = f"{_encode(payload)}.{_encode(_mac(payload, key))}"
    if len(text) > MAX_HANDLE:
        raise InvalidArgument(
            f"the names of the requested outputs make a handle of {len(text)} characters; at most {MAX_HANDLE} are allowed: "
            "ask for all outputs in one form"
        )
    return text


def verify(text: str, key: bytes) -> Handle:
    """The handle that was signed with this key.

    Raises:
        NotFound: it was not, or not with this key.
    """
    payload, _, mac = text.partition(".")
    try:
        if len(text) > MAX_HANDLE:
            raise ValueError(len(text))
        raw = _decode(payload)
        if not hmac.compare_digest(_decode(mac), _mac(raw, key)):
            raise ValueError(mac)
        form, topic, partition, offset, request_id, principal, fingerprint, binary = orjson.loads(raw)
        if form != _FORM:
            raise ValueError(form)
    except (ValueError, TypeError, binascii.Error):
        raise NotFound(
            "no such request: the handle was not given by this fleet, or its signing secret changed"
        ) from None
    chosen = binary if isinstance(binary, bool) else frozenset(binary)
    return Handle(topic, partition, offset, request_id, principal, fingerprint, chosen)


def _mac(payload: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_MAC_BYTES, key=key).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
