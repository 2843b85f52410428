"""What heartbeats cost: bytes that Redis moves, and the time of each reader's event loop.

`python -m loadtest.heartbeats [--workers N] [--models N] [--busy N] [--gateways N] [--seconds S]` starts a Redis of its own. Each
simulated worker is a supervisor's part: it writes its heartbeat and reads its peers' pulses twice a second. They started at
different times, so that those that are due write all parts again in every round. Each gateway does with all heartbeats what a real
one does (`gateway.background`), and looks at the workers of the busy models, as its router would.
Bytes are Redis' own counts of its network; times are of the thread that runs one part alone, without the time that it waits.
Garbage is collected as in our processes (`spare_collector`), but of 50 workers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from gateway.catalogue.catalogue import Catalogue
from gateway.catalogue.heartbeats import is_sound
from gateway.fleet_metrics import FleetMetrics
from gateway.routing.capacity import HeartbeatCapacity
from infra.local.redis import RedisServer
from protocol.heartbeat_parts import REWRITE
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from protocol.naming import Names
from protocol.runtime.loop import spare_collector
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings
from workers.supervision.peers import Peers

INTERVAL: Final = 0.5
"""Seconds between two heartbeats, and between two readings."""
DIGEST: Final = "0123456789abcdef" * 4
PREFIX: Final = "heartbeats"


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """What is simulated.

    Attributes:
        busy: models of each worker whose numbers change with every heartbeat; the others have run before and are idle.
    """

    workers: int = 50
    models: int = 50
    busy: int = 5
    gateways: int = 2


@dataclasses.dataclass(slots=True)
class Costs:
    """What was measured.

    Attributes:
        written, read: bytes per second that came to Redis, and that it sent.
        supervisor, gateway: milliseconds per second of the loop of one: reading and what follows from it.
        writer: the same of one worker's heartbeats: made into parts and written.
        routing: milliseconds per second of a gateway that looks at the workers of all busy models.
    """

    written: float = 0.0
    read: float = 0.0
    supervisor: float = 0.0
    writer: float = 0.0
    gateway: float = 0.0
    routing: float = 0.0


class Spent:
    """CPU time of the steps of one kind, in one thread: of a step alone, as all others wait meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def of(self, step: Callable[[], Awaitable[Any]]) -> None:
        """Run a step. No other task may run meanwhile."""
        began = time.thread_time()
        await step()
        self.seconds += time.thread_time() - began


class SimulatedWorker:
    """A worker's heartbeat, and its supervisor's watch."""

    def __init__(self, number: int, fleet: Fleet, store: RedisStore) -> None:
        self.name = f"worker-{number:04}-7f3a"
        self.store = store
        self._peers = Peers(self.name)
        self._turn = 0
        names = Names(PREFIX)
        self._busy = fleet.busy
        topics = [names.infer_topic(f"model-{n:03}", "1") for n in range(fleet.models)]
        self._models = [
            ModelLoad(
                f"model-{n:03}", "1", ModelState.READY, (number % 8,), digest=DIGEST, executed=100_000 + n,
                last_inference=1_800_000_000,
                runs=tuple((1000 + n, (1000 + n) * size, 10**9 + n) for size in (1, 4, 8, 16)),
            )
            for n in range(fleet.models)
        ]  # fmt: skip
        members = {topic: f"aiokafka-0.12-{self.name}-{topic}" for topic in topics}
        self._beat = Heartbeat(self.name, f"{number:016x}", "host-17", 4711, 0.0, (), members)

    def current(self) -> Heartbeat:
        """The next heartbeat."""
        self._turn += 1
        for n in range(self._busy):
            load, turn = self._models[n], self._turn
            self._models[n] = dataclasses.replace(
                load, queued_rows=turn % 40, queued_requests=turn % 9, running_rows=turn % 17, lag=turn % 60,
                oldest_age=turn % 7 / 1e3, executed=load.executed + 300,
                runs=tuple((c + 7, r + 60, ns + 10**6) for c, r, ns in load.runs),
            )  # fmt: skip
        return dataclasses.replace(self._beat, models=tuple(self._models), at=time.time())

    async def write(self, beat: Heartbeat) -> None:
        """Its heartbeat."""
        await self.store.beat(beat)

    async def watch(self) -> None:
        """Its peers."""
        now = time.monotonic()
        wanted = self._peers.wanted(now)
        self._peers.observe(await self.store.pulses(wanted), now, wanted)


