"""The carriers: memory and SQLite for one process, Kafka and Redis for a fleet.

Decided here: which carrier the settings select (`open_transport`; Kafka alone: `open_bus`), and the settings' own limits
(`settings`). `facts` are plain values that a carrier reads from its cluster for `penstock doctor`.

Import `Transport`, `open_transport`, `open_bus` and `settings`; the carriers are imported lazily, so that one process needs no
Kafka. Carriers implement `protocol.ports`, pass the suite in `tests/transport` (README.md), and do not import each other.
"""

from __future__ import annotations

import dataclasses
from typing import Self

from protocol.errors import ConfigError
from protocol.ports import Bus, Directory, Results
from protocol.runtime.microtasks import Microtasks
from protocol.runtime.outages import USUAL, Meanwhile
from protocol.transport.settings import TransportSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Transport:
    """A bus, the results and the directory that belong together, and the microtasks of the parts that they connect.

    It is open inside `async with`, or between `open` and `close`.
    """

    bus: Bus
    results: Results
    directory: Directory
    microtasks: Microtasks = dataclasses.field(default_factory=Microtasks)

    async def open(self) -> None:
        """Connect both, or none; see `Bus.open` and `Results.open`."""
        await self.bus.open()
        try:
            await self.results.open()
        except BaseException:
            await self.bus.close()
            raise

    async def close(self) -> None:
        """Disconnect both."""
        await self.bus.close()
        await self.results.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_transport(settings: TransportSettings, meanwhile: Meanwhile = USUAL) -> Transport:
    """The transport that the settings name, not yet connected: Kafka and Redis, a data folder, or memory.

    Args:
        settings: which.
        meanwhile: what the process does while Kafka or Redis is away, for its log.

    Raises:
        ConfigError: the settings are for `open_bus`.
    """
    if settings.bus_only:
        raise ConfigError("these settings are for a bus alone: a transport needs a store, too")
    if settings.kafka:
        from protocol.transport.kafka.bus import KafkaBus
        from protocol.transport.redis.store import RedisStore

        store = RedisStore(settings, meanwhile)
        return Transport(KafkaBus(settings, store, meanwhile), store, store)
    if settings.data_dir is not None:
        from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore

        durable = SqliteStore(settings)
        return Transport(SqliteBus(settings), durable, durable)
    from protocol.transport.embedded.memory import MemoryBus, MemoryStore

    microtasks = Microtasks()
    memory = MemoryStore(settings, microtasks=microtasks)
    return Transport(MemoryBus(microtasks=microtasks), memory, memory, microtasks)


def open_bus(settings: TransportSettings) -> Bus:
    """Kafka alone, not yet connected: for a process that only publishes and reads records.

    Raises:
        ConfigError: the settings name no Kafka.
    """
    if not settings.kafka:
        raise ConfigError("the broker is missing: name Kafka's bootstrap servers as HOST:PORT")
    from protocol.transport.kafka.bus import KafkaBus

    return KafkaBus(settings)
