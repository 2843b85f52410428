from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.errors import Unavailable
from protocol.naming import Names
from protocol.ports import Bus, ClaimState, Terminal, Wake
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus, contract_results
from tests.transport.contract_bus import BusContract
from tests.transport.contract_results import ResultsContract, Store, new_claim


class BusSite(contract_bus.Site):
    session_timeout = 0.4
    time_limit = 5.0

    def __init__(self) -> None:
        self.broker = MemoryBroker(self.session_timeout)
        self.buses: list[MemoryBus] = []

    async def connect(self) -> Bus:
        bus = MemoryBus(self.broker)
        await bus.open()
        self.buses.append(bus)
        return bus

    def topic(self, name: str) -> str:
        return f"test.infer.{name}.1"


class ResultsSite(contract_results.Site):
    names = Names("test")

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.stores: list[MemoryStore] = []

    async def connect(self, result_ttl: float = 60.0) -> Store:
        store = MemoryStore(TransportSettings(result_ttl=result_ttl), self.server)
        await store.open()
        self.stores.append(store)
        return store


class TestMemoryBus(BusContract):
    @pytest.fixture
    async def site(self) -> AsyncIterator[BusSite]:
        site = BusSite()
        yield site
        for bus in site.buses:
            await bus.close()


class TestMemoryStore(ResultsContract):
    @pytest.fixture
    async def site(self) -> AsyncIterator[ResultsSite]:
        site = ResultsSite()
        yield site
        for store in site.stores:
            await store.close()


# --- what only the memory store does ---------------------------------------------------------------------------------


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore(TransportSettings(), MemoryServer(limit=10_000))
    await store.open()
    yield store
    await store.close()


async def test_a_finish_wakes_once_per_channel_from_the_event_loop(store: MemoryStore) -> None:
    calls: list[list[Wake]] = []
    await store.listen("g", calls.append)
    await store.finish([Terminal("1", b"x", "g"), Terminal("2", b"y", "g"), Terminal("3", b"z", "other")])
    assert calls == []
    await asyncio.sleep(0)
    assert calls == [[Wake("1", b"x"), Wake("2", b"y")]]


async def test_a_plain_answer_that_was_delivered_is_not_kept(store: MemoryStore) -> None:
    await store.listen("g", lambda wakes: None)
    await store.claim(new_claim("claimed", "g"))
    await store.finish([Terminal("plain", b"x", "g"), Terminal("elsewhere", b"x", "h"), Terminal("claimed", b"x", "g")])
    states = await store.look(["plain", "elsewhere", "claimed"])
    assert [state and state.payload for state in states] == [b"", b"x", b"x"]


async def test_a_full_store_claims_nothing_and_still_takes_answers(store: MemoryStore) -> None:
    await store.claim(new_claim("1"))
    await store.finish([Terminal("1", b"x" * 5_000)])
    assert 0.5 < await store.fill() < 1
    await store.claim(new_claim("2"))
    await store.finish([Terminal("2", b"x" * 5_000)])
    assert await store.fill() == 1.0
    with pytest.raises(Unavailable, match="the embedded result store is full: it keeps 11400 bytes of 10000"):
        await store.claim(new_claim("3"))
    await store.finish([Terminal("3", b"x")])
    await store.trim(["1", "2"])
    assert (await store.claim(new_claim("4"))).state is ClaimState.FRESH


async def test_a_store_that_is_not_open_says_so() -> None:
    store = MemoryStore(TransportSettings())
    with pytest.raises(Unavailable, match="the embedded result store is closed"):
        await store.finish([Terminal("1", b"x")])
    with pytest.raises(Unavailable, match="the embedded bus is closed"):
        await MemoryBus().ensure_topic("t", 1)


async def test_two_stores_may_listen_to_one_channel(store: MemoryStore) -> None:
    site, heard = ResultsSite(), []
    stores = [await site.connect() for _ in range(2)]
    for other in stores:
        await other.listen("g", heard.append)
    await stores[0].finish([Terminal("1", b"x", "g")])
    await asyncio.sleep(0)
    assert heard == [[Wake("1", b"x")]] * 2
    await stores[0].close()
    await stores[1].finish([Terminal("2", b"x", "g")])
    await asyncio.sleep(0)
    assert heard[2:] == [[Wake("2", b"x")]]