class SimulatedGateway:
    """What a gateway reads, and what follows from it."""

    def __init__(self, fleet: Fleet, store: RedisStore) -> None:
        names = Names(PREFIX)
        self.store = store
        self.catalogue = Catalogue(names, {})
        for n in range(fleet.models):
            config = {"name": f"model-{n:03}", "max_batch_size": 32, "backend": "python",
                      "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [4]}],
                      "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [4]}]}  # fmt: skip
            entry = Announcement(f"model-{n:03}", "1", ModelState.READY, config, DIGEST, partitions=8)
            self.catalogue.announce(entry)
        self.capacity = HeartbeatCapacity(names, self.catalogue)
        self.metrics = FleetMetrics(CollectorRegistry())
        self._busy = [names.infer_topic(f"model-{n:03}", "1") for n in range(fleet.busy)]

    async def look(self) -> None:
        """Once: as `gateway.background` does."""
        beats = [beat for beat in await self.store.workers() if is_sound(beat)]
        self.catalogue.seen(beats, time.time() - 2.5)
        self.capacity.observe(beats)
        self.metrics.observe(beats, time.time() - 2.5)

    async def route(self) -> None:
        """The workers of the models that calls come for."""
        for topic in self._busy:
            self.capacity.workers(topic)


async def measure(url: str, fleet: Fleet, seconds: float) -> Costs:
    """Simulate the fleet for so long."""
    names = Names(PREFIX)

    async def connect() -> RedisStore:
        store = RedisStore(TransportSettings(kafka="unused:9092", redis=url, prefix=PREFIX, connect_timeout=10.0))
        await store.open()
        return store

    workers = [SimulatedWorker(number, fleet, await connect()) for number in range(fleet.workers)]
    gateways = [SimulatedGateway(fleet, await connect()) for _ in range(fleet.gateways)]
    for number, gateway in enumerate(gateways):
        await gateway.store.listen(names.gateway_channel(f"g{number}"), lambda wakes: None)
    own = await connect()
    try:
        for number, worker in enumerate(workers):
            for _ in range(number % REWRITE):
                await worker.write(worker.current())
        await _rounds(workers, gateways, 6 * INTERVAL, Costs())
        before, began = await _traffic(own), time.monotonic()
        costs = Costs()
        await _rounds(workers, gateways, seconds, costs)
        after, took = await _traffic(own), time.monotonic() - began
        costs.written, costs.read = ((b - a) / took for a, b in zip(before, after, strict=True))
        return costs
    finally:
        for store in (own, *(worker.store for worker in workers), *(gateway.store for gateway in gateways)):
            await store.close()


async def _rounds(
    workers: Sequence[SimulatedWorker], gateways: Sequence[SimulatedGateway], seconds: float, costs: Costs
) -> None:
    writing, watching, looking, routing = (Spent() for _ in range(4))
    rounds = max(1, round(seconds / INTERVAL))
    due = time.monotonic()
    for _ in range(rounds):
        for worker in workers:
            beat = worker.current()
            await writing.of(lambda worker=worker, beat=beat: worker.write(beat))  # type: ignore[misc]
            await watching.of(worker.watch)
        for gateway in gateways:
            await looking.of(gateway.look)
            await routing.of(gateway.route)
        due = max(due + INTERVAL, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
    per = 1000 / (rounds * INTERVAL)
    costs.writer = writing.seconds * per / len(workers)
    costs.supervisor = watching.seconds * per / len(workers)
    costs.gateway = looking.seconds * per / max(1, len(gateways))
    costs.routing = routing.seconds * per / max(1, len(gateways))


async def _traffic(store: RedisStore) -> tuple[int, int]:
    text: bytes = await store._client.call("INFO", "stats")
    stats = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return int(stats["total_net_input_bytes"]), int(stats["total_net_output_bytes"])


def table(fleet: Fleet, costs: Costs) -> str:
    """The lines of a report."""
    total = (costs.written + costs.read) / 1000
    simulated = f"{fleet.workers} workers, {fleet.models} models, {fleet.busy} busy, {fleet.gateways} gateways"
    rows = [
        (f"bytes in all, kB/s ({simulated})", total),
        ("  written to Redis, kB/s", costs.written / 1000),
        ("  sent by Redis, kB/s", costs.read / 1000),
        ("a supervisor's reading of its peers, ms/s", costs.supervisor),
        ("a supervisor's writing, ms/s", costs.writer),
        ("a gateway's reading, ms/s", costs.gateway),
        ("a gateway's look at the workers of the busy models, ms/s", costs.routing),
    ]  # fmt: skip
    return "\n".join(f"| {name} | {value:.3g} |" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure with so many busy models, and with none."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.heartbeats", description="what heartbeats cost")
    for name, default in (("workers", 50), ("models", 50), ("busy", 5), ("gateways", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args(arguments)
    asyncio.run(_main(options))


async def _main(options: argparse.Namespace) -> None:
    spare_collector()
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        for busy in (options.busy, 0):
            fleet = Fleet(options.workers, options.models, busy, options.gateways)
            print(table(fleet, await measure(server.url, fleet, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
