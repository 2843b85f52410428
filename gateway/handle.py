"""The Location of a 202: a signed handle that any gateway of the fleet resolves. Pure.

A handle is `<payload>.<mac>`, both base64url without padding: the payload is a JSON list, the MAC is keyed BLAKE2b over it. Text of
this shape without a valid signature may be the id of a producer's request, because such ids are arbitrary.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

import orjson

from protocol.errors import InvalidArgument, NotFound, Unavailable

MAX_HANDLE: Final = 4096
"""Longest handle, in characters; it is part of a URL."""
_FORM: Final = 1
_MAC_BYTES: Final = 16
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{22}\Z")
MAX_KEYS: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Handle:
    """Identifies an accepted request and its record.

    Attributes:
        topic, partition, offset: of its record.
        id, principal: its fleet id and its caller.
        fingerprint: of its body, to claim it again after the result store has lost it.
        binary: outputs that the caller wants as raw bytes; True for all.
        classes: outputs of which the caller wants the highest classes, and how many.
        batches: whether the first dimension of these counts rows.
    """

    topic: str
    partition: int
    offset: int
    id: str
    principal: str
    fingerprint: str
    binary: frozenset[str] | bool = False
    classes: tuple[tuple[str, int], ...] = ()
    batches: bool = False


def is_handle(text: str) -> bool:
    """Whether the text has the shape of a handle; a request's id may have it too."""
    return _SHAPE.match(text) is not None


class Keyring:
    """The signing keys of a fleet: the newest one signs, all of them verify.

    Args:
        secret: configured on all gateways; "" if they agree on one through the catalogue (`background`).

    Attributes:
        given: whether a secret was configured.
    """

    __slots__ = ("_keys", "given")

    def __init__(self, secret: str) -> None:
        self.given = bool(secret)
        self._keys = [_key(secret.encode())] if secret else []

    def add(self, secret: bytes) -> None:
        """Add a secret that the gateways agreed on; ignored if one was configured."""
        key = _key(secret)
        if not self.given:
            self._keys = [key, *[other for other in self._keys if other != key]][:MAX_KEYS]

    def sign(self, handle: Handle) -> str:
        """See `sign`.

        Raises:
            InvalidArgument: as `sign`.
            Unavailable: there is no key yet.
        """
        if not self._keys:
            raise Unavailable("this gateway has no key to sign handles yet", retry_after=1.0)
        return sign(handle, self._keys[0])

    def verify(self, text: str) -> Handle:
        """See `verify`.

        Raises:
            NotFound: no key matches the signature.
        """
        return verify(text, self._keys)


def _key(secret: bytes) -> bytes:
    return hashlib.blake2b(secret, digest_size=32, person=b"penstock-handle").digest()


def sign(handle: Handle, key: bytes) -> str:
    """The handle as text for a URL.

    Raises:
        InvalidArgument: the names of its outputs are too long for a URL.
    """
    binary = handle.binary if isinstance(handle.binary, bool) else sorted(handle.binary)
    parts = [
        _FORM,
        handle.topic,
        handle.partition,
        handle.offset,
        handle.id,
        handle.principal,
        handle.fingerprint,
        binary,
    ]
    payload = orjson.dumps([*parts, handle.classes, handle.batches] if handle.classes else parts)
    text = f"{_encode(payload)}.{_encode(_mac(payload, key))}"
    if len(text) > MAX_HANDLE:
        raise InvalidArgument(
            f"the names of the requested outputs make a handle of {len(text)} characters; at most {MAX_HANDLE} are allowed: "
            "ask for all outputs in one form"
        )
    return text


def verify(text: str, keys: Iterable[bytes]) -> Handle:
    """Decode a handle that was signed with one of these keys.

    Raises:
        NotFound: no key matches the signature.
    """
    payload, _, mac = text.partition(".")
    try:
        if len(text) > MAX_HANDLE:
            raise ValueError(len(text))
        raw = _decode(payload)
        shown = _decode(mac)
        if not any(hmac.compare_digest(shown, _mac(raw, key)) for key in keys):
            raise ValueError(mac)
        form, topic, partition, offset, request_id, principal, fingerprint, binary, *classified = orjson.loads(raw)
        classes, batches = classified or ((), False)
        if form != _FORM:
            raise ValueError(form)
    except (ValueError, TypeError, binascii.Error):
        raise NotFound("no such request: this fleet did not issue the handle, or its signing secret changed") from None
    chosen = binary if isinstance(binary, bool) else frozenset(binary)
    named = tuple([(name, count) for name, count in classes])
    return Handle(topic, partition, offset, request_id, principal, fingerprint, chosen, named, batches)


def _mac(payload: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_MAC_BYTES, key=key).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
