from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.naming import Names
from protocol.ports import Bus
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.embedded.sqlite_broker import SqliteBroker
from protocol.transport.embedded.sqlite_results import SqliteServer
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus, contract_results
from tests.transport.contract_bus import BusContract
from tests.transport.contract_results import ResultsContract, Store


class BusSite(contract_bus.Site):
    session_timeout = 0.4
    time_limit = 5.0

    def __init__(self, data_dir: Path) -> None:
        self.settings = TransportSettings(data_dir=data_dir, session_timeout=self.session_timeout)
        self.broker = SqliteBroker(data_dir / "bus.sqlite", self.session_timeout)
        self.buses: list[SqliteBus] = []

    async def connect(self) -> Bus:
        bus = SqliteBus(self.settings, self.broker)
        await bus.open()
        self.buses.append(bus)
        return bus

    def topic(self, name: str) -> str:
        return f"test.infer.{name}.1"


class ResultsSite(contract_results.Site):
    names = Names("test")

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.server = SqliteServer(data_dir / "results.sqlite")
        self.stores: list[SqliteStore] = []

    async def connect(self, result_ttl: float = 60.0) -> Store:
        store = SqliteStore(TransportSettings(data_dir=self.data_dir, result_ttl=result_ttl), self.server)
        await store.open()
        self.stores.append(store)
        return store


class TestSqliteBus(BusContract):
    @pytest.fixture
    async def site(self, tmp_path: Path) -> AsyncIterator[BusSite]:
        site = BusSite(tmp_path)
        yield site
        for bus in site.buses:
            await bus.close()


class TestSqliteStore(ResultsContract):
    @pytest.fixture
    async def site(self, tmp_path: Path) -> AsyncIterator[ResultsSite]:
        site = ResultsSite(tmp_path)
        yield site
        for store in site.stores:
            await store.close()
