"""Injects the faults of a plan, and undoes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from penstock.verify import model
from penstock.verify.fleet.fleet import Fleet
from penstock.verify.fleet.processes import Member, faketime, send_signal
from penstock.verify.observe.history import History, InjectedFault
from penstock.verify.observe.raw import TROUBLE, RawRedis
from penstock.verify.plan.plan import COMMAND, DELAYS, DROPS, Fault, FaultKind

MID_BATCH: Final = 8.0
"""Seconds that a kill waits for its victim to begin a batch."""
LOOK_AGAIN: Final = 0.5
"""Seconds after which a member's processes are listed again."""
COMMAND_WITHIN: Final = 120.0
CUT_FOR: Final = 1.0
"""Seconds in which a disconnected worker could wrongly commit."""
NO_PROXY: Final = "there is no proxy in front of this Redis (TLS, UNIX socket, or Sentinels)"
NO_KAFKA_PROXY: Final = "there is no proxy in front of these brokers (TLS)"


class FaultInjector:
    """Injects faults into a fleet.

    Args:
        fleet: its processes are broken.
        account: where the models record what they run.
        commands: the user's own faults, by name.
        store: checked after such a command for lost data.
        clock: seconds since the epoch on the store's clock.
        history: receives the injected faults.
    """

    def __init__(
        self,
        fleet: Fleet,
        account: Path,
        commands: Mapping[str, str],
        store: RawRedis,
        clock: Callable[[], float],
        history: History,
    ) -> None:
        self._fleet = fleet
        self._account = account
        self._commands = commands
        self._store = store
        self._clock = clock
        self._history = history

    async def inject(self, fault: Fault) -> None:
        """Inject one fault, and return when it is undone."""
        broken = InjectedFault(fault.kind, fault.target, self._clock(), 0.0)
        if fault.kind.startswith(COMMAND):
            await self._command(fault, broken)
        elif fault.kind in DELAYS or fault.kind in DROPS:
            await self._network(fault, broken)
        else:
            await self._process(fault, broken, self._fleet.members[fault.target])
        broken.ended = self._clock()
        self._history.faults.append(broken)

    async def _process(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        if fault.kind == FaultKind.REBALANCE:
            await self._rebalance(fault, broken, member)
            return
        if not member.running:
            broken.note = "it was not running"
            return
        if fault.kind in {FaultKind.WORKER_KILL, FaultKind.CHILD_KILL}:
            await asyncio.to_thread(self._kill_in_batch, fault, broken, member)
        elif fault.kind == FaultKind.CLOCK_SKEW:
            await self._skew(fault, broken, member)
        elif fault.kind == FaultKind.CUT_KILL:
            await self._cut_and_kill(fault, broken, member)
        elif fault.kind in {FaultKind.MACHINE_KILL, FaultKind.GATEWAY_KILL}:
            broken.pids = _pids(member.family())
            await asyncio.to_thread(self._kill_all, fault, broken, member)
            await asyncio.sleep(fault.lasts)
            member.start()
        else:
            await self._stop(fault, broken, member)

    async def _stop(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        working = member.working()
        whole = fault.kind == FaultKind.ZOMBIE
        processes = member.family() if whole else [working] if working is not None else []
        broken.pids = _pids(member.family())
        send_signal(processes, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.lasts)
        finally:
            send_signal(processes[::-1], signal.SIGCONT)

    async def _skew(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        if faketime() is None:
            broken.note = "libfaketime is not installed, so no clock can be skewed"
            return
        broken.pids = _pids(member.family())
        await asyncio.to_thread(member.kill)
        member.skew = fault.amount
        member.start()

    async def _cut_and_kill(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        if member.proxy is None:
            broken.note = NO_PROXY
            return
        broken.pids = _pids(member.family())
        await asyncio.to_thread(self._in_batch, member)  # so that it is about to answer
        member.proxy.cut = True
        member.proxy.drop()
        await asyncio.sleep(CUT_FOR)
        await asyncio.to_thread(member.kill)
        broken.hit = self._clock()
        member.proxy.cut = False
        await asyncio.sleep(fault.lasts)
        member.start()

    # Kills run in a thread: they poll for a batch of milliseconds, and the event loop has callers to serve.

    def _kill_all(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        if fault.kind == FaultKind.MACHINE_KILL:
            self._in_batch(member)
        broken.hit = self._clock()
        member.kill()

    def _kill_in_batch(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        victim = self._in_batch(member)
        working = member.working()
        if working is None:
            broken.note = "it was restarting"
            return
        if fault.kind == FaultKind.WORKER_KILL:
            victim = working.pid
        elif victim == working.pid:
            broken.note = "no model ran in a child process"
            return
        if victim is None:
            broken.note = f"it began no batch within {MID_BATCH:.0f} s"
            return
        broken.pids = (victim,)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            broken.hit = self._clock()

    def _in_batch(self, member: Member) -> int | None:
        """Wait until one of its processes has just begun a batch, and return its id: killing it then causes a redelivery."""
        end = time.monotonic() + MID_BATCH
        while time.monotonic() < end:
            files = {pid: model.account_of(self._account, pid) for pid in _pids(member.family())}
            before = {pid: _size(file) for pid, file in files.items()}
            again = time.monotonic() + LOOK_AGAIN
            while time.monotonic() < again:
                for pid, file in files.items():
                    if _size(file) > before[pid]:
                        return pid
                time.sleep(0.0005)
        return None

    async def _rebalance(self, fault: Fault, broken: InjectedFault, member: Member) -> None:
        if member.running:
            broken.note = "it was already running"
            return
        member.start()
        await asyncio.sleep(fault.lasts)
        broken.pids = _pids(member.family())
        member.terminate()
        await asyncio.to_thread(member.wait, 20.0)

    async def _network(self, fault: Fault, broken: InjectedFault) -> None:
        members = list(self._fleet.members.values()) if fault.target == "all" else [self._fleet.members[fault.target]]
        redis = fault.kind in {FaultKind.REDIS_DELAY, FaultKind.REDIS_DROP}
        found = [member.proxy if redis else member.kafka for member in members]
        proxies = [proxy for proxy in found if proxy is not None]
        if not proxies:
            broken.note = NO_PROXY if redis else NO_KAFKA_PROXY
            return
        if fault.kind in DROPS and fault.target.startswith("worker"):
            await asyncio.to_thread(self._in_batch, self._fleet.members[fault.target])
        for proxy in proxies:
            if fault.kind in DELAYS:
                proxy.delay += fault.amount
            else:
                proxy.cut = True
                proxy.drop()
        before = [process.pid for member in members for process in member.family()]
        await asyncio.sleep(fault.lasts)
        for proxy in proxies:
            if fault.kind in DELAYS:
                proxy.delay = max(0.0, proxy.delay - fault.amount)
            else:
                proxy.cut = False
        after = [process.pid for member in members for process in member.family()]
        broken.pids = tuple(sorted({*before, *after}))

    async def _command(self, fault: Fault, broken: InjectedFault) -> None:
        words = shlex.split(self._commands[fault.kind.removeprefix(COMMAND)])
        process = await asyncio.create_subprocess_exec(*words, start_new_session=True)
        try:
            async with asyncio.timeout(COMMAND_WITHIN):
                code = await process.wait()
            broken.note = f"the command exited with {code}" if code else ""
        except TimeoutError:
            process.kill()
            broken.note = f"the command did not end within {COMMAND_WITHIN:.0f} s"
        await self._see_loss(broken)

    async def _see_loss(self, broken: InjectedFault) -> None:
        """Note whether the store lost data; retries until it answers."""
        for _ in range(120):
            with contextlib.suppress(*TROUBLE):
                await self._store.mark(self._clock())
                broken.loses = any(at >= broken.began for at in self._store.losses)
                return
            await asyncio.sleep(0.5)
        broken.note = "the store did not come back"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _pids(processes: list[psutil.Process]) -> tuple[int, ...]:
    return tuple(process.pid for process in processes)
