"""Rules about limits: memory that does not grow with the requests, and logs that keep what is unread. Pure."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterator
from typing import Final

from penstock.verify.facts import Facts
from penstock.verify.finding import Finding
from penstock.verify.history import Held
from penstock.verify.plan import GATEWAYS, MODELS, PAD, WORKERS, Kind

WARM: Final = 5.0
"""Seconds in which a process that was started takes what it needs."""
ROOM: Final = 32 * 1024 * 1024
"""Bytes by which it may still grow: what waits in it at once, and what its allocator keeps of that."""
SURE: Final = 1.5
"""A process is judged where one that leaked would have grown by so many times `ROOM`."""
KEY_BYTES: Final = 8 * 1024
"""Of Redis, per request: with the settings that are shipped a stream takes 867 bytes, with Redis' defaults 4,448."""
KEYS_BESIDE: Final = 1024 * 1024
_OVER_HTTP: Final = frozenset(Kind) - {Kind.DIRECT, Kind.DUPLICATE, Kind.GARBAGE}


def memory_is_bounded(facts: Facts) -> Iterator[Finding]:
    """I9."""
    by_process: dict[tuple[str, int], list[Held]] = collections.defaultdict(list)
    for held in facts.history.memory:
        by_process[held.member, held.pid].append(held)
    sent = sorted(seen.sent for seen in facts.history.seen if seen.kind in _OVER_HTTP)
    for (member, pid), life in by_process.items():
        yield from _grown(member, pid, sorted(life, key=lambda held: held.at), sent)
    if facts.history.store_bytes is not None:
        requests = len({seen.ref for seen in facts.history.seen} | {record.ref for record in facts.history.logged})
        allowed = KEYS_BESIDE + KEY_BYTES * requests
        held_bytes = facts.history.store_bytes
        text = f"Redis holds {held_bytes} bytes for {requests} requests, and {allowed} are allowed"
        yield Finding(text if held_bytes > allowed else "")


def _grown(member: str, pid: int, life: list[Held], sent: list[float]) -> Iterator[Finding]:
    warm = [held for held in life if held.at <= life[0].at + WARM]
    if len(life) - len(warm) < 3:
        return
    # A gateway gets its part of the requests, a worker its part, and an instance of it those for one model.
    parts = GATEWAYS if member.startswith("gateway") else WORKERS * len(MODELS)
    passed = sum(warm[-1].at < at < life[-1].at for at in sent)
    if passed * PAD / parts < SURE * ROOM:
        return
    grown = statistics.median(held.rss for held in life[-3:]) - max(held.rss for held in warm)
    text = f"process {pid} of {member} grew by {grown / 1e6:.0f} MB while {passed} requests of {PAD} bytes were sent"
    yield Finding(text if grown > ROOM else "")


def nothing_unread_is_deleted(facts: Facts) -> Iterator[Finding]:
    """I12."""
    for sample in facts.history.samples:
        for place, start in sample.starts.items():
            committed = sample.committed.get(place, 0)
            yield Finding(f"{place} began at {start} while {committed} was committed" if start > committed else "")
