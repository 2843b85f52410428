"""A broker that appends a batch whose acknowledgement never arrives, because a proxy drops it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.installation import Installation
from infra.local.kafka import Broker
from infra.local.process import HOST, free_port
from protocol.errors import Unavailable
from protocol.ports import Consumer
from protocol.transport.kafka.producer import PUBLISH_TIMEOUT
from tests.transport.bus_site import Owner, nothing_comes, numbered, take, values
from tests.transport.test_kafka import KafkaSite

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(120)]

PRODUCE = b"\x00\x00"


class Loser:
    """Passes Kafka's requests and responses on, but loses acknowledgements, and the connection with them.

    Attributes:
        lose: the number of acknowledgements still to lose.
        lost: the number lost so far.
    """

    def __init__(self, target: int) -> None:
        self.lose = 0
        self.lost = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    async def open(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, port)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        doomed: set[bytes] = set()
        ways = [
            asyncio.ensure_future(self._there(reader, far_writer, doomed)),
            asyncio.ensure_future(self._back(far_reader, writer, doomed)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, far_writer):
                end.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: set[bytes]) -> None:
        while True:
            request = await frame(reader)
            if request[4:6] == PRODUCE and self.lose > 0:
                self.lose -= 1
                doomed.add(request[8:12])
            writer.write(request)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: set[bytes]) -> None:
        while (response := await frame(reader))[4:8] not in doomed:
            writer.write(response)
        self.lost += 1


async def frame(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size))


@pytest.fixture
async def lossy(
    kafka_installation: Installation, tmp_path: Path, prefix: str
) -> AsyncIterator[tuple[KafkaSite, Loser]]:
    """A broker that names the proxy as its address."""
    port = free_port()
    properties = {"advertised.listeners": f"PLAINTEXT://{HOST}:{port}"}
    with Broker(tmp_path / "kafka", properties=properties, installed=kafka_installation) as broker:
        loser = Loser(broker.port)
        await loser.open(port)
        site = KafkaSite(f"{HOST}:{port}", prefix)
        yield site, loser
        await site.close()
        await loser.close()


async def everything(site: KafkaSite, topic: str) -> tuple[list[bytes], Consumer]:
    """All values in the log, and the consumer that read them."""
    owner = Owner()
    consumer = await (await site.connect()).subscribe(topic, topic, "w0", owner)
    await site.until(lambda: len(owner.owned) == 1, consumer)
    return values(await take(consumer, owner.owned[0].end)), consumer


async def test_a_lost_acknowledgement_is_no_second_record(lossy: tuple[KafkaSite, Loser]) -> None:
    site, loser = lossy
    topic, bus = site.topic("lost"), await site.connect()
    await bus.ensure_topic(topic, 1)
    await bus.publish(topic, numbered(1))

    loser.lose = 2
    published = await bus.publish(topic, numbered(3, 1))
    assert loser.lost == 2
    assert published.offset == 1, "the broker tells the place of what it has already"

    loser.lose = 1_000_000
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await bus.publish(topic, numbered(1, 4))
    assert asyncio.get_running_loop().time() - began < PUBLISH_TIMEOUT + 2
    assert loser.lost > 3

    loser.lose = 0
    async with asyncio.timeout(site.time_limit):
        while True:
            with contextlib.suppress(Unavailable):
                await bus.publish(topic, numbered(1, 5))
                break
    got, consumer = await everything(site, topic)
    assert got == [record.value for record in numbered(6)], (
        "refused is not the same as not in the log, and once is once"
    )
    assert await nothing_comes(consumer)
