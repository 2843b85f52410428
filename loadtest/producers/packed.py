"""Rows per second through Kafka by rows per record: a producer on one core, the fleet on another, answers on a topic."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtest import systems
from loadtest.models import ALL
from loadtest.payloads import build
from loadtest.processes import cores, on_core
from loadtest.producers.rows import arrays
from loadtest.systems import System
from protocol import codec
from protocol.messages import InferRequest, Lane
from protocol.ports import Bus, OutRecord
from protocol.tensors import from_array
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

GROUP_BYTES: Final = 512 * 1024
PARTITIONS: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """One point.

    Attributes:
        rows: of each record.
        records: that were published and answered.
        rate: rows answered per second, from the first publish to the last answer on the topic.
        cpu_us: CPU time of each process per row, in microseconds.
    """

    rows: int
    records: int
    rate: float
    cpu_us: dict[str, float]


def measure(cache: Path, sizes: Sequence[int], rows: int, say: Callable[[str], None]) -> list[Packed]:
    """About `rows` rows of add/sub at each number of rows per record; smaller records get fewer rows."""
    core, load_core = cores()
    found = []
    with systems.fleet(cache, core, "addsub", build(ALL["addsub"].inputs, 8)) as system:
        asyncio.run(_point(system, 32, 50))  # the batch topic is made, the worker has joined, sizes are measured
        for size in sizes:
            records = max(200, min(rows // size, rows // 32))
            with on_core(load_core), system.meter.window() as spent:
                rate = asyncio.run(_point(system, size, records))
            point = Packed(size, records, rate, {name: s * 1e6 / (size * records) for name, s in spent.items()})
            found.append(point)
            say(f"{size} rows a record: {rate:,.0f} rows/s; CPU us per row: {_shown(point.cpu_us)}")
    return found


def _shown(cpu: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in cpu.items())


async def _point(system: System, rows: int, records: int) -> float:
    """Publish the records, read every answer; rows per second."""
    settings = TransportSettings(kafka=system.kafka, redis=system.redis, prefix=system.prefix)
    names, run = settings.names, f"packed-{secrets.token_hex(4)}"
    topic, results = names.request_topic("addsub", "1", Lane.BATCH), names.results_topic(run)
    bus = open_transport(settings).bus
    await bus.open()
    try:
        await bus.ensure_topic(topic, PARTITIONS)
        await bus.ensure_topic(results, 1)
        tensors = tuple(from_array(name, values) for name, values in arrays("addsub", rows).items())
        request = InferRequest("", "addsub", "1", tensors, reply_to=names.reply_to_topic(run))
        groups = _groups(request, run, records)
        begin = time.perf_counter()
        publishing = asyncio.ensure_future(_publish(bus, topic, groups))
        seen: set[bytes | None] = set()
        async with contextlib.aclosing(bus.follow(results)) as answers:  # type: ignore[type-var]
            async for got in answers:
                seen.update(record.key for record in got)
                if len(seen) >= records:
                    break
        seconds = time.perf_counter() - begin
        await publishing
        return rows * records / seconds
    finally:
        await bus.close()


def _groups(request: InferRequest, run: str, records: int) -> list[list[OutRecord]]:
    """Records of at most about `GROUP_BYTES` together."""
    groups: list[list[OutRecord]] = [[]]
    size = 0
    for number in range(records):
        request.id = f"{run}-{number}"
        value, headers = codec.encode_request(request)
        if size > GROUP_BYTES or len(groups[-1]) >= 512:
            groups.append([])
            size = 0
        groups[-1].append(OutRecord(value, headers))
        size += len(value)
    return groups


async def _publish(bus: Bus, topic: str, groups: Sequence[Sequence[OutRecord]]) -> None:
    for group in groups:
        await bus.publish(topic, group)
