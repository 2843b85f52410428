"""The cost of a result in Redis: bytes of memory, microseconds of CPU at the server and at the worker that writes it.

`python -m loadtest.redis_memory [--results N]` starts a Redis of its own for each setting and prints a table.
Memory is `used_memory` before and after, so it holds keys, expiry and allocator overhead, not fragmentation. Batches are
written one after the other by one worker while one gateway listens, as in the fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.local.redis import RedisServer
from protocol.naming import Names
from protocol.ports import Claim, Terminal, Wake
from protocol.transport.redis.address import Address
from protocol.transport.redis.connection import Connection, pack_commands
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings

PREFIX = "memory"
NODE_BYTES = (256, 4096)
"""`stream-node-max-bytes`: ours, and Redis's default."""
BATCHES = (1, 8, 32)
PAYLOADS = (64, 400, 2000)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one result costs, in bytes and microseconds."""

    plain: float
    trimmed: float
    claimed: float


async def used_memory(server: RedisServer) -> int:
    """Bytes, after everything that is freed lazily."""
    connection = await Connection.open(Address.parse(server.url), 10.0)
    try:
        (reply,) = await connection.roundtrip(pack_commands([("INFO", "memory")]))
    finally:
        connection.close()
        await connection.closed
    return int(dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)["used_memory"])


def batches(refs: Sequence[str], size: int, payload: int, channel: str) -> Iterator[list[Terminal]]:
    """Answers with payloads that share no bytes to compress."""
    for start in range(0, len(refs), size):
        yield [Terminal(ref, os.urandom(payload), channel) for ref in refs[start : start + size]]


async def memory(server: RedisServer, store: RedisStore, payload: int, results: int) -> Cost:
    """Bytes per result: as written; after its payload was trimmed; of a claimed request with its answer."""
    channel = Names(PREFIX).gateway_channel("g")
    refs = [uuid.uuid4().hex for _ in range(results)]
    empty = await used_memory(server)
    for batch in batches(refs, 32, payload, channel):
        await store.finish(batch)
    plain = await used_memory(server)
    for start in range(0, results, 100):
        await store.trim(refs[start : start + 100])
    trimmed = await used_memory(server)
    claims = [
        Claim(uuid.uuid4().hex, uuid.uuid4().hex, channel, 5.0, 3600.0, "digits", "1", time.time())
        for _ in range(results)
    ]
    for claim in claims:
        await store.claim(claim)
        await store.confirm(claim.ref, published=True)
    for batch in batches([claim.ref for claim in claims], 32, payload, channel):
        await store.finish(batch)
    claimed = await used_memory(server)
    return Cost((plain - empty) / results, (trimmed - empty) / results, (claimed - trimmed) / results)


async def work(
    server: RedisServer, store: RedisStore, size: int, payload: int, results: int
) -> tuple[float, float, float]:
    """Microseconds per result: of Redis, of the worker's process, of the clock."""
    channel = Names(PREFIX).gateway_channel("g")
    prepared = list(batches([uuid.uuid4().hex for _ in range(results)], size, payload, channel))
    server_cpu, own_cpu, clock = server.cpu_seconds(), time.process_time(), time.perf_counter()
    for batch in prepared:
        await store.finish(batch)
    costs = server.cpu_seconds() - server_cpu, time.process_time() - own_cpu, time.perf_counter() - clock
    return tuple(1e6 * cost / results for cost in costs)  # type: ignore[return-value]


async def measure(results: int) -> None:
    """Print both tables."""
    print(f"{'node bytes':>10} {'payload':>8} {'plain':>8} {'trimmed':>8} {'claimed':>8}   bytes per result")
    for node_bytes in NODE_BYTES:
        for payload in PAYLOADS:
            config = {"stream-node-max-bytes": str(node_bytes), "maxmemory": "0"}
            with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis", config=config) as server:
                store = RedisStore(TransportSettings(kafka="unused:9092", redis=server.url, prefix=PREFIX))
                await store.open()
                cost = await memory(server, store, payload, results)
                await store.close()
            print(f"{node_bytes:>10} {payload:>8} {cost.plain:>8.0f} {cost.trimmed:>8.0f} {cost.claimed:>8.0f}")
    print(
        f"\n{'batch':>10} {'payload':>8} {'Redis':>8} {'worker':>8} {'clock':>8}   µs per result, one gateway listens"
    )
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        settings = TransportSettings(kafka="unused:9092", redis=server.url, prefix=PREFIX)
        worker, gateway = RedisStore(settings), RedisStore(settings)
        await worker.open()
        await gateway.open()
        wakes: list[Wake] = []
        await gateway.listen(Names(PREFIX).gateway_channel("g"), wakes.extend)
        for size in BATCHES:
            for payload in PAYLOADS[:2]:
                redis, own, clock = await work(server, worker, size, payload, results)
                print(f"{size:>10} {payload:>8} {redis:>8.1f} {own:>8.1f} {clock:>8.1f}")
        await worker.close()
        await gateway.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.redis_memory", description=__doc__)
    parser.add_argument("--results", type=int, default=5000, metavar="N", help="results per measurement (%(default)s)")
    asyncio.run(measure(parser.parse_args(arguments).results))


if __name__ == "__main__":
    main()
