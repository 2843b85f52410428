from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import until
from workers.supervision.supervisor import Supervisor

CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
from protocol.heartbeat_codec import encode_heartbeat
from protocol.messages import Heartbeat, ModelLoad, ModelState
from workers.system.framing import frame
fd, worker = int(os.environ["PENSTOCK_HEARTBEAT_FD"]), os.environ["PENSTOCK_WORKER"]
open({log!r}, "a").write(f"{{os.getpid()}}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
beat = Heartbeat(worker, str(os.getpid()), "host", os.getpid(), 1.0, (ModelLoad("m", "1", ModelState.READY),), {{"topic": "x"}},
    restarts=int(os.environ["PENSTOCK_RESTARTS"]))
{speak}os.write(fd, frame(encode_heartbeat(beat)))
{then}
"""
FOREVER = "while True: signal.pause()"


class Group:
    """Holds a member's assigned partitions."""

    def __init__(self) -> None:
        self.owned: set[int] = set()

    def assigned(self, epoch: int, partitions: object) -> None:
        self.owned = {entry.partition for entry in partitions}  # type: ignore[attr-defined]

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: object) -> None:
        self.owned = set()


class Rig:
    """A supervisor on a memory transport, and what it did."""

    def __init__(
        self, folder: Path, then: str = FOREVER, code: int = 0, grace: float = 5.0, *, speaks: bool = True
    ) -> None:
        self.log = folder / "starts"
        self.log.touch()
        script = CHILD.format(
            root=str(Path(__file__).parents[2]), log=str(self.log), code=code, then=then, speak="" if speaks else "# "
        )
        self.server = MemoryServer()
        store = MemoryStore(TransportSettings(), self.server)
        self.transport = Transport(MemoryBus(MemoryBroker()), store, store)
        self.supervisor = Supervisor("w1", [sys.executable, "-c", script], os.environ, self.transport, grace)

    @property
    def starts(self) -> list[str]:
        return self.log.read_text().split()

    @property
    def beat(self) -> Heartbeat | None:
        return self.server.heartbeats.get("w1")


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[asyncio.Task[int]]:
    await rig.transport.open()
    task = asyncio.ensure_future(rig.supervisor.run())
    try:
        yield task
    finally:
        rig.supervisor.stop()
        await asyncio.gather(task, return_exceptions=True)
        await rig.transport.close()


async def test_the_workers_heartbeat_is_repeated_while_its_process_lives(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running(rig):
        await until(lambda: rig.beat is not None)
        first = rig.beat
        assert first is not None
        assert first.models == (ModelLoad("m", "1", ModelState.READY),)
        await until(lambda: rig.beat is not None and rig.beat.at > first.at)
        assert len(rig.starts) == 1


async def test_a_worker_that_is_killed_leaves_its_groups_and_is_started_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running(rig):
        await until(lambda: rig.beat is not None)
        await rig.transport.bus.ensure_topic("topic", 2)
        dead, living = Group(), Group()
        await rig.transport.bus.subscribe("topic", "topic", "w1", dead)
        await rig.transport.bus.subscribe("topic", "topic", "w2", living)
        assert len(living.owned) == 1
        pid = rig.supervisor.pid
        assert pid is not None
        os.kill(pid, 9)
        await until(lambda: living.owned == {0, 1}, "taking over")
        await until(lambda: len(rig.starts) == 2, "a second start")
        await until(lambda: rig.beat is not None and rig.beat.incarnation == rig.starts[1])
        assert rig.beat is not None
        assert (rig.beat.restarts, rig.supervisor.restarts) == (1, 1)


async def test_a_silent_peer_is_removed_from_its_groups(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with running(rig):
        await rig.transport.bus.ensure_topic("topic", 1)
        group = Group()
        await rig.transport.bus.subscribe("topic", "topic", "gone", group)
        await rig.transport.directory.beat(Heartbeat("gone", "i", "h", 1, 1.0, (), {"topic": "x"}))
        await until(lambda: group.owned == set(), "removal")
        await until(lambda: "gone" not in rig.server.heartbeats)


async def test_told_to_stop_it_has_the_worker_drain_and_returns_its_code(tmp_path: Path) -> None:
    rig = Rig(tmp_path, code=0)
    async with running(rig) as task:
        await until(lambda: rig.beat is not None)
        rig.supervisor.stop()
        assert await task == 0
        assert len(rig.starts) == 1
        assert rig.beat is None


async def test_a_worker_that_is_wrongly_set_up_is_not_started_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, then="sys.exit(2)")
    async with running(rig) as task:
        assert await task == 2
        assert len(rig.starts) == 1


async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}"
    rig = Rig(tmp_path, then=stubborn, grace=-9.5)
    async with running(rig) as task:
        await until(lambda: rig.beat is not None)
        rig.supervisor.stop()
        assert await task == -9


async def test_a_worker_that_lives_and_says_nothing_is_killed_and_started_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.supervisor.wedged_after = 2
    async with running(rig):
        await until(lambda: len(rig.starts) == 2, "a second start")


async def test_a_worker_that_has_not_beaten_yet_may_take_its_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, then=FOREVER, speaks=False)
    rig.supervisor.wedged_after = 0
    async with running(rig):
        await until(lambda: rig.starts != [])
        pid = rig.supervisor.pid
        for _ in range(3):
            rig.supervisor._kill_if_wedged()
        assert rig.supervisor.pid == pid is not None


async def test_what_is_no_heartbeat_is_passed_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path, then=f'os.write(fd, frame(b"nonsense"))\n{FOREVER}')
    async with running(rig):
        await until(lambda: rig.beat is not None)
        first = rig.beat
        assert first is not None
        await until(lambda: rig.beat is not None and rig.beat.at > first.at)
