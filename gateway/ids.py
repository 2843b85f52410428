"""Ids that a gateway generates: fleet ids, body fingerprints, and trace contexts for callers without one."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from protocol.errors import InvalidArgument

MAX_KEY: Final = 255
"""Longest `Idempotency-Key`, in characters."""
_POOL: Final = 512
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,200})?\Z"
)


class Ids:
    """Generates unguessable ids of 128 bits, as 32 hexadecimal digits. Random bytes are read in bulk."""

    __slots__ = ("_pool",)

    def __init__(self) -> None:
        self._pool: list[str] = []

    def __call__(self) -> str:
        """A new id."""
        if not self._pool:
            digits = secrets.token_hex(16 * _POOL)
            self._pool = [digits[at : at + 32] for at in range(0, len(digits), 32)]
        return self._pool.pop()


def keyed_id(principal: str, model: str, version: str, key: str) -> str:
    """The fleet id of a call with an `Idempotency-Key`: the same on every gateway.

    Args:
        principal: the caller.
        model: the model's name.
        version: as requested, "" for any.
        key: the header's value.

    Raises:
        InvalidArgument: the key is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY:
        raise InvalidArgument(f"Idempotency-Key has {len(key)} characters; it must have 1 to {MAX_KEY}")
    digest = hashlib.blake2b(digest_size=16, person=b"penstock-key")
    for part in (principal, model, version, key):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.hexdigest()


def fingerprint(body: bytes | bytearray | memoryview, header_length: str, *others: bytes | memoryview) -> str:
    """A digest of a request's body, and of `others` that it refers to: the same `Idempotency-Key` with another is refused."""
    digest = hashlib.blake2b(header_length.encode(), digest_size=16, person=b"penstock-body")
    for part in (body, *others):
        digest.update(part)
    return digest.hexdigest()


def trace_context(given: str, fleet_id: str) -> str:
    """The caller's W3C `traceparent` if it is valid, else a new one (not sampled) with the fleet id as trace id."""
    if given and _TRACEPARENT.match(given):
        return given
    return f"00-{fleet_id}-{fleet_id[16:]}-00"
