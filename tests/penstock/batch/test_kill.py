"""The submitter as a process, killed with SIGKILL again and again on a real broker: no line is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import orjson
import pytest

from protocol.naming import Names
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.settings import TransportSettings
from tests.penstock.batch.fake_fleet import FakeFleet, announce

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

LINES = 20_000


def write(path: Path) -> None:
    rows = [{"X": [13 if line % 997 == 0 else 1000 + line, 1]} for line in range(1, LINES + 1)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def expected() -> list[dict[str, object]]:
    error = {"code": "MODEL_FAILED", "message": "thirteen"}
    return [
        {"line": line, "error": error}
        if line % 997 == 0
        else {"line": line, "outputs": {"Y": [2.0 * (1000 + line), 2.0]}}
        for line in range(1, LINES + 1)
    ]


async def start(folder: Path, servers: list[str], *more: str) -> asyncio.subprocess.Process:
    """`penstock batch submit` of the file."""
    arguments = ["batch", "submit", "double", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--job", "j"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock", *arguments, *servers, "--json", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip


class Stopper:
    """Sends the signal when the fleet has given certain numbers of answers; while no job runs, with the next answer after that.

    Decided by progress, not by time: a fast machine ends the job before any time that we could name.
    """

    def __init__(self, how: signal.Signals, moments: list[int]) -> None:
        self.how, self.moments = how, sorted(moments)
        self.process: asyncio.subprocess.Process | None = None
        self._answers = 0

    def before_answer(self) -> None:
        self._answers += 1
        if self.process is not None and self.moments and self._answers >= self.moments[0]:
            del self.moments[0]
            self.process.send_signal(self.how)
            self.process = None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_killed_at_random_it_goes_on_exactly(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path, how: signal.Signals
) -> None:
    names, rng = Names(prefix), random.Random(5)
    write(tmp_path / "in.jsonl")
    bus = KafkaBus(TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix))
    await bus.open()
    await announce(bus, names)
    stopper = Stopper(how, rng.sample(range(1, 400), 6))
    fleet = FakeFleet(bus, names, rng, stopper.before_answer)
    await fleet.start()
    servers = ["--kafka", kafka_bootstrap, "--redis", redis_url, "--prefix", prefix]
    early = [0.1, 0.5]  # seconds: while it imports, and while it starts
    stopped = 0
    while True:
        process = await start(tmp_path, servers, "--rows-per-record", "16", "--window", "2000")
        reading = asyncio.create_task(process.communicate())
        if early:
            await asyncio.sleep(early.pop())
            process.send_signal(how)
        else:
            stopper.process = process
        output, _ = await reading
        stopper.process = None
        ends = {-how, 130} if how is signal.SIGINT else {-how}  # before its imports are done, SIGINT ends it at once
        if process.returncode not in ends:
            break
        stopped += 1
    await fleet.stop()
    await bus.close()
    assert process.returncode == 12, output.decode()[-2000:]
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert lines == expected()
    assert (stopped, stopper.moments) == (8, [])
    doubled = {name: count for name, count in fleet.ids.items() if count > 1}
    assert doubled == {}, "a record was published twice"
