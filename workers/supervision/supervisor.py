"""A small process that keeps one worker process alive and sends its heartbeats. It imports no framework.

It starts the worker, relays its heartbeats to the store even while the worker is too busy to send any, restarts it when it dies,
and sends Kafka's LeaveGroup for dead members: for its own worker at once, for another's after its silence (`peers`).

Invariants: the worker's id, and so its static membership, stays the same over restarts; while the worker process lives, its newest
heartbeat is repeated with a new time, until the worker is silent for too long and is killed; a dead member is removed before its
successor starts, which has the same id; a worker that exits with code 0 or 2 (stopped, misconfigured) is not restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from protocol.errors import CodecError, FleetError
from protocol.heartbeat_codec import decode_heartbeat
from protocol.messages import Heartbeat
from protocol.runtime.loop import pass_signals_on, spare_collector
from protocol.runtime.outages import Meanwhile
from protocol.runtime.tasks import BackgroundTasks
from protocol.transport import Transport, open_transport
from protocol.transport.settings import TransportSettings
from workers.context import runner_name
from workers.crash_journal import CrashJournalReader
from workers.settings import WorkerSettings, made_up_id, to_environment
from workers.supervision.peers import Peers
from workers.system import code_path, cpu_yield
from workers.system.backoff import Backoff
from workers.system.framing import frames

BEAT_INTERVAL: Final = 0.5
CALL_TIMEOUT: Final = 2.0
"""Seconds for one call of the store or the broker."""
WEDGED_AFTER: Final = 240
"""Beats of the supervisor without one of the worker (two minutes) after which a live worker is killed: its partitions went to
others long ago, and it does not recover on its own. Counted, not timed, so that a suspended machine kills no worker."""
KILL_AFTER: Final = 10.0
"""Seconds after the drain grace until a worker that has not exited is killed."""
INTERRUPTED: Final = 1.4
"""Seconds after SIGINT until a worker that has not exited is killed."""
NO_RESTART: Final = frozenset({0, 2})
"""Exit codes after which a restart would exit the same way."""

log = structlog.get_logger(__name__)


class Supervisor:
    """One worker process and its place in the fleet.

    Args:
        worker: the worker's id.
        command: starts the worker, which gets the pipe for its heartbeats in PENSTOCK_HEARTBEAT_FD.
        environment: of the worker process.
        transport: open.
        drain_grace: seconds that the worker may drain after SIGTERM.
        fence_ttl: seconds that the store keeps the attempts of requests that a dead worker was running.

    Attributes:
        wedged_after: beats without one of the worker after which it is killed.
        restarts: how often the worker was started again.
    """

    def __init__(
        self,
        worker: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        transport: Transport,
        drain_grace: float,
        fence_ttl: float = 300.0,
    ) -> None:
        self._worker = worker
        self._command = command
        self._environment = environment
        self._transport = transport
        self._drain_grace = drain_grace
        self._fence_ttl = fence_ttl
        self.wedged_after = WEDGED_AFTER
        self.restarts = 0
        self._journal: CrashJournalReader
        self._peers = Peers(worker)
        self._beat: Heartbeat | None = None
        self._missed = 0
        self._process: asyncio.subprocess.Process | None = None
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._interrupted = False
        self._tasks = BackgroundTasks("supervisor", worker=worker)

    @property
    def pid(self) -> int | None:
        """The worker process's number, while there is one."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let the worker drain and exit, and do not restart it. A second call cuts the draining short.

        Args:
            number: the signal for the worker. After SIGINT, from a terminal, it has only `INTERRUPTED` seconds.
        """
        self._asked.set()
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self._interrupted:
            self._hurry.set()
        self._signal(signal.Signals(number))

    async def run(self) -> int:
        """Keep the worker alive until `stop`; returns its exit code."""
        self._journal = CrashJournalReader()
        self._tasks.spawn(self._beat_forever())
        try:
            return await self._restart_forever()
        finally:
            await self._tasks.close()
            self._journal.close()

    # --- the process -------------------------------------------------------------------------------------------------

    async def _restart_forever(self) -> int:
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while True:
            started = loop.time()
            code = await self._run_once()
            if self._asked.is_set() or code in NO_RESTART:
                return code
            pause = backoff.after(loop.time() - started)
            log.error(
                "the worker process died; it is restarted",
                worker=self._worker,
                exit_code=code,
                pause=round(pause, 2),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()
            if self._asked.is_set():
                return code
            self.restarts += 1

    async def _run_once(self) -> int:
        """Start the worker and wait until it exits."""
        reader, writer = os.pipe()
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env={
                    **self._environment,
                    "PENSTOCK_WORKER": self._worker,
                    "PENSTOCK_HEARTBEAT_FD": str(writer),
                    "PENSTOCK_RESTARTS": str(self.restarts),
                    "PENSTOCK_JOURNAL_FD": str(self._journal.descriptor),
                },
                pass_fds=(writer, self._journal.descriptor),
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor, which passes it on
            )
        finally:
            os.close(writer)
        if self._asked.is_set():
            self._signal(signal.SIGINT if self._interrupted else signal.SIGTERM)
        reading = asyncio.get_running_loop().create_task(self._read_beats(reader))
        try:
            return await self._wait_for_exit(process)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            last, self._beat = self._beat, None
            await self._name_suspects("" if last is None else last.incarnation)
            if last is not None:
                await self._evict(last)

    async def _name_suspects(self, incarnation: str) -> None:
        """Begin an attempt for the requests that the dead worker was running, before their next owner gets the partitions."""
        suspects = self._journal.take_running()
        if not suspects:
            return
        log.warning("requests were running when the worker died; each runs alone next", requests=len(suspects))
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._transport.results.start(suspects, runner_name(self._worker, incarnation), self._fence_ttl)
        except (FleetError, TimeoutError) as exc:
            log.warning("their attempts could not be stored", error=str(exc) or "it took too long")

    async def _wait_for_exit(self, process: asyncio.subprocess.Process) -> int:
        waiting = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        await asyncio.wait((waiting, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        hurry = asyncio.ensure_future(self._hurry.wait())
        grace = self._drain_grace + KILL_AFTER
        done, _ = await asyncio.wait((waiting, hurry), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if hurry in done and waiting not in done:
            done, _ = await asyncio.wait((waiting,), timeout=INTERRUPTED)
        hurry.cancel()
        if waiting not in done:
            log.error("the worker does not exit; it is killed", worker=self._worker, pid=process.pid)
            self._signal(signal.SIGKILL)
        return await waiting

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read_beats(self, fd: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(fd, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                buffer += data
                for frame in frames(buffer):
                    self._take(frame)
        finally:
            transport.close()

    def _take(self, frame: bytes) -> None:
        self._missed = 0
        try:
            self._beat = decode_heartbeat(frame)
        except CodecError as exc:
            log.warning("the worker sent something that is not a heartbeat", error=exc.message)

    # --- the fleet ---------------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._kill_if_wedged()
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await self._beat_once(loop.time())
            except (FleetError, TimeoutError) as exc:
                self._peers.unreadable()
                log.warning("no heartbeat could be written or read", error=str(exc) or "it took too long")
            except Exception as exc:
                self._peers.unreadable()
                log.error("no heartbeat could be written or read", exc_info=exc)
            due = max(due + BEAT_INTERVAL, loop.time())
            await asyncio.sleep(due - loop.time())

    def _kill_if_wedged(self) -> None:
        """Kill a worker whose heartbeats have stopped: suspended, or deadlocked."""
        self._missed = self._missed + 1 if self._beat is not None and self.pid is not None else 0
        if self._missed > self.wedged_after:
            self._missed = 0
            log.error("the worker is alive and sends no heartbeats; it is killed", worker=self._worker, pid=self.pid)
            self._signal(signal.SIGKILL)

    async def _beat_once(self, now: float) -> None:
        transport, beat = self._transport, self._beat
        if beat is not None and self.pid is not None:
            cpu_yield.end()  # not earlier: Linux might then refuse the worker's own `begin`
            await transport.directory.beat(dataclasses.replace(beat, at=await transport.results.now()))
        wanted = self._peers.wanted(now)
        dead = self._peers.observe(await transport.directory.pulses(wanted), now, wanted)
        if dead:
            await self._evict_peers([pulse.worker for pulse in dead])

    async def _evict_peers(self, dead: Sequence[str]) -> None:
        """Begin to evict dead peers, whose groups their last heartbeats name."""
        try:
            beats = {beat.worker: beat for beat in await self._transport.directory.workers()}
        except BaseException:
            for worker in dead:
                self._peers.again(worker)
            raise
        for worker in dead:
            beat = beats.get(worker) or Heartbeat(worker, "", "", 0, 0.0)
            log.error(
                "a worker is silent; its partitions are given to the others",
                worker=worker,
                host=beat.host,
                pid=beat.pid,
            )
            self._tasks.spawn(self._evict(beat))

    async def _evict(self, dead: Heartbeat) -> None:
        """Give its partitions to the others at once, then delete its heartbeat."""
        await asyncio.gather(*[self._remove(group, dead.worker) for group in dead.members])
        with contextlib.suppress(FleetError, TimeoutError):
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._transport.directory.forget(dead.worker)

    async def _remove(self, group: str, worker: str) -> None:
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._transport.bus.evict(group, [worker])
        except (FleetError, TimeoutError) as exc:
            log.warning(
                "a dead member could not be removed", group=group, worker=worker, error=str(exc) or "it took too long"
            )


async def supervise(settings: WorkerSettings, transport: TransportSettings, command: Sequence[str] = ()) -> int:
    """Run a supervised worker until SIGTERM or SIGINT; returns its exit code.

    Args:
        settings: the worker's.
        transport: the fleet's.
        command: starts the worker from its environment; `python -m workers` if empty.

    Raises:
        Unavailable: the broker or the store did not answer in time.
    """
    settings = dataclasses.replace(settings, worker=settings.worker or made_up_id())
    async with open_transport(transport, Meanwhile("", "")) as carriers:  # the worker logs what it does meanwhile
        spare_collector()
        supervisor = Supervisor(
            settings.worker,
            command or tuple(code_path.run_module("workers")),
            {**code_path.with_code_path(os.environ), **to_environment(settings, transport)},
            carriers,
            settings.drain_grace,
            settings.fence_ttl,
        )
        pass_signals_on(supervisor.stop)
        code = await supervisor.run()
        return code if code >= 0 else 128 - code  # as a shell has it
