"""A process that works on a data folder until it is killed, and prints what was confirmed to it, one line at a time.

`victim.py DATA_DIR FIRST`: publishes records named FIRST, FIRST + 1, …; fetches, answers and commits them with some delay; claims
and confirms a request per record.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from protocol.ports import Claim, OutRecord, Terminal
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.settings import TransportSettings
from tests.transport.bus_site import Owner

TOPIC = "t.infer.m.1"


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def publish(bus: SqliteBus, store: SqliteStore, first: int) -> None:
    number = first
    while True:
        ref = f"claimed{number}"
        await store.claim(Claim(ref, "f", "", 60.0, 600.0, "m", "1", float(number)))
        say("claimed", ref)
        published = await bus.publish(TOPIC, [OutRecord(b"%d" % n, [("id", b"x")]) for n in range(number, number + 3)])
        say("published", published.partition, published.offset, number)
        await store.confirm(ref, published=True)
        say("confirmed", ref)
        number += 3


async def work(bus: SqliteBus, store: SqliteStore) -> None:
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    while True:
        for record in await consumer.fetch(5, 1.0):
            ref = bytes(record.value).decode()
            (outcome,) = await store.finish([Terminal(ref, b"by %s" % bytes(record.value), "nobody")])
            say("finished", ref, outcome.name)
            if record.offset % 3 == 2:
                await consumer.commit({record.partition: record.offset + 1})
                say("committed", record.partition, record.offset + 1)


async def main(data_dir: str, first: str) -> None:
    settings = TransportSettings(data_dir=Path(data_dir))
    bus, store = SqliteBus(settings), SqliteStore(settings)
    await bus.open()
    await store.open()
    await bus.ensure_topic(TOPIC, 2)
    await asyncio.gather(publish(bus, store, int(first)), work(bus, store))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
