from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from protocol.ports import OutRecord, Terminal
from protocol.transport import open_bus, open_transport
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.settings import TransportSettings


@pytest.mark.parametrize("durable", [False, True])
async def test_one_process_gets_the_transport_that_it_asks_for(tmp_path: Path, durable: bool) -> None:
    transport = open_transport(TransportSettings(data_dir=tmp_path / "data" if durable else None))
    kinds = (SqliteBus, SqliteStore) if durable else (MemoryBus, MemoryStore)
    assert (type(transport.bus), type(transport.results)) == kinds
    assert id(transport.directory) == id(transport.results)
    await transport.open()
    await transport.bus.ensure_topic("t.infer.m.1", 2)
    assert (await transport.bus.publish("t.infer.m.1", [OutRecord(b"x")])).offset == 0
    await transport.results.finish([Terminal("a", b"x")])
    assert await transport.bus.healthy()
    assert await transport.results.healthy()
    await transport.close()
    assert (tmp_path / "data").exists() == durable


def test_one_process_needs_neither_kafka_nor_redis() -> None:
    script = (
        "import sys; from protocol.transport import open_transport; from protocol.transport.settings import *;"
        "open_transport(TransportSettings()); print(sorted({'aiokafka', 'redis', 'sqlite3'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_bus_alone_needs_kafka_and_no_redis() -> None:
    settings = TransportSettings(kafka="h:1", bus_only=True)

    assert type(open_bus(settings)).__name__ == "KafkaBus"
    with pytest.raises(ConfigError, match="bus alone"):
        open_transport(settings)
    with pytest.raises(ConfigError, match="broker is missing"):
        open_bus(TransportSettings(bus_only=True))
    with pytest.raises(ConfigError, match="both --kafka and --redis"):
        TransportSettings(redis="redis://h:1", bus_only=True)
    with pytest.raises(ConfigError, match="both --kafka and --redis"):
        TransportSettings(kafka="h:1")
