"""Where a result suite runs, and what its tests share.

A gateway or worker of its own is a store of its own (`Site.connect`); a crash is a call that never comes.
Nothing here sleeps for a fixed time: tests wait for a condition, or for the ttl under test.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from protocol.naming import Names
from protocol.ports import Claim, Directory, FinishOutcome, RequestState, Results, Wake

POLL = 0.01
CLOCK_ERROR = 0.02
SHORT_TTL = 0.4
INLINE_LIMIT = 16 * 1024
CALL_LIMIT = 256 * 1024
NOT_TEXT = bytes(range(256))
WRITTEN, ALREADY = FinishOutcome.WRITTEN, FinishOutcome.ALREADY_TERMINAL


class Store(Results, Directory, Protocol):
    """All implementations are both."""


class Site(abc.ABC):
    """One store, under a prefix that no other test uses.

    Attributes:
        time_limit: seconds that any condition may take to become true.
    """

    time_limit: float = 10.0

    @property
    @abc.abstractmethod
    def names(self) -> Names:
        """Names under this test's prefix."""

    @abc.abstractmethod
    async def connect(self, result_ttl: float = 60.0) -> Store:
        """One more process's connection to the same store, open; closed by the site at the end of the test."""

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(self.time_limit):
            while not condition():  # noqa: ASYNC110 (it waits for whatever a test is about)
                await asyncio.sleep(POLL)

    async def until_true(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(self.time_limit):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(POLL)


class Gateway:
    """A store with its own channel that records its wake-ups."""

    def __init__(self, store: Store, channel: str) -> None:
        self.store = store
        self.channel = channel
        self.wakes: list[Wake] = []

    def woken(self, ref: str) -> int:
        return sum(wake.ref == ref for wake in self.wakes)


def new_ref() -> str:
    return uuid.uuid4().hex


def new_claim(ref: str, reply_to: str = "", **changes: object) -> Claim:
    claim = Claim(
        ref=ref,
        fingerprint="f1",
        reply_to=reply_to,
        lease=30.0,
        ttl=60.0,
        model="m",
        version="3",
        accepted=1_700_000_000.123456,
    )
    return dataclasses.replace(claim, **changes)  # type: ignore[arg-type]


class ResultsSuite:
    """Inherit, and define the fixture `site`."""

    @pytest.fixture
    async def store(self, site: Site) -> Store:
        return await site.connect()

    async def gateway(self, site: Site, name: str = "g1") -> Gateway:
        store = await site.connect()
        gateway = Gateway(store, site.names.gateway_channel(name))
        await store.listen(gateway.channel, gateway.wakes.extend)
        return gateway

    async def state(self, store: Store, ref: str) -> RequestState:
        (state,) = await store.look([ref])
        assert state is not None
        return state

    async def until_gone(self, site: Site, store: Store, ref: str, *, began: float, ttl: float) -> None:
        """Wait until a stream has expired, which must not be before `ttl` seconds after `began`."""

        async def gone() -> bool:
            return await store.look([ref]) == [None]

        await site.until_true(gone)
        assert time.monotonic() - began >= ttl - CLOCK_ERROR
