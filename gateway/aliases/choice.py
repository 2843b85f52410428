"""Which version of a route a call gets. Pure.

Invariants: only ready versions are chosen; over many calls each gets its part of the weights of the ready ones; a key gets the same
version while route and ready versions are the same, and keys of other versions keep theirs when one is not ready any more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

Weights = Sequence[tuple[str, int]]
"""(version, weight) with positive weights."""

_BITS = 53


def drawn(weights: Weights, ready: Collection[str], dice: float) -> str:
    """A version, by a random number; "" if none is ready.

    Args:
        weights: of the route.
        ready: versions that take calls.
        dice: 0 to 1, without 1.
    """
    total = sum([weight for version, weight in weights if version in ready])
    at = dice * total
    chosen = ""
    for version, weight in weights:
        if version in ready:
            chosen = version
            at -= weight
            if at < 0:
                break
    return chosen


def keyed(weights: Weights, ready: Collection[str], key: str) -> str:
    """A version, by a key: weighted rendezvous hashing; "" if none is ready."""
    best, chosen = -math.inf, ""
    for version, weight in weights:
        if version in ready:
            score = weight / -math.log(_uniform(key, version))
            if score > best:
                best, chosen = score, version
    return chosen


def primary(weights: Weights, ready: Collection[str]) -> str:
    """The version with the largest weight, of equal ones the highest; "" if none is ready. Metadata is that of this version."""
    among = [(weight, int(version), version) for version, weight in weights if version in ready]
    return max(among)[2] if among else ""


def _uniform(key: str, version: str) -> float:
    """A number between 0 and 1, both excluded, that is the same on every gateway."""
    digest = hashlib.blake2b(f"{version}\n{key}".encode(errors="replace"), digest_size=8).digest()
    return ((int.from_bytes(digest) >> (64 - _BITS)) + 0.5) / (1 << _BITS)
