"""`Penstock-Timing`: what an answer says about its times and its batch, over HTTP and gRPC. Pure.

Invariants: every number is at least 0; the stages never decrease, so that the times between them add up to the last one; a stage
that did not happen, or that the clocks of two hosts contradict, is left out, never guessed. Nothing that a worker wrote breaks the
header.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Final

from protocol.messages import Timing

STAGES: Final = ("publish", "fetch", "enqueue", "release", "compute_start", "compute_end", "emit", "wake")
"""In the order in which they happen."""
LONGEST: Final = 366 * 86400.0
"""Seconds. No request takes a year: a stage that late is another clock's error."""
_TEXTS: Final = 256
"""Parts of headers that are remembered, of each kind."""
_ALL: Final = b"publish=%d, fetch=%d, enqueue=%d, release=%d, compute_start=%d, compute_end=%d, emit=%d, wake=%d, %b%b"


def timing_value(stamps: Timing, woken: float) -> bytes:
    """The value of `Penstock-Timing`, a structured dictionary (RFC 8941); b"" if nothing is known.

    Stages are in microseconds since the gateway had read the request. After them come, if it ran in several batches, the
    microseconds in which at least one of them ran; the rows and requests of the batch, the attempt, the reason of the release, and
    the digest of the files that ran.

    Args:
        stamps: of the answer.
        woken: when the gateway received it for the call that made its request; 0 if it was read later, or by another call.
    """
    start = stamps.accepted
    if not stamps.computed and (
        0.0 < start <= stamps.published <= stamps.fetched <= stamps.enqueued <= stamps.released <= stamps.compute_start
        <= stamps.compute_end <= stamps.emitted <= woken <= start + LONGEST
    ):  # fmt: skip
        batch = _batch(stamps.batch_rows, stamps.batch_requests, stamps.attempt, stamps.reason)
        if batch:
            t0 = start - 5e-7  # so that truncation rounds
            return _ALL % (
                int((stamps.published - t0) * 1e6), int((stamps.fetched - t0) * 1e6), int((stamps.enqueued - t0) * 1e6),
                int((stamps.released - t0) * 1e6), int((stamps.compute_start - t0) * 1e6),
                int((stamps.compute_end - t0) * 1e6), int((stamps.emitted - t0) * 1e6), int((woken - t0) * 1e6), batch,
                _digest(stamps.digest),
            )  # fmt: skip
    return _what_is_known(stamps, woken)


def _what_is_known(stamps: Timing, woken: float) -> bytes:
    """The value without the stages that did not happen or contradict those before them, or the gateway's own clock."""
    start = stamps.accepted
    parts: list[bytes] = []
    if 0.0 < start < math.inf:
        last, end = start, woken if start <= woken <= start + LONGEST else start + LONGEST
        times = (
            stamps.published, stamps.fetched, stamps.enqueued, stamps.released, stamps.compute_start, stamps.compute_end,
            stamps.emitted, woken,
        )  # fmt: skip
        told: dict[str, int] = {}
        for name, at in zip(STAGES, times, strict=True):
            if last <= at <= end:
                told[name] = int((at - start) * 1e6 + 0.5)
                parts.append(b"%b=%d" % (name.encode(), told[name]))
                last = at
        parts += _computed(stamps.computed, told)
    if stamps.emitted > 0:
        batch = _batch(stamps.batch_rows, stamps.batch_requests, stamps.attempt, stamps.reason) + _digest(stamps.digest)
        parts += [batch.removeprefix(b", ")] if batch else []
    return b", ".join(parts)


def _computed(seconds: float, told: Mapping[str, int]) -> list[bytes]:
    """How long the model ran, if it is less than the time from its first start to its last end, and both are told."""
    if "compute_start" not in told or "compute_end" not in told or not 0.0 < seconds < LONGEST:
        return []
    microseconds = int(seconds * 1e6 + 0.5)
    return [b"compute=%d" % microseconds] if microseconds < told["compute_end"] - told["compute_start"] else []


@functools.lru_cache(_TEXTS)
def _batch(rows: int, requests: int, attempt: int, reason: str) -> bytes:
    """The batch's part of the value: the answers of one batch share it. What never ran has no rows."""
    numbers = (("rows", rows), ("requests", requests), ("attempt", attempt))
    parts = [b"%b=%d" % (name.encode(), number) for name, number in numbers if number > 0]
    if reason:
        parts.append(b"reason=" + _token(reason))
    return b", ".join(parts)


@functools.lru_cache(_TEXTS)
def _digest(text: str) -> bytes:
    """The digest as a parameter; nothing if it is malformed."""
    return b', digest="%s"' % text.encode() if text.isalnum() and text.isascii() else b""


def _token(text: str) -> bytes:
    """The text as a token; it comes from a worker, so it is checked."""
    token = text.replace(" ", "_")
    return token.encode() if token.isidentifier() and token.isascii() else b"other"
