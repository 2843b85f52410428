from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from protocol.naming import Names
from protocol.ports import Bus
from protocol.transport.broker import MemoryBroker
from protocol.transport.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus, contract_results
from tests.transport.contract_bus import BusContract
from tests.transport.contract_results import ResultsContract, Store


class BusSite(contract_bus.Site):
    session_timeout = 0.4
    patience = 5.0

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
