"""Rules about limits: memory does not grow with the requests (I9), logs keep unread records (I12). Pure."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterator
from typing import Final

from penstock.verify.judge.facts import Facts
from penstock.verify.judge.finding import Finding
from penstock.verify.observe.history import MemorySample
from penstock.verify.plan.plan import GATEWAYS, MODELS, PAD, WORKERS, CallKind

WARM: Final = 5.0
"""Seconds in which a new process allocates the memory that it needs."""
ROOM: Final = 32 * 1024 * 1024
"""Bytes by which it may grow after that, for waiting requests and allocator overhead."""
STEADY: Final = 0.25
"""A leak grows with the requests: each half of them has at least this share of the growth. A worker that reads a backlog takes up
to 49 MiB more (32 buffered, 17 in flight) and twice that as tensors, but only once.
"""
SURE: Final = 1.5
"""A process is judged if a leak would have made it grow by this many times `ROOM`."""
KEY_BYTES: Final = 8 * 1024
"""Allowed bytes in Redis per request: a stream takes 867 with the shipped settings, 4,448 with Redis' defaults."""
KEYS_BESIDE: Final = 1024 * 1024
_OVER_HTTP: Final = frozenset(CallKind) - {CallKind.DIRECT, CallKind.DUPLICATE, CallKind.GARBAGE}


def memory_is_bounded(facts: Facts) -> Iterator[Finding]:
    """I9."""
    by_process: dict[tuple[str, int], list[MemorySample]] = collections.defaultdict(list)
    for held in facts.history.memory:
        by_process[held.member, held.pid].append(held)
    sent = sorted(seen.sent for seen in facts.history.seen if seen.kind in _OVER_HTTP)
    for (member, pid), life in by_process.items():
        yield from _grown(member, pid, sorted(life, key=lambda held: held.at), sent)
    if facts.history.store_bytes is not None:
        requests = len({seen.ref for seen in facts.history.seen} | {record.ref for record in facts.history.logged})
        allowed = KEYS_BESIDE + KEY_BYTES * requests
        held_bytes = facts.history.store_bytes
        text = f"Redis holds {held_bytes} bytes for {requests} requests; {allowed} are allowed"
        yield Finding(text if held_bytes > allowed else "")


def _grown(member: str, pid: int, life: list[MemorySample], sent: list[float]) -> Iterator[Finding]:
    warm = [held for held in life if held.at <= life[0].at + WARM]
    if len(life) - len(warm) < 3:
        return
    # Gateways share the requests, and so do workers; an instance gets those for one model.
    parts = GATEWAYS if member.startswith("gateway") else WORKERS * len(MODELS)
    passed = sum(warm[-1].at < at < life[-1].at for at in sent)
    if passed * PAD / parts < SURE * ROOM:
        return
    base, end = max(held.rss for held in warm), statistics.median(held.rss for held in life[-3:])
    half = _rss_at(life, [at for at in sent if warm[-1].at < at < life[-1].at][passed // 2])
    leaks = end - base > ROOM and min(half - base, end - half) > STEADY * (end - base)
    text = f"process {pid} of {member} grew by {(end - base) / 1e6:.0f} MB while {passed} requests of {PAD} bytes were sent"
    yield Finding(text if leaks else "")


def _rss_at(life: list[MemorySample], moment: float) -> float:
    """The resident memory around a moment."""
    return statistics.median(held.rss for held in sorted(life, key=lambda held: abs(held.at - moment))[:3])


def nothing_unread_is_deleted(facts: Facts) -> Iterator[Finding]:
    """I12."""
    for sample in facts.history.samples:
        for place, start in sample.starts.items():
            committed = sample.committed.get(place, 0)
            yield Finding(f"{place} began at {start} while {committed} was committed" if start > committed else "")
