"""With `fsync`, acknowledged data survives a power loss, whatever else the disk kept; without it, it need not."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ports import FinishOutcome, Terminal
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore
from protocol.transport.settings import TransportSettings
from tests.transport.bus_site import Owner
from tests.transport.power import Image, losses, traced

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed (Linux): apt-get install strace"
)

TOPIC = "t.infer.m.1"
RECORDS = 24
PROGRAM = f"""
import asyncio, os, sys
from pathlib import Path
from protocol.ports import Terminal, OutRecord
from protocol.transport.settings import TransportSettings
from protocol.transport.embedded.sqlite import SqliteBus, SqliteStore

async def main(folder, fsync):
    settings = TransportSettings(data_dir=Path(folder), fsync=fsync == "1", result_ttl=600.0)
    bus, store = SqliteBus(settings), SqliteStore(settings)
    await bus.open()
    await store.open()
    await bus.ensure_topic({TOPIC!r}, 1)
    for number in range({RECORDS}):
        await bus.publish({TOPIC!r}, [OutRecord(b"%d" % number + bytes(200_000), (), key=b"k")])
        os.write(1, b"published %d" % number)
        await store.finish([Terminal(f"r{{number}}", b"answer")])
        os.write(1, b"answered %d" % number)
    os._exit(0)

asyncio.run(main(*sys.argv[1:]))
"""


def ran(place: Path, *, fsync: bool) -> Path:
    """The trace of a run in `place`/data."""
    traced(PROGRAM, [str(place / "data"), "1" if fsync else "0"], place / "trace")
    return place


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("synced"), fsync=True)


def images(place: Path, chance: random.Random | None = None) -> Iterator[tuple[str, int, Image]]:
    """The kind of the last acknowledgement, the count so far, and the files that a power loss left right then."""
    for told, image in losses(place / "trace", place / "data", chance):
        what, number = told.decode().split()
        yield what, int(number) + 1, image


def _lay_out(image: Image, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in image.items():
        (folder / name).write_bytes(content)


async def left(image: Image, folder: Path) -> tuple[int, int]:
    """How many records and answers the fleet has when it starts on these files."""
    _lay_out(image, folder)
    settings = TransportSettings(data_dir=folder, result_ttl=600.0)
    bus, store = SqliteBus(settings), SqliteStore(settings)
    await bus.open()
    await store.open()
    try:
        await bus.ensure_topic(TOPIC, 1)
        consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
        records = await consumer.fetch(RECORDS + 1, 0.0)
        numbers = [int(record.value[:-200_000]) for record in records]
        assert numbers == list(range(len(numbers))), "a gap"
        outcomes = await store.finish([Terminal(f"r{number}", b"another") for number in range(RECORDS)])
        answers = [outcome is not FinishOutcome.WRITTEN for outcome in outcomes]
        assert answers == sorted(answers, reverse=True), "a gap"
        return len(records), sum(answers)
    finally:
        await bus.close()
        await store.close()


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_what_was_acknowledged_survives_a_power_loss(synced: Path, tmp_path: Path, seed: int | None) -> None:
    chance = None if seed is None else random.Random(seed)
    moments = 0
    for what, number, image in images(synced, chance):
        records, answers = await left(image, tmp_path / "after")
        assert records >= number
        assert answers >= (number if what == "answered" else number - 1)
        moments += 1
    assert moments == 2 * RECORDS


async def test_without_fsync_a_power_loss_takes_the_newest(tmp_path: Path) -> None:
    lost = 0
    for _, number, image in images(ran(tmp_path, fsync=False)):
        records, _ = await left(image, tmp_path / "after")
        lost += records < number
    assert lost > RECORDS / 2
